# SPDX-License-Identifier: Apache-2.0
"""Few values that stand for many: k-means of numbers, and of rows of numbers. NumPy only.

Lloyd, "Least squares quantization in PCM", 1982. Comparing every row with every entry of a large
palette takes minutes. So rows are divided into coarse cells first, and a row is compared only with
the entries of the cells around its own.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import for_blocks, small_products
from splat_formats.splats import FloatArray

Labels = npt.NDArray[np.intp]
Doubles = npt.NDArray[np.float64]

_LEVEL_STEPS = 60
_QUANTILES = 1 << 12
_ENTRIES_PER_CELL = 64
_CELL_STEPS = 8
_SAMPLE_PER_CELL = 128
_NEIGHBOURS = 8
_STEPS = 8
_ROWS_AT_ONCE = 1 << 10
# Larger products than this make OpenBLAS start threads of its own. On a busy machine these wait for
# each other most of the time, so that several threads with small products each are used instead.
_PRODUCT = 1 << 18
_ROWS_PER_PRODUCT = 16


@dataclass(frozen=True, eq=False)
class RowPalette:
    """Rows (N, C) as entries of a palette."""

    entries: FloatArray
    """(K, C)"""
    labels: Labels
    """(N,) the entry that stands for each row."""


def levels_of(values: FloatArray, count: int) -> FloatArray:
    """`count` ascending levels (count,) with a small mean squared error for `values` (any shape).

    The least and the greatest value are levels, so that no value is farther from its level than
    half the distance of two levels.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    if not len(ordered):
        return np.zeros(count, np.float32)
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return np.pad(distinct, (0, count - len(distinct)), "edge").astype(np.float32)
    levels = _first_levels(ordered, count)
    for _ in range(_LEVEL_STEPS):
        levels = _moved_levels(ordered, levels)
    return levels.astype(np.float32)


def nearest_levels(values: FloatArray, levels: FloatArray) -> npt.NDArray[np.uint8]:
    """The indices of the nearest of up to 256 ascending levels."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)


def palette_of(rows: FloatArray, size: int) -> RowPalette:
    """A palette of up to `size` entries for rows (N, C); exact if no more are distinct.

    Entries are in the order of their first use: of neighbouring rows the labels are then similar,
    and their images small.
    """
    distinct = _distinct_rows(rows, size)
    return _in_order_of_use(distinct or _Clustering(rows, size).palette())


def _in_order_of_use(palette: RowPalette) -> RowPalette:
    """The palette without unused entries."""
    used, first, labels = np.unique(palette.labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.empty(len(order), np.intp)
    places[order] = np.arange(len(order))
    return RowPalette(palette.entries[used[order]], places[labels.reshape(-1)])


def _first_levels(ordered: Doubles, count: int) -> Doubles:
    """As dense as the cube root of the density of the values (Panter and Dite, 1951).

    Between quantiles at equal shares, the density is the inverse of their distance.
    """
    quantiles = ordered[np.linspace(0, len(ordered) - 1, _QUANTILES).astype(np.intp)]
    share = np.concatenate([[0.0], np.cumsum(np.diff(quantiles) ** (2 / 3))])
    return np.interp((np.arange(count) + 0.5) / count, share / share[-1], quantiles)


def _moved_levels(ordered: Doubles, levels: Doubles) -> Doubles:
    """Levels at the means of the values that are nearest to each; the first and last ones stay.

    Levels without values move to where they reduce the error most.
    """
    inner = np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
    ends = np.concatenate([[0], inner, [len(ordered)]])
    counts = np.diff(ends)
    used = np.flatnonzero(counts)
    starts, counts = ends[used], counts[used]
    means = np.add.reduceat(ordered, starts) / counts
    if len(used) < len(levels):
        errors = np.add.reduceat((ordered - np.repeat(means, counts)) ** 2, starts)
        worst = np.argsort(errors)[len(used) - len(levels) :]
        upper = ordered[starts[worst] + 3 * counts[worst] // 4]
        means = np.sort(np.concatenate([means, upper]))
    moved = np.pad(means, (0, len(levels) - len(means)), "edge")
    moved[0], moved[-1] = ordered[0], ordered[-1]
    return moved


def _distinct_rows(rows: FloatArray, size: int) -> RowPalette | None:
    """The palette of all distinct rows, if they are at most `size`."""
    if not rows.shape[1]:
        return RowPalette(rows[:1], np.zeros(len(rows), np.intp))
    _, first, labels = np.unique(row_hashes(rows), return_index=True, return_inverse=True)
    labels = labels.reshape(-1)
    if len(first) > size or not same_bits(rows[first][labels], rows).all():
        return None
    return RowPalette(rows[first], labels)


def row_hashes(rows: FloatArray) -> npt.NDArray[np.uint64]:
    """(N,) equal numbers for rows (N, C) that are equal bit by bit; others are rarely equal."""
    factors = np.random.default_rng(0).integers(1, 1 << 63, rows.shape[1], np.uint64) | np.uint64(1)
    hashes = np.empty(len(rows), np.uint64)

    def add_up(block: slice) -> None:
        bits = np.ascontiguousarray(rows[block]).view(np.uint32)
        hashes[block] = (bits * factors).sum(axis=1)

    for_blocks(len(rows), add_up, _ROWS_AT_ONCE)
    return hashes


def same_bits(a: FloatArray, b: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,): whether the rows of two arrays (N, C) are equal bit by bit."""
    bits, others = (np.ascontiguousarray(x).view(np.uint32) for x in (a, b))
    return (bits == others).all(axis=1)


