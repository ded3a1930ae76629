# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning with the quantisation of a version-1 file: quantisers follow the values' ranges.

A step uses the quantisers of the ranges before it, so that a fused kernel computes step, ranges and
quantisation in one pass over the memory. Version 2: grid_straight_through.py.
"""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from gaussian_compression.penalties import penalties_of
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
from gaussian_compression.trainable import ADAM_EPSILON, AdamSteps, Betas, StraightThrough
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters
from scene.view_batches import BETAS
from splat_codec.model_file import in_file_order
from splat_codec.quantizers import EvenGrids, Float16, Quantizer
from splat_codec.symbols import QuantizedSplats


class RangedStraightThrough(StraightThrough, Protocol):
    """A StraightThrough whose quantisers follow the values' ranges."""

    @property
    def ranges(self) -> ShRanges:
        """The ranges for the next step."""
        ...


def straight_through(
    raw: RawParameters,
    ranges: ShRanges,
    loss: FinetuneSettings,
    quantization: QuantizationSettings,
    operations: ArrayOperations,
) -> RangedStraightThrough:
    """The optimiser of `raw`, which is changed in place."""
    fused = operations.range_kernels is not None
    kind = KernelStraightThrough if fused else PlainStraightThrough
    return kind(raw, ranges, loss, quantization, operations)


def stored_symbols(
    raw: RawParameters, ranges: ShRanges, quantization: QuantizationSettings
) -> QuantizedSplats:
    """A model as a version-1 file will hold it."""
    return in_file_order(to_symbols(raw, quantizers_for(raw, ranges, quantization)))


class _Quantized:
    """What both optimisers below have in common: all but the step."""

    def __init__(
        self,
        raw: RawParameters,
        ranges: ShRanges,
        loss: FinetuneSettings,
        quantization: QuantizationSettings,
        operations: ArrayOperations,
    ) -> None:
        self._raw, self._quantization = raw, quantization
        self.penalties = penalties_of(loss, raw, operations)
        self._buffers = raw.map(torch.empty_like)
        self.ranges = ranges
        self.seen = self._quantize()

    @property
    def coded(self) -> RawParameters:
        """See Trainable. The published penalty acts on the quantised values."""
        return self.seen

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """See Trainable."""
        return gradients

    def stored(self) -> QuantizedSplats:
        """See StraightThrough."""
        return stored_symbols(self._raw, self.ranges, self._quantization)

    def _quantize(self) -> RawParameters:
        quantizers = quantizers_for(self._raw, self.ranges, self._quantization)
        return quantize_into(self._raw, quantizers, self._buffers)


class PlainStraightThrough(_Quantized):
    """In PyTorch operations, on any device."""

    def __init__(
        self,
        raw: RawParameters,
        ranges: ShRanges,
        loss: FinetuneSettings,
        quantization: QuantizationSettings,
        operations: ArrayOperations,
    ) -> None:
        super().__init__(raw, ranges, loss, quantization, operations)
        self._adam = AdamSteps(raw, operations)

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        """See Trainable."""
        self._adam(gradients, rates, betas)
        self.seen, observed = self._quantize(), initial_ranges(self._raw)
        self.ranges = moved_ranges(self.ranges, observed, self._quantization.range_momentum)


class KernelStraightThrough(_Quantized):
    """In a fused kernel: the values of PlainStraightThrough, up to rounding."""

    def __init__(
        self,
        raw: RawParameters,
        ranges: ShRanges,
        loss: FinetuneSettings,
        quantization: QuantizationSettings,
        operations: ArrayOperations,
    ) -> None:
        super().__init__(raw, ranges, loss, quantization, operations)
        self._kernels = cast(Any, operations.range_kernels)
        self._moments = raw.map(torch.zeros_like), raw.map(torch.zeros_like)
        self._steps = 0

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        """See Trainable."""
        self._steps += 1
        quantizers = quantizers_for(self._raw, self.ranges, self._quantization)
        states = [
            self._state(name, gradient, quantizers[name], rates[name])
            for name, gradient in gradients.named()
        ]
        found = self._kernels.straight_through_step(states, self._steps, betas, ADAM_EPSILON)
        by_name = dict(zip(RawParameters._fields, found, strict=True))
        positions = position_quantizer(self._raw.xyz, self._quantization.position_bits)
        self.seen = self.seen._replace(xyz=quantized(self._raw.xyz, positions, self._buffers.xyz))
        observed = ShRanges(Range(*by_name["features_dc"]), Range(*by_name["features_rest"]))
        self.ranges = moved_ranges(self.ranges, observed, self._quantization.range_momentum)

    def _state(self, name: str, gradient: Tensor, quantizer: Quantizer, rate: float) -> tuple:
        kernels = self._kernels
        moments = (getattr(moment, name) for moment in self._moments)
        state = kernels.AdamState(getattr(self._raw, name), gradient, *moments, rate)
        match quantizer:
            case Float16():
                return kernels.QuantizedState(state, getattr(self._buffers, name), None)
            case EvenGrids(minimum=(minimum,), step=(step,), levels=levels):
                grid = kernels.EvenGrid(minimum, step, levels)
                return kernels.QuantizedState(state, getattr(self._buffers, name), grid)
        # float32, or a grid with bounds for each axis: positions, which `apply` quantises itself.
        return kernels.QuantizedState(state, None, None)
