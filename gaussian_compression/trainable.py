# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning trains: parameters, the values rendered from them, and the optimiser step.

A step has three parts: the gradients of the rendered values become gradients of the coded ones;
penalties add theirs; Adam updates the parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from gaussian_compression.penalties import Penalty, penalties_of
from gaussian_compression.settings import FinetuneSettings
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters
from scene.view_batches import BETAS, betas_of, rate_factor
from splat_codec.grid_splats import GridSplats
from splat_codec.symbols import QuantizedSplats

ADAM_EPSILON = 1e-15
Betas = tuple[float, float]


class Trainable(Protocol):
    """An optimiser bound to one model."""

    @property
    def seen(self) -> RawParameters:
        """The values to render, at which the next gradient is taken."""
        ...

    @property
    def coded(self) -> RawParameters:
        """The values that penalties act on, in the basis in which the file codes them."""
        ...

    @property
    def penalties(self) -> Sequence[Penalty]:
        """The terms that are added to the photometric loss."""
        ...

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """Gradients of `seen` as gradients of `coded`; `gradients` may be overwritten."""
        ...

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        """Update parameters, moments and `seen`, with gradients of `coded`.

        `rates`: learning rates by tensor name. `betas`: decay rates of the moments.
        """
        ...


class StraightThrough(Trainable, Protocol):
    """A Trainable that renders quantised values, those that its file will hold.

    Gradients are taken at the quantised values and applied to the full-precision ones
    (straight-through estimator, Bengio et al. 2013).
    """

    def stored(self) -> QuantizedSplats | GridSplats:
        """The model as its file will hold it, in file order: the values of `seen` in integers."""
        ...


def take_step(
    model: Trainable, gradients: RawParameters, rates: Mapping[str, float], views: int = 1
) -> None:
    """One step from the photometric loss's gradients of `seen`, which it overwrites.

    They are means over this number of views; `rates` are for one view (see view_batches.py).
    """
    by_coded = model.pull_back(gradients)
    for penalty in model.penalties:
        penalty.add(model.coded, by_coded)
    if views > 1:
        factor = rate_factor(views)
        rates = {name: factor * rate for name, rate in rates.items()}
    model.apply(by_coded, rates, betas_of(views))


class AdamSteps:
    """Adam on six tensors, in place, each with its own learning rate."""

    def __init__(self, parameters: RawParameters, operations: ArrayOperations) -> None:
        # New leaves in the same memory, so that the caller's tensors keep no gradients.
        self._leaves = parameters.map(torch.Tensor.detach)
        leaves = [(name, leaf) for name, leaf in self._leaves.named() if leaf.numel()]
        groups = [{"params": [leaf], "name": name} for name, leaf in leaves]
        self._optimizer = operations.adam(groups, ADAM_EPSILON)

    def __call__(self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas) -> None:
        """One step."""
        for leaf, gradient in zip(self._leaves, gradients, strict=True):
            leaf.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = rates[group["name"]]
            group["betas"] = betas
        self._optimizer.step()


class FullPrecision:
    """A Trainable that renders its parameters as they are, in float32."""

    def __init__(
        self,
        raw: RawParameters,
        loss: FinetuneSettings,
        operations: ArrayOperations,
        opacity_decay: float = 0.0,
    ) -> None:
        """`raw` is changed in place. `opacity_decay`: see RateCourse."""
        self.seen = self.coded = raw
        self._opacity_decay = opacity_decay
        self.penalties = penalties_of(loss, raw, operations)
        self._adam = AdamSteps(raw, operations)

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """See Trainable."""
        return gradients

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        """See Trainable."""
        self._adam(gradients, rates, betas)
        if self._opacity_decay:
            self.seen.opacity.sub_(self._opacity_decay * rates["opacity"])
