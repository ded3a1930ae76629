# SPDX-License-Identifier: Apache-2.0
"""A model of which any rows can be read, so that it need not fit into memory. NumPy only."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from splat_formats.files import format_to_read
from splat_formats.outliers import visible_rows
from splat_formats.ply import (
    opacity_of,
    read_ply_scene,
    scene_of_table,
    xyz_of,
    zeros_notices,
)
from splat_formats.ply_table import MappedPly, map_ply_table
from splat_formats.positions import relative_to
from splat_formats.repairs import zero_rows
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import FloatArray, Splats

_ROWS_AT_ONCE = 1 << 18
_SAMPLE = 1 << 17  # rows that show what the model is like, and what the reader has to change

Rows = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Outline:
    """What is known of a model before its Gaussians are read."""

    xyz: FloatArray
    """(N, 3) the centres, relative to the origin."""
    visible: int
    """Gaussians whose opacity is high enough for an image to show them. Others of their values may
    be such that no image does: at most so many are shown."""


class RowSource(Protocol):
    """N Gaussians, of which any can be read."""

    @property
    def count(self) -> int:
        """N."""
        ...

    @property
    def metadata(self) -> SplatMetadata:
        """That of the whole model."""
        ...

    @property
    def sh_degree(self) -> int:
        """Of all Gaussians."""
        ...

    def outline(self) -> Outline:
        """What is needed of all Gaussians at once."""
        ...

    def splats(self, rows: Rows) -> Splats:
        """The Gaussians of these rows, which are in ascending order."""
        ...

    def sample(self) -> Splats:
        """Some Gaussians, at equal distances in the file, that show what the model is like."""
        ...


@dataclass(frozen=True, eq=False)
class SceneRows:
    """A scene in memory."""

    scene: SplatScene

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return self.scene.splats.count

    @property
    def metadata(self) -> SplatMetadata:
        """The scene's."""
        return self.scene.metadata

    @property
    def sh_degree(self) -> int:
        """The scene's."""
        return self.scene.splats.sh_degree

    def outline(self) -> Outline:
        """See RowSource."""
        splats = self.scene.splats
        return Outline(splats.xyz, int(visible_rows(splats.opacity).sum()))

    def splats(self, rows: Rows) -> Splats:
        """The Gaussians of these rows."""
        return self.scene.splats.rows(rows.astype(np.intp))

    def sample(self) -> Splats:
        """See RowSource."""
        return self.scene.splats.rows(_sampled(self.count).astype(np.intp))


@dataclass(frozen=True, eq=False)
class PlyRows:
    """A PLY file that is mapped into memory."""

    table: MappedPly
    metadata: SplatMetadata
    """Of a sample of the rows. Its notices are about the file, not about single rows."""
    sampled: Splats

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return self.table.count

    @property
    def sh_degree(self) -> int:
        """That of the sample."""
        return self.sampled.sh_degree

    def outline(self) -> Outline:
        """See RowSource. Filters of Mip-Splatting, which lower opacities, are left out."""
        xyz, visible = np.empty((self.count, 3), np.float32), 0
        for part, table in self.table.parts(_ROWS_AT_ONCE):
            xyz[part] = relative_to(xyz_of(table), self.metadata.origin)
            visible += int(visible_rows(opacity_of(table)).sum())
        return Outline(xyz, visible)

    def splats(self, rows: Rows) -> Splats:
        """The Gaussians of these rows."""
        return scene_of_table(self.table.table(rows), self.metadata.origin).splats

    def sample(self) -> Splats:
        """See RowSource."""
        return self.sampled


def rows_of_ply(path: Path, least: int = 1) -> PlyRows | None:
    """The rows of a plain binary PLY with `least` Gaussians or more; None for any other file.

    Raises InputError for a PLY that is cut short, or without a property of a Gaussian.
    """
    if not path.is_file() or format_to_read(path).read is not read_ply_scene:
        return None
    table = map_ply_table(path)
    if table is None or table.count < least:
        return None
    found = scene_of_table(table.table(_sampled(table.count)))
    counted = zeros_notices(zero_rows(found.splats))  # of the sample, not of the file
    notices = tuple(notice for notice in found.metadata.notices if notice not in counted)
    metadata = replace(found.metadata, notices=notices)
    return PlyRows(table, metadata, found.splats)


def _sampled(count: int) -> Rows:
    """The rows of a sample."""
    return np.arange(0, count, max(1, count // _SAMPLE))
