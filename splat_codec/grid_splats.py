# SPDX-License-Identifier: Apache-2.0
"""A version-2 model as integers: exactly what its file holds."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import for_blocks
from splat_codec.exact_values import NONE, ExactValues, pack_exact_values
from splat_codec.grid_record import pack_grids
from splat_codec.grids import FloatArray, Grids, Integers
from splat_codec.shared_sh import NONE_SHARED, SharedSh

_ROWS_AT_ONCE = 1 << 12  # whose SH are in the cache
_COLUMNS = ("xyz", "opacity", "scale", "precision", "rotation", "dc", "sh")


@dataclass(frozen=True, eq=False)
class GridSplats:
    """N Gaussians in integers, and the grids that give them values.

    The scales of a Gaussian are in descending order. Its rotation is that of the ordered axes, as a
    unit quaternion with w >= 0; w is not stored.
    """

    grids: Grids
    xyz: Integers
    """(N, 3) cells, 0 to 2^bits - 1; the low bits that are not stored for a Gaussian are 0."""
    opacity: Integers
    """(N,)"""
    scale: Integers
    """(N, 3), in descending order."""
    precision: Integers
    """(N,) classes."""
    rotation: Integers
    """(N, 3): x, y, z of the unit quaternion, in steps << shift; may be negative."""
    dc: Integers
    """(N, 3), 0 or more, in steps << shift above `dc_low`."""
    sh: npt.NDArray[np.int16]
    """(N, C) in steps of the precision class."""
    far_rows: Integers
    """(M,) ascending: rows whose centre is outside the cells."""
    far_xyz: FloatArray
    """(M, 3) those centres."""
    layer_ends: tuple[int, ...]
    """Rows 0 .. layer_ends[k] - 1 are a coarser model, of layers 0 .. k."""
    exact: ExactValues = NONE
    """Numbers that replace the ones that the integers decode to."""
    shared: SharedSh = NONE_SHARED
    """Rows whose SH are those of another row; their `sh` are 0."""

    def __post_init__(self) -> None:
        count, rest = self.count, self.grids.sh_channels
        expected = {
            "xyz": (count, 3),
            "opacity": (count,),
            "scale": (count, 3),
            "precision": (count,),
            "rotation": (count, 3),
            "dc": (count, 3),
            "sh": (count, rest),
            "far_xyz": (len(self.far_rows), 3),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} {shape} expected, got {getattr(self, name).shape}")
        ends = (0, *self.layer_ends)
        if ends[-1] != count or list(ends) != sorted(ends) or not 2 <= len(ends) <= 17:
            raise ValueError(f"1 to 16 ascending layer ends up to {count} expected, got {ends}")
        layer_of = np.searchsorted(self.layer_ends, [self.shared.rows, self.shared.owners], "right")
        if (layer_of[0] < layer_of[1]).any():
            raise ValueError("a row shares the SH of a row in a later layer")

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return len(self.xyz)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return self.grids.sh_degree

    def reordered(self, order: npt.NDArray[np.intp], layer_ends: tuple[int, ...]) -> "GridSplats":
        """The model whose row i is row order[i] of this one."""
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        far = position[self.far_rows]
        by_row = np.argsort(far, kind="stable")
        return replace(
            self,
            **{name: getattr(self, name).take(order, axis=0) for name in _COLUMNS},
            far_rows=far[by_row].astype(np.int32),
            far_xyz=self.far_xyz[by_row],
            layer_ends=layer_ends,
            exact=self.exact.moved(position),
            shared=self.shared.moved(position),
        )

    def first_layers(self, layers: int) -> "GridSplats":
        """The coarser model of the first `layers` layers (all, if there are fewer)."""
        ends = self.layer_ends[:layers]
        return replace(self._part(0, ends[-1], ends), shared=self.shared.up_to(ends[-1]))

    def split(self) -> list["GridSplats"]:
        """Each layer's rows as a model of one layer, without SH of other rows."""
        starts = (0, *self.layer_ends)
        return [
            self._part(low, high, (high - low,))
            for low, high in zip(starts, self.layer_ends, strict=False)
        ]

    def _part(self, low: int, high: int, layer_ends: tuple[int, ...]) -> "GridSplats":
        far = (self.far_rows >= low) & (self.far_rows < high)
        return replace(
            self,
            **{name: getattr(self, name)[low:high] for name in _COLUMNS},
            far_rows=self.far_rows[far] - np.int32(low),
            far_xyz=self.far_xyz[far],
            layer_ends=layer_ends,
            exact=self.exact.between(low, high),
            shared=NONE_SHARED,
        )

    def values(self) -> dict[str, FloatArray]:
        """The decoded float32 values (N, C) of every attribute, by the names of version 1."""
        values = {
            "xyz": self._xyz_values(),
            "opacity": self.grids.opacity.values(self.opacity)[:, None],
            "scaling": self.grids.scale.values(self.scale),
            "rotation": self._rotation_values(),
            "features_dc": self._dc_values(),
            "features_rest": self._sh_values(),
        }
        self.exact.put_into(values)
        return values

    def _axes(self) -> tuple[Integers, Integers, Integers, Integers]:
        return self.precision, self.scale[:, 0], self.scale[:, 1], self.scale[:, 2]

    def _xyz_values(self) -> FloatArray:
        grid = self.grids.position
        half = (1 << grid.shift.apply(*self._axes())) >> 1
        scaled = (self.xyz + half[:, None]).astype(np.float32) * np.float32(grid.cell)
        values = scaled + np.array(grid.origin, np.float32)
        values[self.far_rows] = self.far_xyz
        return values

    def _rotation_values(self) -> FloatArray:
        shift = self.grids.rotation_shift.apply(*self._axes())
        steps = (self.rotation << shift[:, None]).astype(np.float32)
        vector = steps * np.float32(self.grids.rotation_step)
        x, y, z = (vector * vector).T
        w = np.sqrt(np.maximum(np.float32(1) - ((x + y) + z), np.float32(0)))
        return np.concatenate([w[:, None], vector], axis=1)

    def _dc_values(self) -> FloatArray:
        shift = self.grids.dc_shift.apply(self.precision)
        steps = (self.dc << shift[:, None]) + np.array(self.grids.dc_low, np.int32)
        return self.grids.dc_transform.inverse(steps) * np.float32(self.grids.dc_step)

    def _sh_values(self) -> FloatArray:
        values = np.empty((self.count, self.grids.sh_channels), np.float32)
        steps = np.array(self.grids.sh_steps, np.float32).take(self.precision)

        def decode(block: slice) -> None:
            coordinates = self.grids.sh_transform.inverse(self.sh[block])
            np.multiply(coordinates, steps[block, None], out=values[block])

        for_blocks(self.count, decode, _ROWS_AT_ONCE)
        self.shared.put_into(values)
        return values


def same_integers(a: GridSplats, b: GridSplats) -> bool:
    """Whether two models agree in every integer, every grid and every layer."""
    others = ("grids", "layer_ends", "exact", "shared")
    names = [f.name for f in fields(GridSplats) if f.name not in others]
    return (
        pack_grids(a.grids) == pack_grids(b.grids)
        and a.layer_ends == b.layer_ends
        and pack_exact_values(a.exact) == pack_exact_values(b.exact)
        and np.array_equal(a.shared.rows, b.shared.rows)
        and np.array_equal(a.shared.owners, b.shared.owners)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    )
