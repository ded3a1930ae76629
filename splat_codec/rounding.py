# SPDX-License-Identifier: Apache-2.0
"""From numbers to the integers of a version-2 file: this module defines the rounding.

Every single operation is rounded to float32, in the order written here. Fine-tuning has the same
operations in PyTorch (grid_quantizer.py) and in C++ (grid_step.cpp); tests compare them with these
functions bit by bit. Opacities and scales are rounded by EvenGrid.symbols.
"""

import numpy as np

from splat_codec.grids import (
    GREATEST_SYMBOL,
    MATRIX_UNIT,
    EvenGrid,
    FloatArray,
    Grids,
    Integers,
    PositionGrid,
)

SHORTEST_QUATERNION = np.float32(1e-12)


def cells_of(xyz: FloatArray, grid: PositionGrid) -> Integers:
    """The cells (N, 3) of centres (N, 3); centres outside the cells get the nearest one."""
    with np.errstate(over="ignore"):  # infinity is outside the cells, too
        scaled = (xyz - np.array(grid.origin, np.float32)) / np.float32(grid.cell)
    return np.clip(np.floor(scaled), 0, 2**grid.bits - 1).astype(np.int32)


def rows_beyond_cells(xyz: FloatArray, grid: PositionGrid) -> Integers:
    """The rows, ascending, of those centres (N, 3) that are outside the cells."""
    box = np.float32(grid.cell) * 2.0**grid.bits
    with np.errstate(over="ignore"):
        offset = xyz - np.array(grid.origin, np.float32)
    return np.flatnonzero(((offset < 0) | (offset > box)).any(axis=1)).astype(np.int32)


def scale_symbols(scaling: FloatArray, grid: EvenGrid) -> Integers:
    """Symbols (N, 3) of scales: none is greater than the one before it."""
    return np.minimum.accumulate(grid.symbols(scaling), axis=1)


def rotation_symbols(rotation: FloatArray, grids: Grids, shift: Integers) -> Integers:
    """x, y, z (N, 3) of quaternions (N, 4), made unit quaternions with w >= 0.

    `shift` (N,) is the result of `grids.rotation_shift`.
    """
    w, x, y, z = (rotation * rotation).T
    length = np.maximum(np.sqrt(((w + x) + y) + z), SHORTEST_QUATERNION)
    unit = rotation / length[:, None]
    unit = np.where(unit[:, :1] < 0, -unit, unit)
    steps = (1 << shift).astype(np.float32)[:, None] * np.float32(grids.rotation_step)
    return np.rint(unit[:, 1:] / steps).astype(np.int32)


def dc_symbols(dc: FloatArray, grids: Grids, shift: Integers) -> FloatArray:
    """Whole numbers (N, 3) of colours (N, 3), not yet limited to 0 .. GREATEST_SYMBOL."""
    inverse = grids.dc_transform.inverse_matrix()
    red, green, blue = dc[:, :1], dc[:, 1:2], dc[:, 2:]
    unit = np.float32(grids.dc_step * MATRIX_UNIT)
    steps = ((red * inverse[0] + green * inverse[1]) + blue * inverse[2]) / unit
    size = (1 << shift).astype(np.float32)[:, None]
    return np.rint((steps - np.array(grids.dc_low, np.float32)) / size)


def limited_dc(symbols: FloatArray) -> Integers:
    """The whole numbers, limited to those that a file can hold."""
    return np.clip(symbols, 0, GREATEST_SYMBOL).astype(np.int32)


def sh_symbols(
    coordinates: FloatArray, grids: Grids, deadzone: float, classes: Integers
) -> FloatArray:
    """Whole numbers (N, C) of transformed SH (N, C), not yet limited to +- GREATEST_SYMBOL.

    Those of coordinates below `deadzone` steps are 0.
    """
    scaled = coordinates * grids.sh_steps_per_unit().take(classes)[:, None]
    scaled += np.copysign(np.float32(1 - deadzone), scaled)
    return np.trunc(scaled, out=scaled)
