# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning with the quantisers in the loop, and nothing densified or reset."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from gaussian_compression.quantize import (
    ShRanges,
    initial_ranges,
    quantize_into,
    quantizers_for,
)
from gaussian_compression.settings import (
    NO_RESTART,
    FinetuneSettings,
    QuantizationSettings,
    WarmRestart,
)
from gaussian_compression.straight_through import StraightThrough
from gaussian_renderer.view_gradient import Differentiate
from scene.cameras import Camera
from scene.raw_parameters import RawParameters


@dataclass
class TrainableModel:
    """Full-precision parameters, trained in place, and the ranges that their quantisers follow."""

    raw: RawParameters
    ranges: ShRanges

    @classmethod
    def start_from(cls, raw: RawParameters) -> "TrainableModel":
        """A model whose ranges are those of its values."""
        return cls(raw, initial_ranges(raw))

    def decoded(self, settings: QuantizationSettings) -> RawParameters:
        """The values that the file would give back now."""
        out = self.raw.map(torch.empty_like)
        return quantize_into(self.raw, quantizers_for(self.raw, self.ranges, settings), out)


@dataclass(frozen=True)
class RateCourse:
    """How learning rates move, log-linearly: from `start` to `end` x their constant values."""

    start: WarmRestart = NO_RESTART
    end: float = 1.0


CONSTANT_RATES = RateCourse()


@dataclass(frozen=True)
class Finetuner:
    """Everything a fine-tuning needs but the model."""

    differentiate: Differentiate
    extent: float
    """Radius of the training cameras, world units (contract: `cameras_extent`)."""
    loss: FinetuneSettings

    def run(
        self,
        optimizer: StraightThrough,
        views: Sequence[Camera],
        iterations: int,
        order: random.Random,
        on_iteration: Callable[[float], None],
        course: RateCourse = CONSTANT_RATES,
    ) -> None:
        """Train what `optimizer` holds for `iterations` views drawn without replacement.

        `on_iteration` gets the photometric loss.
        """
        gradients = optimizer.seen.map(torch.empty_like)
        for done, view in zip(range(iterations), _endless_epochs(views, order), strict=False):
            loss = self.differentiate(view, optimizer.seen, gradients).loss
            optimizer.step(gradients, self.rates(course, left=1 - done / iterations))
            on_iteration(loss)

    def rates(self, course: RateCourse, left: float) -> dict[str, float]:
        """Learning rates by tensor name when the part `left` (1 to 0) of the iterations is left."""
        end = course.end ** (1 - left)
        factor = end * course.start.rate_factor**left
        position_factor = end * course.start.position_rate_factor**left
        return {
            "xyz": self.loss.position_lr * self.extent * position_factor,
            "features_dc": self.loss.feature_lr * factor,
            "features_rest": self.loss.feature_rest_lr * factor,
            "opacity": self.loss.opacity_lr * factor,
            "scaling": self.loss.scaling_lr * factor,
            "rotation": self.loss.rotation_lr * factor,
        }


def _endless_epochs(views: Sequence[Camera], order: random.Random) -> Iterator[Camera]:
    while True:
        epoch = list(views)
        order.shuffle(epoch)
        yield from epoch
