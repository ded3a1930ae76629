# SPDX-License-Identifier: Apache-2.0
"""The optimiser of fine-tuning: Adam on full-precision parameters that are seen quantised.

Gradients are taken at the quantised values and applied to the full-precision ones (straight-through
estimator, Bengio et al. 2013). Here for version 1 of the file, whose quantisers follow the values'
ranges; those of a step come from the ranges before it, so that step, ranges and quantisation are
one pass over the memory where the kernel package offers it. Version 2: grid_straight_through.py.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from gaussian_compression.quantize import (
    Range,
    ShRanges,
    initial_ranges,
    moved_ranges,
    position_quantizer,
    quantize_into,
    quantized,
    quantizers_for,
    to_symbols,
)
from gaussian_compression.settings import FinetuneSettings, QuantizationSettings
from scene.kernel_adam import adam
from scene.raw_parameters import RawParameters
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import in_file_order
from splat_codec.quantizers import Float16, Quantizer, Uniform
from splat_codec.symbols import QuantizedSplats
from utils.optional_modules import installed

ADAM_EPSILON = 1e-15
KERNEL_MODULE = "diff_gaussian_rasterization.straight_through"


class StraightThrough(Protocol):
    """An optimiser bound to one model."""

    @property
    def seen(self) -> RawParameters:
        """The quantised values: what to render, and where the next gradient belongs."""
        ...

    def step(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """Update parameters, moments and `seen`; `gradients` may be changed.

        `rates`: learning rates by tensor name.
        """
        ...

    def stored(self) -> QuantizedSplats | GridSplats:
        """The model as its file will hold it, in file order: the values of `seen` in integers."""
        ...


class RangedStraightThrough(StraightThrough, Protocol):
    """One whose quantisers follow the values' ranges."""

    @property
    def ranges(self) -> ShRanges:
        """Of the next step."""
        ...


def straight_through(
    raw: RawParameters,
    ranges: ShRanges,
    loss: FinetuneSettings,
    quantization: QuantizationSettings,
) -> RangedStraightThrough:
    """The optimiser of `raw`, which it changes in place."""
    on_cpu = raw.xyz.device.type == "cpu"
    kind = KernelStraightThrough if on_cpu and installed(KERNEL_MODULE) else PlainStraightThrough
    return kind(raw, ranges, loss, quantization)


def stored_symbols(
    raw: RawParameters, ranges: ShRanges, quantization: QuantizationSettings
) -> QuantizedSplats:
    """A model as a version-1 file will hold it."""
    return in_file_order(to_symbols(raw, quantizers_for(raw, ranges, quantization)))


class PlainStraightThrough:
    """In PyTorch operations, on any device."""

    def __init__(
        self,
        raw: RawParameters,
        ranges: ShRanges,
        loss: FinetuneSettings,
        quantization: QuantizationSettings,
    ) -> None:
        self._raw, self._sparsity, self._quantization = raw, loss.sh_sparsity, quantization
        # Leaves of their own over the same memory: the caller's tensors keep no gradients.
        self._leaves = RawParameters(*(tensor.detach() for tensor in raw))
        leaves = [(name, leaf) for name, leaf in self._leaves.named() if leaf.numel()]
        groups = [{"params": [leaf], "name": name} for name, leaf in leaves]
        self._optimizer = adam(groups, ADAM_EPSILON)
        self._buffers = raw.map(torch.empty_like)
        self.ranges = ranges
        self.seen = self._quantize()

    def step(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """See StraightThrough. Adds the sparsity's part to `gradients`."""
        rest = self.seen.features_rest
        if self._sparsity and rest.numel():
            gradients.features_rest.add_(rest.sign(), alpha=self._sparsity / rest.numel())
        for leaf, gradient in zip(self._leaves, gradients, strict=True):
            leaf.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        self._optimizer.step()
        self.seen, observed = self._quantize(), initial_ranges(self._raw)
        self.ranges = moved_ranges(self.ranges, observed, self._quantization.range_momentum)

    def stored(self) -> QuantizedSplats:
        """See StraightThrough."""
        return stored_symbols(self._raw, self.ranges, self._quantization)

    def _quantize(self) -> RawParameters:
        quantizers = quantizers_for(self._raw, self.ranges, self._quantization)
        return quantize_into(self._raw, quantizers, self._buffers)


class KernelStraightThrough:
    """By the rasteriser package's fused kernel: the plain one's values, up to rounding."""

    def __init__(
        self,
        raw: RawParameters,
        ranges: ShRanges,
        loss: FinetuneSettings,
        quantization: QuantizationSettings,
    ) -> None:
        self._raw, self._quantization = raw, quantization
        self._sparsity = loss.sh_sparsity / max(1, raw.features_rest.numel())
        self._moments = raw.map(torch.zeros_like), raw.map(torch.zeros_like)
        self._buffers = raw.map(torch.empty_like)
        self._steps = 0
        self.ranges = ranges
        quantizers = quantizers_for(raw, ranges, quantization)
        self.seen = quantize_into(raw, quantizers, self._buffers)

    def step(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """See StraightThrough."""
        from diff_gaussian_rasterization.straight_through import straight_through_step

        self._steps += 1
        quantizers = quantizers_for(self._raw, self.ranges, self._quantization)
        states = [
            self._state(name, gradient, quantizers[name], rates[name])
            for name, gradient in gradients.named()
        ]
        found = straight_through_step(states, self._steps, eps=ADAM_EPSILON)
        by_name = dict(zip(RawParameters._fields, found, strict=True))
        positions = position_quantizer(self._raw.xyz, self._quantization.position_bits)
        self.seen = self.seen._replace(xyz=quantized(self._raw.xyz, positions, self._buffers.xyz))
        observed = ShRanges(Range(*by_name["features_dc"]), Range(*by_name["features_rest"]))
        self.ranges = moved_ranges(self.ranges, observed, self._quantization.range_momentum)

    def stored(self) -> QuantizedSplats:
        """See StraightThrough."""
        return stored_symbols(self._raw, self.ranges, self._quantization)

    def _state(self, name: str, gradient: Tensor, quantizer: Quantizer, rate: float) -> tuple:
        from diff_gaussian_rasterization.adam import AdamState
        from diff_gaussian_rasterization.straight_through import Grid, QuantizedState

        moments = (getattr(moment, name) for moment in self._moments)
        state = AdamState(getattr(self._raw, name), gradient, *moments, rate)
        match quantizer:
            case Float16():
                return QuantizedState(state, getattr(self._buffers, name), None)
            case Uniform(minimum=(minimum,), step=(step,), levels=levels):
                sparsity = self._sparsity if name == "features_rest" else 0.0
                grid = Grid(minimum, step, levels)
                return QuantizedState(state, getattr(self._buffers, name), grid, sparsity)
        # Exact, or a grid with one box an axis: positions, which `step` quantises itself.
        return QuantizedState(state, None, None)
