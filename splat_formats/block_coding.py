# SPDX-License-Identifier: Apache-2.0
"""Blocks of Gaussians to files of version 3 and back, several at a time. NumPy only."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from splat_codec.block_file import (
    BlockIndex,
    Corner,
    decode_block,
    read_block,
    read_blocks,
    read_index,
)
from splat_codec.errors import CorruptFile
from splat_codec.grid_file import MAX_LAYERS
from splat_formats.decoded import to_splats
from splat_formats.splats import FloatArray, Splats

MOST_AT_ONCE = 2
"""Blocks in work, which bounds the memory. More threads gain little: each block uses several."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """The results of `work` for the items, in their order; up to MOST_AT_ONCE in work at a time.

    One more item waits, so that no thread does; so many results may be finished early.
    """
    with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > MOST_AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def box_of(xyz: FloatArray) -> tuple[Corner, Corner]:
    """The least and the greatest coordinates of centres (N, 3); zeros where there are none."""
    if not len(xyz):
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    (x0, y0, z0), (x1, y1, z1) = xyz.min(axis=0).tolist(), xyz.max(axis=0).tolist()
    return (x0, y0, z0), (x1, y1, z1)


def index_of(path: Path) -> BlockIndex:
    """The index of a file of version 3. Raises CorruptFile."""
    with path.open("rb") as file:
        return read_index(file)


def blocks_that_meet(index: BlockIndex, low: Corner, high: Corner) -> list[int]:
    """The numbers of the blocks that have centres in a box, or may have some."""
    return [number for number, block in enumerate(index.blocks) if block.meets(low, high)]


def decoded_blocks(
    path: Path, index: BlockIndex, numbers: list[int] | None = None, layers: int = MAX_LAYERS
) -> Iterator[Splats]:
    """The Gaussians of the blocks of these numbers, one block after the other; None: of all.

    Of blocks with layers only the first `layers`. Raises CorruptFile.
    """

    def decode(block: tuple[int, bytes]) -> Splats:
        number, data = block
        splats = to_splats(decode_block(data, index, number, layers))
        _check_box(splats.xyz, index, number)
        return splats

    with path.open("rb") as file:
        if numbers is None:
            yield from in_order(decode, read_blocks(file, index))
        else:
            chosen = [number for number in numbers if index.blocks[number].bytes]
            yield from in_order(decode, ((n, read_block(file, index, n)) for n in chosen))


def _check_box(xyz: FloatArray, index: BlockIndex, number: int) -> None:
    low, high = box_of(xyz)
    block = index.blocks[number]
    outside = np.less(low, block.low).any() or np.greater(high, block.high).any()
    if len(xyz) and outside:
        raise CorruptFile(f"blocks, number {number}", "a centre lies outside the block's box")
