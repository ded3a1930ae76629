# SPDX-License-Identifier: Apache-2.0
"""Writes SOG version 2 bundles. Needs Pillow."""

import json
import math
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splat_formats.byte_codes import ROOT_HALF, alpha_bytes, outside, three_smallest
from splat_formats.file_description import GENERATOR
from splat_formats.lossless_images import ByteArray, encoded, required_pillow
from splat_formats.palettes import levels_of, nearest_levels, palette_of
from splat_formats.prepared import clipped_notices, prepared
from splat_formats.scene import SplatScene, Written
from splat_formats.sog import ENTRIES_PER_ROW, FIRST_TAG
from splat_formats.sog_meta import LEVELS, MAX_COUNT, MAX_PALETTE
from splat_formats.sog_parts import META
from splat_formats.splats import FloatArray, Splats
from utils.errors import InputError
from utils.files import atomic_path

_LEAST_PALETTE = 1024
_MOST_SH = 1e4  # far beyond any colour; its square is far from the limits of float32
_SIDE_UNIT = 4  # texels: widths and heights are multiples of it
_DIGITS = 7  # of a codebook's numbers
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # in the bundle, so that equal models become equal files

_Images = dict[str, ByteArray]


@dataclass(frozen=True, eq=False)
class _Part:
    """An entry of meta.json and the images that it names: (N, 3 or 4) texels."""

    entry: Mapping[str, Any]
    texels: _Images


def write_sog(path: Path, scene: SplatScene, palette_entries: int | None = None) -> Written:
    """Writes the scene as a bundle, whole or not at all.

    The palette of higher spherical harmonics has up to `palette_entries` rows (1 to 65536), by
    default as many as other writers choose.
    """
    required_pillow()  # before all other work
    ready = prepared(scene)
    if ready.splats.count > MAX_COUNT:
        raise InputError(
            f"{path}: {ready.splats.count:,} Gaussians, SOG holds at most {MAX_COUNT:,}"
        )
    antialiasing = scene.metadata.antialiasing
    _write_bundle(path, sog_files(ready.splats, antialiasing, palette_entries))
    return Written((*ready.notices, *sog_clipped(ready.splats)), ready.rows)


def sog_clipped(splats: Splats) -> tuple[str, ...]:
    """A sentence if values of this model are clipped."""
    beyond = outside(splats.features_rest, -_MOST_SH, _MOST_SH)
    return clipped_notices({f"higher SH coefficients to ±{_MOST_SH:g}": beyond})


def sog_files(
    splats: Splats, antialiasing: bool, palette_entries: int | None = None
) -> dict[str, bytes]:
    """meta.json and the images of finite Gaussians, in their order, by name."""
    parts = {
        "means": _means(splats.xyz),
        "scales": _table(splats.scaling, "scales.webp"),
        "quats": _rotations(splats.rotation),
        "sh0": _table(splats.features_dc[:, 0], "sh0.webp", alpha_bytes(splats.opacity)),
    }
    if splats.features_rest.size:
        parts["shN"] = _harmonics(splats, palette_entries or palette_size(splats.count))
    meta = {"version": 2, "asset": {"generator": GENERATOR}, "count": splats.count}
    if antialiasing:
        meta["model"] = "antialiased"
    meta |= {name: {**part.entry, "files": list(part.texels)} for name, part in parts.items()}
    images = {name: texels for part in parts.values() for name, texels in part.texels.items()}
    text = json.dumps(meta, separators=(",", ":"), allow_nan=False)
    return {META: text.encode(), **_encoded(images)}


def _means(xyz: FloatArray) -> _Part:
    exact = xyz.astype(np.float64)
    logged = np.copysign(np.log1p(np.abs(exact)), exact)
    logged = logged if len(logged) else np.zeros((1, 3))
    low, high = logged.min(axis=0), logged.max(axis=0)
    steps = np.rint((logged - low) / np.where(high > low, high - low, 1) * 65535)
    whole = steps.astype(np.uint16)[: len(xyz)]
    texels = {"means_l.webp": (whole & 255).astype(np.uint8),
              "means_u.webp": (whole >> 8).astype(np.uint8)}  # fmt: skip
    return _Part({"mins": low.tolist(), "maxs": high.tolist()}, texels)


