# SPDX-License-Identifier: Apache-2.0
"""meta.json of a SOG model, versions 1 and 2, checked.

Source: the specification at developer.playcanvas.com (user manual, "The SOG Format"); version 1
from files. In both, a byte of an image is an index into a table of 256 values for its channel.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_formats.byte_codes import logits
from splat_formats.json_values import Checked, Object
from splat_formats.sog_parts import META
from splat_formats.splats import MAX_SH_DEGREE, FloatArray

LEVELS = 256
MAX_PALETTE = 1 << 16
MAX_COUNT = 1 << 26
"""Gaussians: 64 million; images of more are larger than Pillow decodes without a warning."""

_CHECKED = Checked(META)
_PACKED = "quaternion_packed"


@dataclass(frozen=True, eq=False)
class Means:
    """Positions, as sign(v) ln(|v| + 1), in 16 bits between two corners."""

    low: npt.NDArray[np.float64]
    """(3,)"""
    high: npt.NDArray[np.float64]
    """(3,)"""
    files: tuple[str, ...]
    """Of the low bytes, and of the high bytes."""


@dataclass(frozen=True, eq=False)
class Table:
    """An image of bytes, and the values that they stand for."""

    values: FloatArray
    """(channels, 256)"""
    file: str


@dataclass(frozen=True, eq=False)
class Palette:
    """Higher spherical harmonics: an entry of a palette for each Gaussian."""

    entries: int | None
    """None if the file does not state it: as many as its image holds."""
    degree: int | None
    """None if the file does not state it: as the width of its image shows."""
    levels: FloatArray
    """(256,)"""
    centroids_file: str
    labels_file: str


@dataclass(frozen=True, eq=False)
class SogMeta:
    """What the images of a model mean."""

    count: int
    means: Means
    scales: Table
    """Natural logarithms."""
    quaternions_file: str
    colours: Table
    """Four channels: RGB of degree 0, and opacity as a logit."""
    palette: Palette | None
    model: str | None
    """What the model is to be rendered as: "antialiased", "2dgs" or nothing special."""


def parse_meta(data: bytes) -> SogMeta:
    """The description in `data`, a JSON text. Raises CorruptFile."""
    meta = _CHECKED.parsed(data)
    version = meta.get("version", 1)
    if version == 2 and not isinstance(version, bool):
        return _version_2(meta)
    if version == 1 and not isinstance(version, bool):
        return _version_1(meta)
    raise _CHECKED.wrong("version", "1 or 2", version)


def _version_2(meta: Object) -> SogMeta:
    scales, colours = _CHECKED.member(meta, "scales"), _CHECKED.member(meta, "sh0")
    dc = _codebook(colours)
    alpha = logits(np.arange(LEVELS, dtype=np.uint8))[:, 0]
    is_antialiased = meta.get("antialias") is True  # as Spark writes it
    return SogMeta(
        count=_CHECKED.whole(meta, "count", MAX_COUNT),
        means=_means(_CHECKED.member(meta, "means")),
        scales=Table(np.tile(_codebook(scales), (3, 1)), *_files(scales, 1)),
        quaternions_file=_files(_CHECKED.member(meta, "quats"), 1)[0],
        colours=Table(np.stack([dc, dc, dc, alpha]), *_files(colours, 1)),
        palette=_palette_2(meta),
        model="antialiased" if is_antialiased else _CHECKED.text(meta, "model"),
    )


def _palette_2(meta: Object) -> Palette | None:
    if meta.get("shN") is None:
        return None
    part = _CHECKED.member(meta, "shN")
    entries = _CHECKED.whole(part, "count", MAX_PALETTE)
    degree = _CHECKED.whole(part, "bands", MAX_SH_DEGREE)
    return Palette(entries, degree, _codebook(part), *_files(part, 2)) if degree else None


def _version_1(meta: Object) -> SogMeta:
    means, scales, colours, quaternions = (
        _CHECKED.member(meta, name) for name in ("means", "scales", "sh0", "quats")
    )
    encoding = quaternions.get("encoding", _PACKED)
    if encoding != _PACKED:
        raise _CHECKED.wrong("quats.encoding", _PACKED, encoding)
    shape = means.get("shape")
    if not isinstance(shape, list) or not shape:
        raise _CHECKED.wrong("means.shape", "a list", shape)
    return SogMeta(
        count=_CHECKED.whole({"means.shape[0]": shape[0]}, "means.shape[0]", MAX_COUNT),
        means=_means(means),
        scales=Table(_ramps(scales, 3), *_files(scales, 1)),
        quaternions_file=_files(quaternions, 1)[0],
        colours=Table(_ramps(colours, 4), *_files(colours, 1)),
        palette=_palette_1(meta),
        model=None,
    )


def _palette_1(meta: Object) -> Palette | None:
    if meta.get("shN") is None:
        return None
    part = _CHECKED.member(meta, "shN")
    ends = {name: part.get(name) for name in ("mins", "maxs")}
    listed = {name: end if isinstance(end, list) else [end] for name, end in ends.items()}
    return Palette(None, None, _ramps(listed, 1)[0], *_files(part, 2))


def _means(part: Object) -> Means:
    low, high = (_CHECKED.numbers(part, end, 3) for end in ("mins", "maxs"))
    return Means(low, high, _files(part, 2))


def _ramps(part: Object, channels: int) -> FloatArray:
    """(channels, 256) even steps from mins to maxs."""
    low, high = (_CHECKED.numbers(part, end, channels)[:, None] for end in ("mins", "maxs"))
    return (low + (high - low) * (np.arange(LEVELS) / (LEVELS - 1))).astype(np.float32)


def _codebook(part: Object) -> FloatArray:
    """256 values. Some writers of 2025 have null as the first one if no value is near it."""
    values = part.get("codebook")
    if isinstance(values, list) and len(values) == LEVELS and values[0] is None:
        part = {"codebook": [values[1], *values[1:]]}
    return _CHECKED.numbers(part, "codebook", LEVELS).astype(np.float32)


def _files(part: Object, count: int) -> tuple[str, ...]:
    return _CHECKED.names(part, "files", count)
