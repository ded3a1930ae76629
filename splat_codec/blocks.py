# SPDX-License-Identifier: Apache-2.0
"""Work on many rows in blocks that fit a processor's cache, on all cores.

NumPy releases the interpreter's lock within its loops, so that threads run at the same time.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

ROWS_AT_ONCE = 1 << 14
_Float = TypeVar("_Float", np.float32, np.float64)
_MOST_THREADS = 8  # more gain nothing: memory is then the limit


def small_products(
    rows: npt.NDArray[_Float], columns: npt.NDArray[_Float], size: int = 64
) -> npt.NDArray[_Float]:
    """`rows` (N, C) @ `columns` (C, K), `size` rows at a time, so that one thread makes each.

    OpenBLAS's threads wait for each other by spinning. Several blocks of rows at a time, each of
    which fits the cache, took 13 times the processor time of these products.
    """
    found = np.empty((len(rows), columns.shape[1]), rows.dtype)
    parts, (width, channels) = len(rows) // size, columns.shape
    whole = parts * size
    np.matmul(
        rows[:whole].reshape(parts, size, width),
        columns,
        out=found[:whole].reshape(parts, size, channels),
    )
    np.matmul(rows[whole:], columns, out=found[whole:])
    return found


def for_blocks(count: int, work: Callable[[slice], None], size: int = ROWS_AT_ONCE) -> None:
    """Calls `work` for the slices of 0 .. count - 1 of up to `size` rows, several at a time.

    The order is not defined: each call may write only to the rows of its slice.
    """
    blocks = [slice(low, min(low + size, count)) for low in range(0, count, size)]
    threads = min(_MOST_THREADS, os.cpu_count() or 1, len(blocks))
    if threads < 2:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, blocks))