def _rotations(rotation: FloatArray) -> _Part:
    largest, three = three_smallest(rotation)
    texels = np.empty((len(rotation), 4), np.uint8)
    texels[:, :3] = np.rint((three * ROOT_HALF + 0.5) * 255)
    texels[:, 3] = FIRST_TAG + largest
    return _Part({}, {"quats.webp": texels})


def _table(values: FloatArray, name: str, alpha: ByteArray | None = None) -> _Part:
    """(N, 3) values as indices into a codebook."""
    levels = _levels(values)
    texels = nearest_levels(values, levels)
    if alpha is not None:
        texels = np.concatenate([texels, alpha[:, None]], axis=1)
    return _Part({"codebook": _numbers(levels)}, {name: texels})


def _harmonics(splats: Splats, size: int) -> _Part:
    """The higher spherical harmonics as a palette of up to `size` rows."""
    rows = np.clip(splats.features_rest.reshape(splats.count, -1), -_MOST_SH, _MOST_SH)
    palette = palette_of(rows, min(size, MAX_PALETTE))
    entries = palette.entries.reshape(-1, *splats.features_rest.shape[1:])
    levels = _levels(entries)
    height = -(-len(entries) // ENTRIES_PER_ROW)
    width = ENTRIES_PER_ROW * entries.shape[1]
    centroids = np.zeros((height * width, 3), np.uint8)
    centroids[: entries.size // 3] = nearest_levels(entries, levels).reshape(-1, 3)
    labels = np.zeros((splats.count, 3), np.uint8)
    labels[:, 0], labels[:, 1] = palette.labels & 255, palette.labels >> 8
    entry = {"count": len(entries), "bands": splats.sh_degree, "codebook": _numbers(levels)}
    return _Part(entry, {"shN_centroids.webp": centroids.reshape(height, width, 3),
                         "shN_labels.webp": labels})  # fmt: skip


def palette_size(count: int) -> int:
    """Entries of the palette for `count` Gaussians: 1024 to 65536, powers of two."""
    power = int(math.log2(max(1, count // _LEAST_PALETTE)))
    return min(MAX_PALETTE, _LEAST_PALETTE << power)


def _levels(values: FloatArray) -> FloatArray:
    """The codebook, as the decimal numbers of the file give it."""
    return np.array(_numbers(levels_of(values, LEVELS)), np.float32)


def _numbers(levels: FloatArray) -> list[float]:
    """Short decimal numbers: the file gets smaller, and the values hardly change."""
    return [float(f"{level:.{_DIGITS}g}") for level in levels.tolist()]


def _encoded(images: _Images) -> dict[str, bytes]:
    """The images, encoded at the same time: the encoder releases the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(images, pool.map(_encode, images.values()), strict=True))


def _encode(texels: ByteArray) -> bytes:
    return encoded(texels if texels.ndim == 3 else _in_rows(texels))


def _in_rows(texels: ByteArray) -> ByteArray:
    """(N, C) texels as an image that is about square, its unused texels 0."""
    count, channels = texels.shape
    width = max(1, math.ceil(math.sqrt(count) / _SIDE_UNIT)) * _SIDE_UNIT
    height = max(1, math.ceil(count / width / _SIDE_UNIT)) * _SIDE_UNIT
    image = np.zeros((height * width, channels), np.uint8)
    image[:count] = texels
    return image.reshape(height, width, channels)


def _write_bundle(path: Path, files: Mapping[str, bytes]) -> None:
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in files.items():
            # Images do not get smaller by deflating. meta.json does, but not all readers inflate.
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), data, zipfile.ZIP_STORED)
