# SPDX-License-Identifier: Apache-2.0
"""A model as the nearest integers of its grids. NumPy only."""

import numpy as np
import numpy.typing as npt

from splat_codec.exact_values import FIRST_CHANNELS, NONE, ExactValues
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import MATRIX_UNIT, Grids, Integers, PositionGrid
from splat_formats.splats import FloatArray, Splats

_ROWS_AT_ONCE = 1 << 13  # what a processor's cache holds


def cells_of(xyz: FloatArray, grid: PositionGrid) -> Integers:
    """The cells (N, 3) of centres (N, 3), at the edge for those beyond it."""
    with np.errstate(over="ignore"):  # infinity is beyond the cells, too
        scaled = (xyz - np.array(grid.origin, np.float32)) / np.float32(grid.cell)
    return np.clip(np.floor(scaled), 0, 2**grid.bits - 1).astype(np.int32)


def rows_beyond_cells(xyz: FloatArray, grid: PositionGrid) -> Integers:
    """The rows, ascending, whose centres (N, 3) no cell holds."""
    box = np.float32(grid.cell) * 2.0**grid.bits
    with np.errstate(over="ignore"):
        offset = xyz - np.array(grid.origin, np.float32)
    return np.flatnonzero(((offset < 0) | (offset > box)).any(axis=1)).astype(np.int32)


def snap_to_grids(
    splats: Splats, grids: Grids, deadzone: float, classes: Integers, exact: ExactValues = NONE
) -> GridSplats:
    """The model, with ordered axes, as the nearest integers of its grids; rows stay in order.

    `exact` are numbers in whose place `splats` has stand-ins. Colours that the integers do not
    reach are stored exactly too.
    """
    scale = grids.scale.symbols(splats.scaling)
    axes = (classes, *scale.T)
    dropped = grids.position.shift.apply(*axes)[:, None]
    xyz = cells_of(splats.xyz, grids.position) >> dropped << dropped
    far = rows_beyond_cells(splats.xyz, grids.position)
    turns = np.float32(grids.rotation_step) * (1 << grids.rotation_shift.apply(*axes))[:, None]
    dc, dc_beyond = _dc_symbols(splats, grids, classes)
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
        rotation=np.rint(splats.rotation[:, 1:] / turns).astype(np.int32),
        dc=dc,
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


def _dc_symbols(
    splats: Splats, grids: Grids, classes: Integers
) -> tuple[Integers, npt.NDArray[np.intp]]:
    """The symbols, and the rows whose colours they do not reach."""
    steps = grids.dc_transform.forward(splats.features_dc[:, 0]) / np.float32(
        grids.dc_step * MATRIX_UNIT
    )
    shift = grids.dc_shift.apply(classes)[:, None]
    symbols = np.rint((steps - np.array(grids.dc_low, np.float32)) / (1 << shift))
    within = np.clip(symbols, 0, 2**15 - 1)
    return within.astype(np.int32), np.flatnonzero((within != symbols).any(axis=1))


def _sh_symbols(
    splats: Splats, grids: Grids, deadzone: float, classes: Integers
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.intp]]:
    """The symbols, and the rows whose coefficients they do not reach."""
    sh = higher_sh(splats)
    symbols, beyond = np.zeros(sh.shape, np.int16), np.zeros(len(sh), np.bool_)
    if not sh.shape[1]:
        return symbols, np.flatnonzero(beyond)
    per_step = 1 / (np.array(grids.sh_steps, np.float32) * np.float32(MATRIX_UNIT))
    bound, limit = np.float32(1 - deadzone), np.float32(2**15 - 1)
    for low in range(0, splats.count, _ROWS_AT_ONCE):
        part = slice(low, low + _ROWS_AT_ONCE)
        scaled = grids.sh_transform.forward(sh[part]) * per_step.take(classes[part])[:, None]
        scaled += np.copysign(bound, scaled)
        if max(scaled.max(), -scaled.min()) > limit:
            beyond[part] = (np.abs(scaled) > limit).any(axis=1)
            np.clip(scaled, -limit, limit, out=scaled)
        symbols[part] = scaled  # towards 0
    return symbols, np.flatnonzero(beyond)


def higher_sh(splats: Splats) -> FloatArray:
    """The higher SH coefficients (N, C): coefficient-major, RGB of each together."""
    count, coefficients, colours = splats.features_rest.shape
    return splats.features_rest.reshape(count, coefficients * colours)
