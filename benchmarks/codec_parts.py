# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a model are at quality high, and what each part of the codec gives."""

from dataclasses import replace

import numpy as np

from splat_codec.attribute_sizes import bytes_by_attribute
from splat_codec.grid_file import record_layers
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import MATRIX_UNIT, Transform
from splat_codec.histograms import design_tables
from splat_formats.design_grids import QUALITIES, GridSteps, quantize_splats
from splat_formats.splats import Splats


def measure_parts(splats: Splats) -> dict[str, dict[str, float]]:
    """Bytes by attribute as it is, and with parts of the codec taken away; prints both."""
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
    """Bytes per Gaussian: each plane under one histogram, less the real."""
    saved = 0.0
    counts = record_layers(model).families.counts()
    tables = design_tables(counts)
    first = 0
    for _, plane in counts:
        rows = tables.frequencies[tables.context_map[first : first + len(plane)]]
        first += len(plane)
        total = plane.sum(axis=0)
        used = total > 0
        alone = -(total[used] * np.log2(total[used] / total.sum())).sum()
        met = plane > 0
        saved += alone + (plane[met] * np.log2(rows[met] / 4096)).sum()
    return float(saved) / 8 / model.count


def _quantized(splats: Splats, **changes: float) -> GridSplats:
    precision: GridSteps = replace(QUALITIES["high"], **changes)  # type: ignore[arg-type]
    return quantize_splats(splats, precision).splats


def _untransformed(splats: Splats, precision: GridSteps) -> GridSplats:
    """The model with the nearest integers of the channels themselves."""
    quantized = quantize_splats(splats, precision)
    model = quantized.splats
    channels = model.grids.sh_channels
    identity = (np.eye(channels) * MATRIX_UNIT).astype(np.int16)
    steps = np.array(model.grids.sh_steps)[model.precision, None] * MATRIX_UNIT
    scaled = splats.features_rest.reshape(splats.count, -1)[quantized.order] / steps
    magnitude = np.floor(np.abs(scaled) + 1 - precision.deadzone)
    grids = replace(model.grids, sh_transform=Transform(identity))
    return replace(model, grids=grids, sh=np.copysign(magnitude, scaled).astype(np.int16))
