# SPDX-License-Identifier: Apache-2.0
"""Single numbers outside the grids, stored exactly: a Gaussian's row, a channel, a float32.

One number far from all others would make the grid of all Gaussians coarser; here it takes nine
bytes.
Channels: opacity, three scales in the file's order, three of features_dc, then features_rest.
(Centres outside the cells have their own list; quaternions always fit their grid.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile

FIRST_CHANNELS = {"opacity": 0, "scaling": 1, "features_dc": 4, "features_rest": 7}
"""The first channel of each attribute, in ascending order."""
BYTES_PER_VALUE = 9


@dataclass(frozen=True, eq=False)
class ExactValues:
    """E numbers in ascending order of (row, channel), none twice, all finite."""

    rows: npt.NDArray[np.int32]
    """(E,)"""
    channels: npt.NDArray[np.int32]
    """(E,)"""
    values: npt.NDArray[np.float32]
    """(E,)"""

    @staticmethod
    def of(rows: npt.ArrayLike, channels: npt.ArrayLike, values: npt.ArrayLike) -> "ExactValues":
        """These numbers, sorted; of two for the same place, the first is kept."""
        row, channel = np.asarray(rows, np.int32), np.asarray(channels, np.int32)
        order = np.lexsort((channel, row))
        row, channel = row[order], channel[order]
        is_new = np.ones(len(row), np.bool_)
        is_new[1:] = (np.diff(row) != 0) | (np.diff(channel) != 0)
        value = np.asarray(values, np.float32)[order]
        return ExactValues(row[is_new], channel[is_new], value[is_new])

    def __len__(self) -> int:
        return len(self.rows)

    def joined(self, others: "ExactValues") -> "ExactValues":
        """These numbers, and those of `others` for other places."""
        names = ("rows", "channels", "values")
        return ExactValues.of(*(np.append(getattr(self, n), getattr(others, n)) for n in names))

    def from_row(self, first: int) -> "ExactValues":
        """These numbers with `first` added to their rows."""
        return ExactValues(self.rows + np.int32(first), self.channels, self.values)

    def between(self, low: int, high: int) -> "ExactValues":
        """The numbers of the rows low .. high - 1, with rows counted from `low`."""
        part = slice(*np.searchsorted(self.rows, [low, high]))
        found = ExactValues(self.rows[part], self.channels[part], self.values[part])
        return found.from_row(-low)

    def moved(self, places: npt.NDArray[np.int64]) -> "ExactValues":
        """These numbers, those of row i moved to row places[i]."""
        return ExactValues.of(places[self.rows], self.channels, self.values)

    def by_attribute(self, name: str) -> tuple[npt.NDArray[np.intp], ...]:
        """Of one attribute: which of these numbers, their rows, their columns."""
        firsts = [*FIRST_CHANNELS.values(), 2**8]
        first = FIRST_CHANNELS[name]
        end = firsts[firsts.index(first) + 1]
        (which,) = ((self.channels >= first) & (self.channels < end)).nonzero()
        return which, self.rows[which].astype(np.intp), self.channels[which] - np.intp(first)

    def taken_from(self, values: Mapping[str, npt.NDArray[np.float32]]) -> "ExactValues":
        """The numbers at the same places of the attributes' arrays (N, C), by name."""
        taken = np.zeros(len(self), np.float32)
        for name in FIRST_CHANNELS if len(self) else ():
            which, rows, columns = self.by_attribute(name)
            taken[which] = values[name][rows, columns]
        return ExactValues(self.rows, self.channels, taken)

    def put_into(self, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Writes them into the attributes' arrays (N, C), by name."""
        for name in FIRST_CHANNELS if len(self) else ():
            which, rows, columns = self.by_attribute(name)
            values[name][rows, columns] = self.values[which]


NONE = ExactValues.of([], [], [])


def pack_exact_values(exact: ExactValues) -> bytes:
    """The section (docs/format.md, "Exact values")."""
    return b"".join(
        [
            exact.rows.astype("<u4").tobytes(),
            exact.channels.astype("u1").tobytes(),
            exact.values.astype("<f4").tobytes(),
        ]
    )


def unpack_exact_values(data: bytes, count: int, sh_channels: int, section: str) -> ExactValues:
    """The numbers in a section of a layer of `count` Gaussians. Raises CorruptFile."""
    number, left = divmod(len(data), BYTES_PER_VALUE)
    if left or not number:
        raise CorruptFile(section, f"{len(data)} bytes, a multiple of {BYTES_PER_VALUE} expected")
    rows = np.frombuffer(data, "<u4", number).astype(np.int64)
    channels = np.frombuffer(data, "u1", number, offset=4 * number).astype(np.int64)
    values = np.frombuffer(data, "<f4", offset=5 * number).astype(np.float32)
    if rows.max() >= count or channels.max() >= FIRST_CHANNELS["features_rest"] + sh_channels:
        raise CorruptFile(section, "a row or a channel out of range")
    if (np.diff(rows * 2**8 + channels) <= 0).any():
        raise CorruptFile(section, "rows and channels out of order")
    if not np.isfinite(values).all():
        raise CorruptFile(section, "a number that is not finite")
    return ExactValues(rows.astype(np.int32), channels.astype(np.int32), values)
