# SPDX-License-Identifier: Apache-2.0
"""meta.json of a SOG model, versions 1 and 2, checked.

Source: the specification at developer.playcanvas.com (user manual, "The SOG Format"); version 1
from files. In both, a byte of an image is an index into a table of 256 values for its channel.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile
from splat_formats.byte_values import logits_of_bytes
from splat_formats.sog_parts import META
from splat_formats.splats import MAX_SH_DEGREE, FloatArray

LEVELS = 256
MAX_PALETTE = 1 << 16
MAX_COUNT = 1 << 26
"""Gaussians: 64 million; images of more are larger than Pillow decodes without a warning."""


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
    """None if the file does not tell: as many as its image holds."""
    degree: int | None
    """None if the file does not tell: as the width of its image shows."""
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
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(META, f"JSON is expected: {error}") from error
    if not isinstance(meta, dict):
        raise CorruptFile(META, f"an object is expected, got {meta!r:.80}")
    version = meta.get("version", 1)
    if version == 2 and not isinstance(version, bool):
        return _version_2(meta)
    if version == 1 and not isinstance(version, bool):
        return _version_1(meta)
    raise CorruptFile(META, f"version 1 or 2 is expected, got {version!r:.80}")


def _version_2(meta: Mapping[str, Any]) -> SogMeta:
    scales, colours = _part(meta, "scales"), _part(meta, "sh0")
    dc = _codebook(colours, "sh0")
    colour_table = np.stack([dc, dc, dc, logits_of_bytes(np.arange(LEVELS, dtype=np.uint8))])
    return SogMeta(
        count=_whole(meta, "count", MAX_COUNT),
        means=_means(_part(meta, "means")),
        scales=Table(np.tile(_codebook(scales, "scales"), (3, 1)), *_files(scales, "scales", 1)),
        quaternions_file=_files(_part(meta, "quats"), "quats", 1)[0],
        colours=Table(colour_table, *_files(colours, "sh0", 1)),
        palette=_palette_2(meta),
        model="antialiased" if meta.get("antialias") is True else _text(meta, "model"),
    )


def _palette_2(meta: Mapping[str, Any]) -> Palette | None:
    if meta.get("shN") is None:
        return None
    part = _part(meta, "shN")
    entries, degree = _whole(part, "count", MAX_PALETTE), _whole(part, "bands", MAX_SH_DEGREE)
    if degree == 0:
        return None
    return Palette(entries, degree, _codebook(part, "shN"), *_files(part, "shN", 2))


def _version_1(meta: Mapping[str, Any]) -> SogMeta:
    means, scales, colours = (_part(meta, name) for name in ("means", "scales", "sh0"))
    quaternions = _part(meta, "quats")
    encoding = quaternions.get("encoding", "quaternion_packed")
    if encoding != "quaternion_packed":
        raise CorruptFile(META, f"quats: quaternion_packed is expected, got {encoding!r:.80}")
    shape = means.get("shape")
    if not isinstance(shape, list) or not shape:
        raise CorruptFile(META, f"means: a shape is expected, got {shape!r:.80}")
    return SogMeta(
        count=_whole({"means.shape[0]": shape[0]}, "means.shape[0]", MAX_COUNT),
        means=_means(means),
        scales=Table(_ramps(scales, "scales", 3), *_files(scales, "scales", 1)),
        quaternions_file=_files(quaternions, "quats", 1)[0],
        colours=Table(_ramps(colours, "sh0", 4), *_files(colours, "sh0", 1)),
        palette=_palette_1(meta),
        model=None,
    )


def _palette_1(meta: Mapping[str, Any]) -> Palette | None:
    if meta.get("shN") is None:
        return None
    part = _part(meta, "shN")
    ends = {name: part.get(name) for name in ("mins", "maxs")}
    listed = {name: end if isinstance(end, list) else [end] for name, end in ends.items()}
    return Palette(None, None, _ramps(listed, "shN", 1)[0], *_files(part, "shN", 2))


def _means(part: Mapping[str, Any]) -> Means:
    low, high = _numbers(part, "means", "mins", 3), _numbers(part, "means", "maxs", 3)
    return Means(low, high, _files(part, "means", 2))


def _ramps(part: Mapping[str, Any], name: str, channels: int) -> FloatArray:
    """(channels, 256) even steps from mins to maxs."""
    low, high = (_numbers(part, name, end, channels)[:, None] for end in ("mins", "maxs"))
    return (low + (high - low) * (np.arange(LEVELS) / (LEVELS - 1))).astype(np.float32)


def _codebook(part: Mapping[str, Any], name: str) -> FloatArray:
    """256 values. Writers of 2025 left the first one null if no value was near it."""
    values = part.get("codebook")
    if isinstance(values, list) and len(values) == LEVELS and values[0] is None:
        part = {"codebook": [values[1], *values[1:]]}
    return _numbers(part, name, "codebook", LEVELS).astype(np.float32)


def _numbers(part: Mapping[str, Any], name: str, key: str, length: int) -> npt.NDArray[np.float64]:
    values = part.get(key)
    if not isinstance(values, list) or len(values) != length:
        came = f"{len(values)}" if isinstance(values, list) else f"{values!r:.80}"
        raise CorruptFile(META, f"{name}.{key}: {length} numbers are expected, got {came}")
    for value in values:
        if not _is_number(value):
            raise CorruptFile(META, f"{name}.{key}: finite numbers are expected, got {value!r:.80}")
    return np.array(values, np.float64)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and abs(value) <= float(np.finfo(np.float32).max)


def _whole(part: Mapping[str, Any], key: str, most: int) -> int:
    value = part.get(key)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise CorruptFile(
            META, f"{key}: an integer from 0 to {most:,} is expected, got {value!r:.80}"
        )
    return value


def _part(meta: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = meta.get(name)
    if not isinstance(part, dict):
        raise CorruptFile(META, f"{name}: an object is expected, got {part!r:.80}")
    return part


def _files(part: Mapping[str, Any], name: str, count: int) -> tuple[str, ...]:
    files = part.get("files")
    if isinstance(files, list) and len(files) == count:
        names = tuple(file for file in files if isinstance(file, str))
        if len(names) == count:
            return names
    raise CorruptFile(META, f"{name}.files: {count} file names are expected, got {files!r:.80}")


def _text(meta: Mapping[str, Any], key: str) -> str | None:
    value = meta.get(key)
    if value is not None and not isinstance(value, str):
        raise CorruptFile(META, f"{key}: a text is expected, got {value!r:.80}")
    return value
