# SPDX-License-Identifier: Apache-2.0
"""Bytes of a model by attribute at quality high, and the gain of each part of the codec."""

from dataclasses import replace

import numpy as np

from splat_codec.attribute_sizes import bytes_by_attribute, code_lengths
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import MATRIX_UNIT, Transform
from splat_codec.shared_sh import NONE_SHARED
from splat_formats.design_grids import QUALITIES, GridSteps, quantize_splats
from splat_formats.repeated_sh import with_shared_sh
from splat_formats.snap_to_grids import higher_sh
from splat_formats.splats import Splats


def measure_parts(splats: Splats) -> dict[str, dict[str, float]]:
    """Bytes by attribute with the whole codec and without parts of it; prints them."""
    high = QUALITIES["high"]
    model = quantize_splats(splats, high).splats
    rows = {"as it is": bytes_by_attribute(model)}
    rows["one layer"] = bytes_by_attribute(_quantized(splats, layer_fraction=0.0))
    rows["no colour or SH transform"] = bytes_by_attribute(_untransformed(splats, high))
    rows["same precision for all"] = bytes_by_attribute(_quantized(splats, weight_exponent=0.0))
    for label, row in rows.items():
        sizes = {name: size / splats.count for name, size in row.items()}
        parts = ", ".join(f"{name} {size:.2f}" for name, size in sizes.items())
        print(f"  {label}: {sum(sizes.values()):.2f} ({parts})", flush=True)
    saved = saved_by_contexts(model)
    print(f"  contexts save {saved:.2f} bytes per Gaussian against one histogram a plane")
    return {**rows, "saved by contexts": {"all": saved}}


def saved_by_contexts(model: GridSplats) -> float:
    """Bytes per Gaussian with one histogram a plane, minus those of the file."""
    saved = 0.0
    for _, counts, bits in code_lengths(model):
        total = counts.sum(axis=0)
        used = total > 0
        alone = -(total[used] * np.log2(total[used] / total.sum())).sum()
        saved += float(alone) - bits
    return saved / 8 / model.count


def _quantized(splats: Splats, **changes: float) -> GridSplats:
    precision: GridSteps = replace(QUALITIES["high"], **changes)  # type: ignore[arg-type]
    return quantize_splats(splats, precision).splats


def _untransformed(splats: Splats, precision: GridSteps) -> GridSplats:
    """The model with SH integers that are not transformed."""
    quantized = quantize_splats(splats, precision)
    model = quantized.splats
    channels = model.grids.sh_channels
    identity = (np.eye(channels) * MATRIX_UNIT).astype(np.int16)
    steps = np.array(model.grids.sh_steps)[model.precision, None] * MATRIX_UNIT
    sh = higher_sh(splats)[quantized.order]
    scaled = sh / steps
    magnitude = np.floor(np.abs(scaled) + 1 - precision.deadzone)
    grids = replace(model.grids, sh_transform=Transform(identity))
    symbols = np.copysign(magnitude, scaled).astype(np.int16)
    return with_shared_sh(replace(model, grids=grids, sh=symbols, shared=NONE_SHARED), sh)
