# SPDX-License-Identifier: Apache-2.0
"""A model's Gaussians in blocks that are compact in space and equally large. NumPy only."""

import numpy as np
import numpy.typing as npt

from splat_codec.order import morton_codes
from splat_formats.outliers import middle
from splat_formats.splats import FloatArray

BLOCK_GAUSSIANS = 1 << 19
"""Of a block, at most: what its statistics and tables cost is then less than 0.1 % of its bytes."""
LEAST_WITH_BLOCKS = 1 << 21
"""Models with fewer Gaussians are one whole, unless blocks are asked for."""

_CELL_BITS = 10  # on each axis: Morton codes of 30 bits, beside 32 for the row
_ROW_BITS = np.uint64(32)
_ROWS_AT_ONCE = 1 << 18


def number_of_blocks(count: int, wanted: int | None) -> int:
    """How many blocks a model of `count` Gaussians gets; 1: it is stored as a whole."""
    if wanted is not None:
        return max(1, min(wanted, count))
    return 1 if count < LEAST_WITH_BLOCKS else -(-count // BLOCK_GAUSSIANS)


def spatial_blocks(xyz: FloatArray, number: int) -> list[npt.NDArray[np.uint32]]:
    """The rows of each of `number` blocks in ascending order: runs along the Morton curve.

    The cells of the curve divide the box of the middle 99 % of the finite centres; others count as
    in its outermost cells. Gaussians of one cell are in the order of the model.
    """
    low, high = _box(xyz)
    extent = np.maximum(high - low, np.finfo(np.float32).tiny)
    keys = np.empty(len(xyz), np.uint64)
    for start in range(0, len(xyz), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        with np.errstate(invalid="ignore", over="ignore"):
            cells = (xyz[part] - low) / extent * np.float32(2**_CELL_BITS)
        cells = np.clip(np.nan_to_num(cells, posinf=2**_CELL_BITS), 0, 2**_CELL_BITS - 1)
        rows = np.arange(start, start + len(cells), dtype=np.uint64)
        keys[part] = (morton_codes(cells.astype(np.uint32)) << _ROW_BITS) | rows
    keys.sort()
    ends = [len(xyz) * block // number for block in range(number + 1)]
    return [
        np.sort(keys[ends[block] : ends[block + 1]].astype(np.uint32)) for block in range(number)
    ]


def _box(xyz: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The box of the middle of a sample's finite centres."""
    sampled = xyz[:: max(1, len(xyz) // _ROWS_AT_ONCE)]
    finite = sampled[np.isfinite(sampled).all(axis=1)]
    if not len(finite):
        return np.zeros(3, np.float32), np.ones(3, np.float32)
    return middle(finite)
