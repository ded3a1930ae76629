# SPDX-License-Identifier: Apache-2.0
"""A model as the nearest integers of its grids. NumPy only."""

import numpy as np
import numpy.typing as npt

from splat_codec.exact_values import FIRST_CHANNELS, NONE, ExactValues
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import GREATEST_SYMBOL, Grids, Integers
from splat_codec.rounding import (
    cells_of,
    dc_symbols,
    limited_dc,
    rotation_symbols,
    rows_beyond_cells,
    scale_symbols,
    sh_symbols,
)
from splat_formats.splats import FloatArray, Splats

_ROWS_AT_ONCE = 1 << 13  # what a processor's cache holds


def snap_to_grids(
    splats: Splats, grids: Grids, deadzone: float, classes: Integers, exact: ExactValues = NONE
) -> GridSplats:
    """The model, with ordered axes, as the nearest integers of its grids; rows stay in order.

    `exact` holds the numbers that are replaced by stand-ins in `splats`. Colours beyond the range
    of the integers are stored exactly too.
    """
    scale = scale_symbols(splats.scaling, grids.scale)
    axes = (classes, *scale.T)
    dropped = grids.position.shift.apply(*axes)[:, None]
    xyz = cells_of(splats.xyz, grids.position) >> dropped << dropped
    far = rows_beyond_cells(splats.xyz, grids.position)
    dc = dc_symbols(splats.features_dc[:, 0], grids, grids.dc_shift.apply(classes))
    dc_beyond = np.flatnonzero((limited_dc(dc) != dc).any(axis=1))
    sh, sh_beyond = _sh_symbols(splats, grids, deadzone, classes)
    for name, rows in (("features_dc", dc_beyond), ("features_rest", sh_beyond)):
        if len(rows):
            exact = exact.joined(_whole_rows(splats, name, rows))
    return GridSplats(
        grids=grids,
        xyz=xyz,
        opacity=grids.opacity.symbols(splats.opacity[:, 0]),
        scale=scale,
        precision=classes,
        rotation=rotation_symbols(splats.rotation, grids, grids.rotation_shift.apply(*axes)),
        dc=limited_dc(dc),
        sh=sh,
        far_rows=far,
        far_xyz=splats.xyz[far],
        layer_ends=(splats.count,),
        exact=exact,
    )


def _whole_rows(splats: Splats, name: str, rows: npt.NDArray[np.intp]) -> ExactValues:
    values = getattr(splats, name)[rows].reshape(len(rows), -1)
    channels = FIRST_CHANNELS[name] + np.arange(values.shape[1])
    return ExactValues.of(
        np.repeat(rows, len(channels)), np.tile(channels, len(rows)), values.reshape(-1)
    )


def _sh_symbols(
    splats: Splats, grids: Grids, deadzone: float, classes: Integers
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.intp]]:
    """The symbols, and the rows with coefficients beyond their range."""
    sh = higher_sh(splats)
    symbols, beyond = np.zeros(sh.shape, np.int16), np.zeros(len(sh), np.bool_)
    for low in range(0, splats.count if sh.shape[1] else 0, _ROWS_AT_ONCE):
        part = slice(low, low + _ROWS_AT_ONCE)
        coordinates = grids.sh_transform.forward(sh[part])
        whole = sh_symbols(coordinates, grids, deadzone, classes[part])
        if max(whole.max(), -whole.min()) > GREATEST_SYMBOL:
            beyond[part] = (np.abs(whole) > GREATEST_SYMBOL).any(axis=1)
            np.clip(whole, -GREATEST_SYMBOL, GREATEST_SYMBOL, out=whole)
        symbols[part] = whole
    return symbols, np.flatnonzero(beyond)


def higher_sh(splats: Splats) -> FloatArray:
    """The higher SH coefficients (N, C): coefficient-major, RGB of each together."""
    count, coefficients, colours = splats.features_rest.shape
    return splats.features_rest.reshape(count, coefficients * colours)
