# SPDX-License-Identifier: Apache-2.0
"""A model of which any rows can be read, so that it need not fit into memory. NumPy only."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from splat_formats.files import format_to_read
from splat_formats.ply import read_ply_scene, scene_of_table, xyz_of, zeros_notices
from splat_formats.ply_table import MappedPly, map_ply_table
from splat_formats.positions import relative_to
from splat_formats.repairs import zero_rows
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import FloatArray, Splats

_ROWS_AT_ONCE = 1 << 18
_SAMPLE = 1 << 17  # rows that show what the model is like, and what the reader has to change

Rows = npt.NDArray[np.integer]


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

    def positions(self) -> FloatArray:
        """(N, 3) the centres, relative to the origin."""
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

    def positions(self) -> FloatArray:
        """(N, 3) the centres."""
        return self.scene.splats.xyz

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

    def positions(self) -> FloatArray:
        """(N, 3) the centres, relative to the origin."""
        xyz = np.empty((self.count, 3), np.float32)
        for start in range(0, self.count, _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            xyz[part] = relative_to(xyz_of(self.table.table(part)), self.metadata.origin)
        return xyz

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
