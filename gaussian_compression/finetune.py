# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning with the quantisers in the loop, and nothing densified, reset or scheduled."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from gaussian_compression.quantize import (
    ShRanges,
    initial_ranges,
    moved_ranges,
    quantize_into,
    quantizers_for,
)
from gaussian_compression.settings import FinetuneSettings, QuantizationSettings
from gaussian_renderer.view_gradient import Differentiate
from scene.cameras import Camera
from scene.kernel_adam import adam
from scene.raw_parameters import RawParameters

ADAM_EPSILON = 1e-15


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
class Finetuner:
    """Everything a fine-tuning needs but the model."""

    differentiate: Differentiate
    extent: float
    """Radius of the training cameras, world units (contract: `cameras_extent`)."""
    loss: FinetuneSettings
    quantization: QuantizationSettings

    def run(
        self,
        model: TrainableModel,
        views: Sequence[Camera],
        iterations: int,
        order: random.Random,
        on_iteration: Callable[[float], None],
    ) -> None:
        """Train `model` in place for `iterations` views drawn without replacement.

        A fresh Adam every time: the published method throws the moments away at each pruning.
        Gradients of the quantised values are applied to the full-precision ones (straight-through
        estimator, Bengio et al. 2013). `on_iteration` gets the loss.
        """
        optimizer = self._optimizer(model.raw)
        gradients, decoded = model.raw.map(torch.empty_like), model.raw.map(torch.empty_like)
        for parameter, gradient in zip(model.raw, gradients, strict=True):
            parameter.grad = gradient
        for _, view in zip(range(iterations), _endless_epochs(views, order), strict=False):
            model.ranges = moved_ranges(model.ranges, model.raw, self.quantization.range_momentum)
            quantizers = quantizers_for(model.raw, model.ranges, self.quantization)
            seen = quantize_into(model.raw, quantizers, decoded)
            loss = self.differentiate(view, seen, gradients).loss
            self._add_sparsity_gradient(seen, gradients)
            optimizer.step()
            on_iteration(loss)
        for parameter in model.raw:
            parameter.grad = None

    def _optimizer(self, raw: RawParameters) -> torch.optim.Optimizer:
        rates = {
            "xyz": self.loss.position_lr * self.extent,
            "features_dc": self.loss.feature_lr,
            "features_rest": self.loss.feature_rest_lr,
            "opacity": self.loss.opacity_lr,
            "scaling": self.loss.scaling_lr,
            "rotation": self.loss.rotation_lr,
        }
        groups = [{"params": [p], "lr": rates[name]} for name, p in raw.named() if p.numel()]
        return adam(groups, ADAM_EPSILON)

    def _add_sparsity_gradient(self, seen: RawParameters, gradients: RawParameters) -> None:
        """Gradient of sh_sparsity x mean |f_rest|."""
        coefficients = seen.features_rest
        if self.loss.sh_sparsity and coefficients.numel():
            weight = self.loss.sh_sparsity / coefficients.numel()
            gradients.features_rest.add_(coefficients.sign(), alpha=weight)


def _endless_epochs(views: Sequence[Camera], order: random.Random) -> Iterator[Camera]:
    while True:
        epoch = list(views)
        order.shuffle(epoch)
        yield from epoch
