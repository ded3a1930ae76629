# SPDX-License-Identifier: Apache-2.0
"""One layer of Gaussians in a version-2 file: its planes, their order and their contexts.

Writer and reader share this description (planes.py). Rows are in step-major order: lane l of L
holds the l-th run of the rows sorted along the Morton curve, and row t of all lanes comes before
row t + 1 of any lane. So the previous row in a Gaussian's lane is its neighbour in space and is
already decoded, and a step is a contiguous slice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec import kernels
from splat_codec.blocks import for_blocks
from splat_codec.contexts import (
    ENERGY_LAST_GROUP,
    Neighbour,
    Values,
    first_energy_keys,
)
from splat_codec.errors import CorruptFile
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import CLASSES, Grids, Integers
from splat_codec.octree import code_octree
from splat_codec.order import compact_morton_codes, morton_cells
from splat_codec.planes import PlaneCoder
from splat_codec.sh_rows import ShRows

COEFFICIENTS_PER_GROUP = 3

BINNED = ("opacity", "scale0", "scale1", "scale2", "dc0", "dc1", "dc2", "groups")
"""Values whose bins are part of contexts; the file holds the bins' edges."""
EDGES = 7
BINS = EDGES + 1


@dataclass(frozen=True)
class LayerColumns:
    """One layer's integers without SH, in step-major order. Names as in GridSplats."""

    codes: npt.NDArray[np.int64]
    """(n,) Morton codes of the coarse cells, in Morton order."""
    low_bits: Integers
    """(3, n) the bits below the coarse cell, without those that are not stored."""
    opacity: Integers
    scale: Integers
    """(3, n)"""
    precision: Integers
    rotation: Integers
    """(3, n)"""
    dc: Integers
    """(3, n)"""


@dataclass(frozen=True)
class LayerShape:
    """What writer and reader both have before a layer begins."""

    grids: Grids
    edges: Mapping[str, tuple[int, ...]]
    count: int
    lanes: int


def step_major(count: int, lanes: int) -> npt.NDArray[np.intp]:
    """For each row in step-major order, its place along the Morton curve."""
    shortest, longer = divmod(count, lanes)
    starts = np.arange(lanes) * shortest + np.minimum(np.arange(lanes), longer)
    return (np.arange(shortest + 1)[:, None] + starts).reshape(-1)[:count]


def code_columns(coder: PlaneCoder, shape: LayerShape, given: LayerColumns | None) -> LayerColumns:
    """All but the SH of a layer: `given` if the coder writes, the decoded values if it reads."""
    grids = shape.grids
    codes = code_octree(
        coder, grids.position.coarse_bits, shape.count, None if given is None else given.codes
    )
    cells = morton_cells(codes)[step_major(shape.count, shape.lanes)]
    layer = _Layer(coder, shape)
    opacity = layer.opacity(None if given is None else given.opacity)
    scale = layer.scale(opacity, None if given is None else given.scale)
    axes = (scale[0], scale[1], scale[2])
    predicted = grids.precision.apply(opacity, scale.T, cells)
    precision = layer.precision(predicted, None if given is None else given.precision)
    fine = grids.position.bits - grids.position.coarse_bits
    widths = np.int32(fine) - grids.position.shift.apply(precision, *axes)
    low_bits = [coder.bits(widths, None if given is None else given.low_bits[i]) for i in range(3)]
    shifts = grids.rotation_shift.apply(precision, *axes)
    rotation = layer.rotation(shifts, None if given is None else given.rotation)
    dc = layer.dc(precision, None if given is None else given.dc)
    return LayerColumns(codes, np.stack(low_bits), opacity, scale, precision, rotation, dc)


def code_sh(
    coder: PlaneCoder, shape: LayerShape, precision: Values, sh: ShRows, writes: bool
) -> npt.NDArray[np.bool_]:
    """The SH of a layer, after its columns; which rows (n,) in step-major order have any.

    `sh` (n, C), rows in Morton order: a writer writes it; a reader gets zeros and fills them in.
    """
    return _Layer(coder, shape).sh(precision, sh, writes)


