# SPDX-License-Identifier: Apache-2.0
"""Morton order: Gaussians that are near in space become near in the file."""

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import for_blocks

BITS_PER_AXIS = 21


def _spread(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Moves bit i of 21-bit integers to bit 3 i (the well-known series of shifts and masks)."""
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
    return bits


def morton_codes(cells: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint64]:
    """63-bit Morton codes (N,) of integer cells (N, 3) below 2^21; x in the lowest bit."""
    x, y, z = (_spread(cells[:, axis].astype(np.uint64)) for axis in range(3))
    return x | (y << np.uint64(1)) | (z << np.uint64(2))


def morton_order(positions: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Row order (N,) of finite positions (N, 3) along the Morton curve; ties keep their order."""
    if not len(positions):
        return np.zeros(0, dtype=np.intp)
    exact = positions.astype(np.float64)
    low = exact.min(axis=0)
    extent = np.maximum(exact.max(axis=0) - low, np.finfo(np.float64).tiny)
    cells = ((exact - low) / extent * (2**BITS_PER_AXIS - 1)).astype(np.uint64)
    return np.argsort(morton_codes(cells), kind="stable")


def compact_morton_codes(cells: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Morton codes (N,) of integer cells (N, 3) below 2^21."""
    codes = np.empty(len(cells), np.int64)

    def spread(block: slice) -> None:
        codes[block] = morton_codes(cells[block].astype(np.uint32))

    for_blocks(len(cells), spread)
    return codes


def morton_cells(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The cells (N, 3) of Morton codes (N,)."""
    cells = np.empty((len(codes), 3), np.int32)

    def gather(block: slice) -> None:
        part = codes[block].astype(np.uint64)
        for axis in range(3):
            cells[block, axis] = _gather(part >> np.uint64(axis))

    for_blocks(len(codes), gather)
    return cells


def _gather(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Moves bit 3 i to bit i: the inverse of _spread."""
    bits = bits & np.uint64(0x1249249249249249)
    for shift, mask in (
        (2, 0x10C30C30C30C30C3),
        (4, 0x100F00F00F00F00F),
        (8, 0x001F0000FF0000FF),
        (16, 0x001F00000000FFFF),
        (32, 0x00000000001FFFFF),
    ):
        bits = (bits | (bits >> np.uint64(shift))) & np.uint64(mask)
    return bits
