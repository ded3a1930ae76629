# SPDX-License-Identifier: Apache-2.0
"""Makes streamed SOG of several levels of detail: the files of a folder. Needs Pillow.

streamed_sog.py has the source of the layout. A tree halves space, at the median of all levels'
Gaussians along its longest side, until a leaf is small. Each level's models hold its Gaussians leaf
by leaf.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from splat_formats.file_description import GENERATOR
from splat_formats.prepared import prepared
from splat_formats.scene import SplatScene
from splat_formats.sog_parts import META
from splat_formats.sog_writer import sog_clipped, sog_files
from splat_formats.splats import FloatArray, Splats
from splat_formats.streamed_sog import INDEX, VERSION

_LEAF = 16_384
"""Gaussians of all levels in a leaf, at most, unless they have one position."""
_CHUNK = 1 << 18
"""A level's model ends with the leaf in which it gets this many Gaussians."""
_EXTENT = 3.0
"""Of a Gaussian, in standard deviations."""
_MOST_SCALE = 60.0  # so that every bound is finite

_Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Gaussians:
    """The Gaussians of all levels: (M, ...)"""

    xyz: FloatArray
    level: npt.NDArray[np.intp]
    low: FloatArray
    high: FloatArray
    """Corners of the boxes around them."""


@dataclass(frozen=True, eq=False)
class _Leaf:
    rows: _Rows
    node: dict[str, Any]
    """Its object in the index."""


@dataclass(eq=False)
class _Models:
    """The models that are being filled."""

    names: list[str] = field(default_factory=list)
    rows: list[_Rows] = field(default_factory=list)
    """Of each model, among the Gaussians of its level."""
    levels: list[int] = field(default_factory=list)


def streamed_sog_files(levels: Sequence[SplatScene]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files by their paths in a folder, and what the format cannot hold, in sentences.

    `levels`: the same scene, from the finest to the coarsest, each with a Gaussian or more.
    """
    ready = [prepared(scene) for scene in levels]
    if not ready or not all(level.splats.count for level in ready):
        raise ValueError("every level of detail needs a Gaussian that an image can show")
    splats = [level.splats for level in ready]
    tree, leaves = _tree(_all_gaussians(splats))
    models = _filled(leaves, [part.count for part in splats])
    index = {
        "version": VERSION,
        "asset": {"generator": GENERATOR},
        "count": sum(part.count for part in splats),
        "counts": [part.count for part in splats],
        "lodLevels": len(splats),
        "filenames": [f"{name}/{META}" for name in models.names],
        "tree": tree,
    }
    files = {INDEX: json.dumps(index, separators=(",", ":"), allow_nan=False).encode()}
    for name, rows, level in zip(models.names, models.rows, models.levels, strict=True):
        made = sog_files(splats[level].rows(rows), levels[level].metadata.antialiasing)
        files |= {f"{name}/{part}": data for part, data in made.items()}
    notices = [notice for level in ready for notice in (*level.notices, *sog_clipped(level.splats))]
    return files, tuple(dict.fromkeys(notices))


def _all_gaussians(levels: Sequence[Splats]) -> _Gaussians:
    xyz = np.concatenate([splats.xyz for splats in levels])
    extents = np.concatenate([_extents(splats) for splats in levels])
    level = np.repeat(np.arange(len(levels)), [splats.count for splats in levels])
    return _Gaussians(xyz, level, xyz - extents, xyz + extents)


def _extents(splats: Splats) -> FloatArray:
    """(N, 1) radii of the spheres around the ellipsoids."""
    longest = splats.scaling.max(axis=1, keepdims=True)
    return (_EXTENT * np.exp(np.minimum(longest, _MOST_SCALE))).astype(np.float32)


def _tree(found: _Gaussians) -> tuple[dict[str, Any], list[_Leaf]]:
    """The root of the tree, and its leaves in their order."""
    root: dict[str, Any] = {}
    leaves, open_nodes = [], [(root, np.arange(len(found.xyz)))]
    while open_nodes:
        node, rows = open_nodes.pop()
        node["bound"] = {
            "min": found.low[rows].min(axis=0).tolist(),
            "max": found.high[rows].max(axis=0).tolist(),
        }
        halves = _halves(found.xyz[rows]) if len(rows) > _LEAF else None
        if halves is None:
            leaves.append(_Leaf(rows, node))
            continue
        children: list[dict[str, Any]] = [{}, {}]
        node["children"] = children
        open_nodes += [(children[1], rows[~halves]), (children[0], rows[halves])]
    return root, leaves


def _halves(xyz: FloatArray) -> npt.NDArray[np.bool_] | None:
    """Which positions are below the middle of their longest side; None if all are equal."""
    sides = xyz.max(axis=0) - xyz.min(axis=0)
    values = xyz[:, int(np.argmax(sides))]
    lower = values < np.median(values)
    if not lower.any():  # half of the values or more are equal to the smallest
        lower = values <= np.median(values)
    return None if lower.all() else lower


def _filled(leaves: Sequence[_Leaf], counts: Sequence[int]) -> _Models:
    """The models of all levels; writes the runs of the leaves into their nodes."""
    models, starts = _Models(), np.concatenate([[0], np.cumsum(counts)])
    for level in range(len(counts)):
        chunk: list[_Rows] = []
        chunks = 0
        for number, leaf in enumerate(leaves):
            rows = leaf.rows[(leaf.rows >= starts[level]) & (leaf.rows < starts[level + 1])]
            if len(rows):
                offset = sum(map(len, chunk))
                run = {"file": len(models.names), "offset": offset, "count": len(rows)}
                leaf.node.setdefault("lods", {})[str(level)] = run
                chunk.append(np.sort(rows) - starts[level])
            full = sum(map(len, chunk)) >= _CHUNK or number == len(leaves) - 1
            if full and chunk:
                models.names.append(f"{level}_{chunks}")
                models.rows.append(np.concatenate(chunk))
                models.levels.append(level)
                chunks, chunk = chunks + 1, []
    return models
