# SPDX-License-Identifier: Apache-2.0
"""Fake quantisation: fine-tuning renders exactly the values that the file will hold.

The published code trains with one rounding and stores with another. Here the quantisers are those
of the codec; PyTorch computes the same float32 operations as the decoder, and a test checks that
the results are bit-identical.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaussian_compression.settings import QuantizationSettings
from scene.raw_parameters import RawParameters
from splat_codec.quantizers import (
    EvenGrids,
    Float16,
    Float32,
    Quantizer,
    affine_with_zero,
    grid_over,
)
from splat_codec.symbols import QuantizedAttribute, QuantizedSplats
from splat_formats.design_grids import robust_box
from splat_formats.splats import FloatArray

HALF_LIMIT = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Range:
    """The interval that a quantiser covers."""

    low: float
    high: float

    def moved_towards(self, observed: "Range", momentum: float) -> "Range":
        """The moving averages of both ends after one more observation."""
        return Range(
            self.low + momentum * (observed.low - self.low),
            self.high + momentum * (observed.high - self.high),
        )


@dataclass(frozen=True)
class ShRanges:
    """Moving-average ranges of the two groups of SH coefficients."""

    dc: Range
    rest: Range


def observed_range(values: Tensor) -> Range:
    """Least and greatest of `values`; [0, 0] if there are none."""
    if not values.numel():
        return Range(0.0, 0.0)
    low, high = torch.aminmax(values)
    return Range(float(low), float(high))


def initial_ranges(raw: RawParameters) -> ShRanges:
    """The ranges of the model's present values."""
    return ShRanges(observed_range(raw.features_dc), observed_range(raw.features_rest))


def moved_ranges(ranges: ShRanges, observed: ShRanges, momentum: float) -> ShRanges:
    """The moving averages of both ranges after one more observation."""
    return ShRanges(
        ranges.dc.moved_towards(observed.dc, momentum),
        ranges.rest.moved_towards(observed.rest, momentum),
    )


def quantizers_for(
    raw: RawParameters, ranges: ShRanges, settings: QuantizationSettings
) -> dict[str, Quantizer]:
    """Each attribute's quantiser in the preset fast3dgs."""
    levels = 2**settings.sh_bits
    return {
        "xyz": position_quantizer(raw.xyz, settings.position_bits),
        "opacity": Float16(),
        "scaling": Float16(),
        "rotation": Float16(),
        "features_dc": affine_with_zero(ranges.dc.low, ranges.dc.high, levels),
        "features_rest": affine_with_zero(ranges.rest.low, ranges.rest.high, levels),
    }


def position_quantizer(xyz: Tensor, bits: int) -> Quantizer:
    """float32 for 32 bits, else a grid over the bounding box of the positions."""
    if bits == 32:
        return Float32()
    low, high = (bound.cpu().numpy() for bound in torch.aminmax(xyz, dim=0))
    return grid_over(low, high, bits)


def box_warnings(xyz: FloatArray, bits: int) -> list[str]:
    """Warnings about a grid of `bits` over positions (N, 3), in sentences."""
    if bits == 32 or not len(xyz):
        return []
    low, high = robust_box(xyz)
    coarser = float((np.ptp(xyz, axis=0) / np.maximum(high - low, np.float32(1e-30))).max())
    if coarser < 2:
        return []
    beyond = int(np.count_nonzero(((xyz < low) | (xyz > high)).any(axis=1)))
    return [
        f"centres far from all others ({beyond:,}) make the grid of --position_bits {bits} "
        f"{coarser:.3g} times as coarse: --position_bits 32 stores positions exactly"
    ]


def quantize_into(
    raw: RawParameters, quantizers: Mapping[str, Quantizer], out: RawParameters
) -> RawParameters:
    """The decoded values of `raw`, in `out`; attributes stored as float32 are those of `raw`."""
    return RawParameters(
        *(
            quantized(tensor, quantizers[name], target)
            for (name, tensor), target in zip(raw.named(), out, strict=True)
        )
    )


def quantized(values: Tensor, quantizer: Quantizer, out: Tensor) -> Tensor:
    """The decoded values of one tensor, in `out`; `values` itself if it is stored as float32."""
    if isinstance(quantizer, Float32):
        return values
    if isinstance(quantizer, Float16):
        return out.copy_(values.clamp(-HALF_LIMIT, HALF_LIMIT).half())
    return _on_grid(values, quantizer, out)


def _on_grid(values: Tensor, grid: EvenGrids, out: Tensor) -> Tensor:
    """The operations of EvenGrids.quantize and .dequantize, in the same order and precision."""
    minimum, step = values.new_tensor(grid.minimum), values.new_tensor(grid.step)
    torch.sub(values, minimum, out=out)
    return out.div_(step).round_().clamp_(0, grid.levels - 1).mul_(step).add_(minimum)


def to_symbols(raw: RawParameters, quantizers: Mapping[str, Quantizer]) -> QuantizedSplats:
    """The model as the integers to store."""
    attributes = {}
    for name in quantizers:
        rows = getattr(raw, name).detach().cpu().flatten(1).numpy()
        attributes[name] = QuantizedAttribute(quantizers[name].quantize(rows), quantizers[name])
    return QuantizedSplats(raw.sh_degree, attributes)
