# SPDX-License-Identifier: Apache-2.0
"""Rows of SH symbols (one per Gaussian) to planes (one per coefficient) and back. In NumPy.

`native.py` has the same functions compiled.
"""

import numpy as np
import numpy.typing as npt

ShRows = npt.NDArray[np.int16]
"""(n, C)"""
ShPlanes = npt.NDArray[np.int16]
"""(C, n)"""
Order = npt.NDArray[np.intp]


def rows_to_planes(rows: ShRows, order: Order) -> ShPlanes:
    """Planes (C, n) of the rows order (n,)."""
    return np.ascontiguousarray(rows.take(order, axis=0).T)


def planes_to_rows(planes: ShPlanes, order: Order, rows: ShRows) -> None:
    """Row order[i] of rows (N, C) becomes column i of planes (C, n); other rows are unchanged."""
    rows[order] = planes.T