class _Layer:
    """The attributes of one layer, one method each."""

    def __init__(self, coder: PlaneCoder, shape: LayerShape) -> None:
        self._coder, self._shape, self._grids = coder, shape, shape.grids
        self._bins = {name: _bin_table(edges) for name, edges in shape.edges.items()}
        self._zeros = np.zeros(shape.count, np.int32)

    def opacity(self, given: Values | None) -> Values:
        found = self._near("opacity", 1, self._zeros, self._zeros, given)
        return _within(found, self._grids.opacity.levels, "opacity")

    def scale(self, opacity: Values, given: Values | None) -> Values:
        steps = (
            [None] * 3 if given is None else [given[0], given[0] - given[1], given[1] - given[2]]
        )
        largest = self._near("scale0", BINS, self._bin("opacity", opacity), self._zeros, steps[0])
        contexts = self._bin("scale0", largest)
        drop1 = self._near("scale1", BINS, contexts, self._zeros, steps[1])
        contexts = contexts * BINS + self._bin("scale1", drop1)
        drop2 = self._near("scale2", BINS * BINS, contexts, self._zeros, steps[2])
        levels = self._grids.scale.levels
        _within(largest, levels, "scale")
        middle = _within(largest - np.minimum(drop1, levels), levels, "scale")
        return np.stack(
            [largest, middle, _within(middle - np.minimum(drop2, levels), levels, "scale")]
        )

    def precision(self, predicted: Values, given: Values | None) -> Values:
        differences = None if given is None else _zigzag(given - predicted)
        found = self._coder.plane("precision", CLASSES, predicted, differences)
        return _within(predicted + _unzigzag(found), CLASSES, "precision")

    def rotation(self, shifts: Values, given: Values | None) -> Values:
        planes: list[Values] = []
        before = self._zeros
        for axis in range(3):
            contexts = (axis * 16 + shifts) * 4 + np.minimum(before, 3)
            values = None if given is None else _zigzag(given[axis])
            found = self._coder.plane("rotation", 3 * 16 * 4, contexts, values)
            planes.append(_unzigzag(_within(found, 2**15, "rotation")))
            before = np.maximum(before, (found << shifts) >> 4)
        return np.stack(planes)

    def dc(self, precision: Values, given: Values | None) -> Values:
        shifts = self._grids.dc_shift.apply(precision)
        planes: list[Values] = []
        for channel in range(3):
            values = None if given is None else given[channel]
            found = self._near(f"dc{channel}", 16, shifts, shifts, values)
            planes.append(_within(found, 2**15, "dc"))
        return np.stack(planes)

    def sh(self, precision: Values, rows: ShRows, writes: bool) -> npt.NDArray[np.bool_]:
        channels = self._grids.sh_channels
        if not channels:
            return np.zeros(self._shape.count, np.bool_)
        order = step_major(self._shape.count, self._shape.lanes)
        used = used_groups(rows).take(order) if writes else None
        groups = self._near("groups", CLASSES, precision, self._zeros, used)
        _within(groups, channels // COEFFICIENTS_PER_GROUP + 1, "sh")
        # Rows that use the most groups come first, so that the rows of any group are a slice.
        by_use = np.argsort(255 - groups.astype(np.uint8), kind="stable")
        users = np.bincount(groups, minlength=CLASSES + 1)[::-1].cumsum()[::-1]
        by_use = by_use[: users[1]]
        order = order.take(by_use)
        if writes:
            planes = kernels.best.rows_to_planes(rows, order)
        else:
            planes = np.zeros((channels, len(order)), np.int16)
        keys = first_energy_keys(self._around(groups).take(by_use))
        for channel in range(channels):
            group, within = divmod(channel, COEFFICIENTS_PER_GROUP)
            count, longer = int(users[group + 1]), int(users[group + 2])
            if within == 0:
                keys[longer:count] += ENERGY_LAST_GROUP
            self._coder.signed_plane(f"sh{channel}", keys[:count], planes[channel, :count])
        if not writes:
            for_blocks(
                len(order),
                lambda part: kernels.best.planes_to_rows(planes[:, part], order[part], rows),
            )
        return groups > 0

    def _around(self, groups: Values) -> Values:
        """The sum of the groups in the rows before and after, in the same lane."""
        lanes = self._shape.lanes
        around = np.zeros_like(groups)
        around[lanes:] += groups[:-lanes]
        around[:-lanes] += groups[lanes:]
        return around

    def _near(
        self, name: str, size: int, contexts: Values, shifts: Values, given: Values | None
    ) -> Values:
        edges = self._shape.edges[name]
        neighbour = Neighbour(self._bins[name], BINS, edges[EDGES // 2])
        return self._coder.neighbour_plane(name, size, contexts, shifts, neighbour, given)

    def _bin(self, name: str, values: Values) -> Values:
        return self._bins[name].take(values, mode="clip").astype(np.int32)


def _bin_table(edges: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """For each value up to the last edge, the number of edges at or below it."""
    values = np.arange(edges[-1] + 1)
    return np.searchsorted(np.array(edges), values, side="right").astype(np.uint8)


def used_groups(sh: ShRows) -> Values:
    """Groups of coefficients up to the last that is not 0, of each row (n, C)."""
    used = np.zeros(len(sh), np.int32)
    groups = (np.arange(sh.shape[1]) // COEFFICIENTS_PER_GROUP + 1).astype(np.uint8)

    def count(block: slice) -> None:
        by_channel = np.ascontiguousarray(((sh[block] != 0) * groups).T)
        used[block] = by_channel.max(axis=0, initial=0)

    for_blocks(len(sh), count)
    return used


def _zigzag(values: Values) -> Values:
    return (values << 1) ^ (values >> 31)


def _unzigzag(values: Values) -> Values:
    return (values >> 1) ^ -(values & 1)


def _within(values: Values, levels: int, attribute: str) -> Values:
    if len(values) and (values.min() < 0 or values.max() >= levels):
        raise CorruptFile(attribute, f"a symbol outside 0 to {levels - 1}")
    return values


def layer_columns(rows: GridSplats, lanes: int) -> LayerColumns:
    """The columns of one layer, whose rows are in Morton order."""
    order = step_major(rows.count, lanes)
    position = rows.grids.position
    fine = position.bits - position.coarse_bits
    dropped = position.shift.apply(rows.precision, *rows.scale.T)
    low_bits = (rows.xyz & ((1 << fine) - 1)) >> dropped[:, None]
    return LayerColumns(
        codes=compact_morton_codes(rows.xyz >> fine),
        low_bits=_planes(low_bits, order),
        opacity=rows.opacity[order],
        scale=_planes(rows.scale, order),
        precision=rows.precision[order],
        rotation=_planes(rows.rotation, order),
        dc=_planes(rows.dc, order),
    )


def put_rows(columns: LayerColumns, shape: LayerShape, rows: Mapping[str, Integers]) -> None:
    """Fills the arrays of GridSplats, by name, with the columns; rows in Morton order."""
    position = shape.grids.position
    order = step_major(shape.count, shape.lanes)
    place = np.empty(shape.count, np.intp)
    place[order] = np.arange(shape.count)
    fine = position.bits - position.coarse_bits
    dropped = position.shift.apply(columns.precision, *columns.scale)
    _put(columns.low_bits << dropped, place, rows["xyz"])
    rows["xyz"][:] |= morton_cells(columns.codes) << fine
    for name in ("opacity", "scale", "precision", "rotation", "dc"):
        _put(getattr(columns, name), place, rows[name])


def _planes(rows: npt.NDArray, order: npt.NDArray[np.intp]) -> npt.NDArray:
    """Rows (N, C), reordered, as contiguous planes (C, N)."""
    return np.ascontiguousarray(rows.take(order, axis=0).T)


def _put(planes: npt.NDArray, place: npt.NDArray[np.intp], rows: npt.NDArray) -> None:
    """Planes (C, N) or (N,) into rows (N, C) or (N,), reordered.

    Whole rows move faster than single numbers.
    """
    np.ascontiguousarray(planes.T).take(place, axis=0, out=rows, mode="clip")
