# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning trains: parameters, what the images show of them, and the step between both.

A step has three parts: the gradients by what is seen become gradients by what is coded; penalties
add theirs; Adam moves the parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from gaussian_compression.penalties import Penalty, sh_sparsity
from gaussian_compression.settings import FinetuneSettings
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters
from splat_codec.grid_splats import GridSplats
from splat_codec.symbols import QuantizedSplats

ADAM_EPSILON = 1e-15


class Trainable(Protocol):
    """An optimiser bound to one model."""

    @property
    def seen(self) -> RawParameters:
        """What to render, and where the next gradient belongs."""
        ...

    @property
    def coded(self) -> RawParameters:
        """The values that penalties act on, in the basis in which the file codes them."""
        ...

    @property
    def penalties(self) -> Sequence[Penalty]:
        """What is added to the photometric loss."""
        ...

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """Gradients by `seen` as gradients by `coded`; `gradients` may be overwritten."""
        ...

    def apply(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """Update parameters, moments and `seen`, with gradients by `coded`.

        `rates`: learning rates by tensor name.
        """
        ...


class StraightThrough(Trainable, Protocol):
    """One whose model is seen quantised, as its file will hold it.

    Gradients are taken at the quantised values and applied to the full-precision ones
    (straight-through estimator, Bengio et al. 2013).
    """

    def stored(self) -> QuantizedSplats | GridSplats:
        """The model as its file will hold it, in file order: the values of `seen` in integers."""
        ...


def take_step(model: Trainable, gradients: RawParameters, rates: Mapping[str, float]) -> None:
    """One step from the photometric loss's `gradients` by what is seen, which it overwrites."""
    by_coded = model.pull_back(gradients)
    for penalty in model.penalties:
        penalty.add(model.coded, by_coded)
    model.apply(by_coded, rates)


class AdamSteps:
    """Adam on six tensors, in place, with a learning rate each."""

    def __init__(self, parameters: RawParameters, operations: ArrayOperations) -> None:
        # Leaves of their own over the same memory: the caller's tensors keep no gradients.
        self._leaves = parameters.map(torch.Tensor.detach)
        leaves = [(name, leaf) for name, leaf in self._leaves.named() if leaf.numel()]
        groups = [{"params": [leaf], "name": name} for name, leaf in leaves]
        self._optimizer = operations.adam(groups, ADAM_EPSILON)

    def __call__(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """One step."""
        for leaf, gradient in zip(self._leaves, gradients, strict=True):
            leaf.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        self._optimizer.step()


class FullPrecision:
    """A model that is seen as it is, in float32."""

    def __init__(
        self, raw: RawParameters, loss: FinetuneSettings, operations: ArrayOperations
    ) -> None:
        """`raw` is changed in place."""
        self.seen = self.coded = raw
        self.penalties = sh_sparsity(loss, raw, operations)
        self._adam = AdamSteps(raw, operations)

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """See Trainable."""
        return gradients

    def apply(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """See Trainable."""
        self._adam(gradients, rates)
