# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: training without densification and without opacity resets."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

import torch
from torch import Tensor

from gaussian_compression.quantize import (
    ShRanges,
    initial_ranges,
    quantize_into,
    quantizers_for,
)
from gaussian_compression.settings import (
    CONSTANT_RATES,
    FinetuneSettings,
    QuantizationSettings,
    RateCourse,
)
from gaussian_compression.trainable import Trainable, take_step
from gaussian_renderer.backend import Differentiate
from gaussian_renderer.view_gradients import mean_gradients
from scene.cameras import Camera, announce
from scene.photo_cache import AHEAD
from scene.raw_parameters import RawParameters
from utils import ranks


@dataclass
class TrainableModel:
    """Full-precision parameters, trained in place."""

    raw: RawParameters
    ranges: ShRanges | None
    """The ranges of version 1's quantisers; None where rounds train in full precision."""

    @classmethod
    def start_from(
        cls, raw: RawParameters, quantization: QuantizationSettings | None
    ) -> "TrainableModel":
        """A model; if it has quantisers, their ranges are those of its values."""
        return cls(raw, None if quantization is None else initial_ranges(raw))

    def seen(self, settings: QuantizationSettings | None) -> RawParameters:
        """The values that rounds render: the decoded ones where rounds quantise."""
        if settings is None or self.ranges is None:
            return self.raw
        out = self.raw.map(torch.empty_like)
        return quantize_into(self.raw, quantizers_for(self.raw, self.ranges, settings), out)


@dataclass(frozen=True)
class Finetuner:
    """Everything that a fine-tuning needs except the model."""

    differentiate: Differentiate
    extent: float
    """Radius of the training cameras, world units (contract: `cameras_extent`)."""
    loss: FinetuneSettings

    def run(
        self,
        model: Trainable,
        views: Sequence[Camera],
        iterations: int,
        order: random.Random,
        on_iteration: Callable[[Tensor], None],
        course: RateCourse = CONSTANT_RATES,
    ) -> None:
        """Train `model` for `iterations` views, drawn without replacement in each pass over them.

        A step takes as many views as there are ranks. `on_iteration` gets the photometric loss of
        each.
        """
        gradients = model.seen.map(torch.empty_like)
        drawn, together = _endless_epochs(views, order), ranks.count()
        for done in range(0, iterations, together):
            step = list(islice(drawn, min(together, iterations - done)))
            pairs = [(self.differentiate, view) for view in step]
            losses = mean_gradients(pairs, model.seen, gradients, attrgetter("loss"))
            rates = self.rates(course, left=1 - done / iterations)
            take_step(model, gradients, rates, len(step))
            for loss in losses:
                on_iteration(loss)

    def rates(self, course: RateCourse, left: float) -> dict[str, float]:
        """Learning rates by tensor name; `left` (1 to 0) is the fraction of iterations to do."""
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
        for place, view in enumerate(epoch):
            announce(epoch[place : place + 1 + AHEAD])
            yield view
