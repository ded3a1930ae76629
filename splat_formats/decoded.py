# SPDX-License-Identifier: Apache-2.0
"""From the file's integers to Gaussians. NumPy only: decompressing needs no torch."""

from splat_codec.grid_splats import GridSplats
from splat_codec.symbols import QuantizedSplats
from splat_formats.splats import Splats


def to_splats(model: QuantizedSplats | GridSplats) -> Splats:
    """The decoded model."""
    values, count = model.values(), model.count
    coefficients = values["features_rest"].shape[1] // 3
    return Splats(
        xyz=values["xyz"],
        features_dc=values["features_dc"].reshape(count, 1, 3),
        features_rest=values["features_rest"].reshape(count, coefficients, 3),
        opacity=values["opacity"],
        scaling=values["scaling"],
        rotation=values["rotation"],
    )
