# SPDX-License-Identifier: Apache-2.0
"""Reads streamed SOG (PlayCanvas): lod-meta.json, levels of detail in several SOG models.

A tree divides space; a leaf names, for each level, a run of Gaussians in one of the models. The
finest level is read. Source: the specification at developer.playcanvas.com (user manual, "The
Streamed SOG Format", version 1), and files of splat-transform 2.7.1. docs/formats.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from splat_formats.json_values import Checked, Object
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.sog import read_sog
from splat_formats.sog_meta import MAX_COUNT
from splat_formats.sog_parts import META
from splat_formats.splats import joined

INDEX = "lod-meta.json"
VERSION = 1
MOST_LEVELS = 64

_LIMIT = 1 << 26  # bytes
_CHECKED = Checked(INDEX)


@dataclass(frozen=True)
class _Run:
    """Gaussians that follow each other in a model."""

    file: int
    first: int
    count: int


def is_streamed_index(head: bytes) -> bool:
    """Whether a file that begins with `head` is a lod-meta.json."""
    return head.lstrip().startswith(b"{") and b'"lodLevels"' in head


def is_streamed_path(path: Path) -> bool:
    """Whether `path` is a folder with a lod-meta.json."""
    return path.is_dir() and (path / INDEX).is_file()


def read_streamed_sog(path: Path) -> SplatScene:
    """The finest level of each leaf, and the environment, in a folder or beside a lod-meta.json.

    Raises CorruptFile.
    """
    index_at = path / INDEX if path.is_dir() else path
    if index_at.stat().st_size > _LIMIT:
        raise _CHECKED.error(f"at most {_LIMIT:,} bytes are expected")
    index = _CHECKED.parsed(index_at.read_bytes())
    _CHECKED.whole(index, "version", VERSION, default=VERSION)
    levels = _CHECKED.whole(index, "lodLevels", MOST_LEVELS)
    names = _CHECKED.names(index, "filenames")
    runs = list(_finest_runs(_CHECKED.member(index, "tree"), len(names), levels))
    if sum(run.count for run in runs) > MAX_COUNT:
        raise _CHECKED.error(f"more than {MAX_COUNT:,} Gaussians")
    scenes = _scenes(index_at.parent, names, runs)
    environment = _CHECKED.text(index, "environment")
    if environment is not None:
        scenes.append(_model(index_at.parent, environment))
    if not scenes:
        raise _CHECKED.error("a leaf with Gaussians is expected, the tree has none")
    notices = dict.fromkeys(notice for scene in scenes for notice in scene.metadata.notices)
    left_out = (f"the finest of {levels} levels of detail was read",) if levels > 1 else ()
    antialiasing = any(scene.metadata.antialiasing for scene in scenes)
    metadata = SplatMetadata(antialiasing=antialiasing, notices=(*left_out, *notices))
    return SplatScene(joined([scene.splats for scene in scenes]), metadata)


def _finest_runs(tree: Object, files: int, levels: int) -> Iterator[_Run]:
    """The runs of the finest level of each leaf."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        nodes += reversed(_CHECKED.objects(node, "children"))
        if "lods" not in node:
            continue
        lods = _CHECKED.member(node, "lods")
        present = [str(level) for level in range(levels) if str(level) in lods]
        if present:
            run = _CHECKED.member(lods, present[0])
            yield _Run(
                _CHECKED.whole(run, "file", max(files - 1, 0)),
                _CHECKED.whole(run, "offset", MAX_COUNT),
                _CHECKED.whole(run, "count", MAX_COUNT),
            )


def _scenes(folder: Path, names: tuple[str, ...], runs: list[_Run]) -> list[SplatScene]:
    """The Gaussians of the runs, from each model that they name."""
    by_file: dict[int, list[_Run]] = {}
    for run in runs:
        by_file.setdefault(run.file, []).append(run)
    scenes = []
    for file, wanted in by_file.items():
        if not names:
            raise _CHECKED.error("filenames: the paths of models are expected, got none")
        scene = _model(folder, names[file])
        count = scene.splats.count
        named = sum(run.count for run in wanted)
        if max(run.first + run.count for run in wanted) > count or named > count:
            raise _CHECKED.error(f"{names[file]!r:.80}: {count:,} Gaussians, leaves name more")
        rows = [np.arange(run.first, run.first + run.count) for run in wanted]
        taken = scene.splats.rows(np.concatenate(rows))
        scenes.append(SplatScene(taken, scene.metadata))
    return scenes


def _model(folder: Path, name: str) -> SplatScene:
    """A SOG model that lod-meta.json names by the path of its meta.json."""
    parts = PurePosixPath(name).parts
    strange = any(sign in name for sign in "\\:\0") or bool(set(parts) & {"..", "/"})
    if strange or not parts or parts[-1] != META:
        raise _CHECKED.error(f"a path to a {META} inside the folder is expected, got {name!r:.80}")
    place = folder.joinpath(*parts)
    if not place.is_file():
        raise _CHECKED.error(f"no file {name!r:.80} in {folder}")
    if not place.resolve().is_relative_to(folder.resolve()):
        raise _CHECKED.error(f"{name!r:.80}: a link that leaves the folder is not followed")
    return read_sog(place)
