# SPDX-License-Identifier: Apache-2.0
"""Gaussians that have the SH of another Gaussian, as in models whose SH come from a palette.

A file holds such SH once, at the Gaussian that needs them most precisely, their owner. The others
have no SH of their own but the number of the owner (owners.py).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class SharedSh:
    """M rows without SH of their own, and for each the row whose decoded SH it has."""

    rows: npt.NDArray[np.int32]
    """(M,) ascending."""
    owners: npt.NDArray[np.int32]
    """(M,) in the same layer or an earlier one."""

    @staticmethod
    def of(rows: npt.ArrayLike, owners: npt.ArrayLike) -> "SharedSh":
        """These rows, sorted, and their owners."""
        row, owner = np.asarray(rows, np.int32), np.asarray(owners, np.int32)
        order = np.argsort(row, kind="stable")
        return SharedSh(row[order], owner[order])

    def __len__(self) -> int:
        return len(self.rows)

    def up_to(self, end: int) -> "SharedSh":
        """Those of the rows 0 .. end - 1."""
        part = slice(int(np.searchsorted(self.rows, end)))
        return SharedSh(self.rows[part], self.owners[part])

    def moved(self, places: npt.NDArray[np.int64]) -> "SharedSh":
        """The same, where row i has become row places[i]."""
        return SharedSh.of(places[self.rows], places[self.owners])

    def put_into(self, sh: npt.NDArray[np.float32]) -> None:
        """Gives the rows of `sh` (N, C) the values of their owners."""
        sh[self.rows] = sh[self.owners]


NONE_SHARED = SharedSh.of([], [])