class _Clustering:
    """k-means of rows (N, C) in coarse cells."""

    def __init__(self, rows: FloatArray, size: int) -> None:
        self.rows = rows
        self.size = size
        cells = max(1, round(size / _ENTRIES_PER_CELL))
        self.centres, cell_of_row = _coarse_cells(rows, cells)
        order = np.argsort(cell_of_row, kind="stable")
        ends = np.searchsorted(cell_of_row[order], np.arange(len(self.centres) + 1))
        self.members = [order[low:high] for low, high in pairwise(ends)]
        self.around = _nearest_centres(self.centres)
        self.entries = self._first_entries()

    def palette(self) -> RowPalette:
        """The palette after all steps."""
        for _ in range(_STEPS):
            labels, errors = self._labels()
            self._move_entries(labels, errors)
        labels, _ = self._labels()
        return RowPalette(self.entries, labels)

    def _first_entries(self) -> FloatArray:
        """Rows evenly chosen from each cell, as many as its share of the rows."""
        chosen = []
        total = 0
        for members in self.members:
            low = total * self.size // len(self.rows)
            total += len(members)
            count = total * self.size // len(self.rows) - low
            chosen.append(members[np.arange(count) * len(members) // max(1, count)])
        return self.rows[np.concatenate(chosen)].copy()

    def _labels(self) -> tuple[Labels, FloatArray]:
        """The nearest entry (N,) of each row among those around, and its squared distance (N,)."""
        cells = _nearest_in_blocks(self.entries, self.centres)
        by_cell = np.argsort(cells, kind="stable")
        ends = np.searchsorted(cells[by_cell], np.arange(len(self.centres) + 1))
        labels = np.empty(len(self.rows), np.intp)
        errors = np.empty(len(self.rows), np.float32)

        def compare(cell: slice) -> None:
            members, near = self.members[cell.start], self.around[cell.start]
            candidates = np.concatenate([by_cell[ends[i] : ends[i + 1]] for i in near])
            if not len(candidates):
                candidates = by_cell
            found, errors[members] = _nearest(self.rows[members], self.entries[candidates])
            labels[members] = candidates[found]

        for_blocks(len(self.members), compare, size=1)
        return labels, errors

    def _move_entries(self, labels: Labels, errors: FloatArray) -> None:
        """Each entry to the mean of its rows; unused ones to the rows with the largest errors."""
        counts = np.bincount(labels, minlength=len(self.entries))
        for column in range(self.rows.shape[1]):
            sums = np.bincount(labels, self.rows[:, column], minlength=len(self.entries))
            np.divide(sums, counts, out=self.entries[:, column], where=counts > 0, casting="unsafe")
        unused = np.flatnonzero(counts == 0)
        if len(unused):
            worst = np.argpartition(errors, -len(unused))[-len(unused) :]
            self.entries[unused] = self.rows[worst]


def _nearest_centres(centres: FloatArray) -> Labels:
    """(cells, _NEIGHBOURS) the nearest centres of each, itself first."""
    exact = centres.astype(np.float64)
    norms = (exact**2).sum(axis=1)
    distances = norms[:, None] + norms - 2 * (exact @ exact.T)
    np.fill_diagonal(distances, -1)
    return np.argsort(distances, axis=1, kind="stable")[:, :_NEIGHBOURS]


def _coarse_cells(rows: FloatArray, count: int) -> tuple[FloatArray, Labels]:
    """Centres (cells, C), and the nearest one (N,) of each row."""
    sample = rows[:: max(1, len(rows) // (count * _SAMPLE_PER_CELL))]
    centres = sample[np.arange(count) * len(sample) // count].copy()
    for _ in range(_CELL_STEPS if count > 1 else 0):
        labels = _nearest_in_blocks(sample, centres)
        counts = np.bincount(labels, minlength=count)[:, None]
        sums = np.stack([np.bincount(labels, column, minlength=count) for column in sample.T], 1)
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return centres, _nearest_in_blocks(rows, centres)


def _nearest_in_blocks(rows: FloatArray, entries: FloatArray) -> Labels:
    """The nearest entry (N,) of each row."""
    labels = np.empty(len(rows), np.intp)

    def find(block: slice) -> None:
        labels[block] = _nearest(rows[block], entries)[0]

    for_blocks(len(rows), find, _ROWS_AT_ONCE)
    return labels


def _nearest(rows: FloatArray, entries: FloatArray) -> tuple[Labels, FloatArray]:
    """The nearest entry (N,) of each row, and its squared distance (N,)."""
    half_norms = (entries**2).sum(axis=1) / 2
    columns = entries.T.copy()
    labels = np.zeros(len(rows), np.intp)
    best = np.full(len(rows), -np.inf, np.float32)
    width = max(1, _PRODUCT // (_ROWS_PER_PRODUCT * rows.shape[1]))
    for first in range(0, len(entries), width):
        part = slice(first, first + width)
        scores = small_products(rows, columns[:, part], _ROWS_PER_PRODUCT)
        scores -= half_norms[part]
        found = scores.argmax(axis=1)
        score = np.take_along_axis(scores, found[:, None], axis=1)[:, 0]
        better = score > best
        labels[better] = found[better] + first
        best = np.maximum(best, score)
    return labels, (rows**2).sum(axis=1) - 2 * best
