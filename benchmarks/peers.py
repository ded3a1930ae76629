# SPDX-License-Identifier: Apache-2.0
"""SPZ 4 and SOG 2 of a model: their bytes, and the model that they decode to, for comparison only.

SOG with palettes of a chosen size, which `splat_formats` does not write; from its public
description (developer.playcanvas.com, "SOG"). Gaussians are in Morton order in both.
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splat_codec.order import morton_order
from splat_formats.byte_codes import (
    ROOT_HALF,
    alpha_bytes,
    logits,
    quaternions,
    rounded_bytes,
    three_smallest,
)
from splat_formats.scene import SplatScene
from splat_formats.splats import Splats
from splat_formats.spz import read_spz, write_spz
from splat_formats.spz_container import pack, unpack

_SPZ_ZSTD_LEVEL = 19  # higher than the default of writers
_PALETTE_ROWS_AT_ONCE = 256
_LLOYD_STEPS = 12


@dataclass(frozen=True)
class Peer:
    """A file's size and what it decodes to."""

    size: int
    decoded: Splats


def in_morton_order(splats: Splats) -> Splats:
    order = morton_order(splats.xyz)
    return Splats(*(getattr(splats, name)[order] for name in Splats.__dataclass_fields__))


def spz(splats: Splats) -> Peer:
    """SPZ version 4, packed more than writers do by default."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.spz"
        write_spz(path, SplatScene(splats))
        size = len(pack(unpack(path.read_bytes()), _SPZ_ZSTD_LEVEL))
        return Peer(size, read_spz(path).splats)


def webp(channels: list[np.ndarray], width: int) -> bytes:
    """A lossless image of one texel each, row by row."""
    height = -(-len(channels[0]) // width)
    height += -height % 4
    texels = np.zeros((height * width, len(channels)), np.uint8)
    texels[: len(channels[0])] = np.stack(channels, axis=1)
    mode = {3: "RGB", 4: "RGBA"}[len(channels)]
    image = Image.fromarray(texels.reshape(height, width, -1), mode=mode)
    file = io.BytesIO()
    # Quality 100 takes a hundred times as long; bytes are within 0.3 %, more or fewer.
    image.save(file, "WEBP", lossless=True, exact=True, quality=75, method=6)
    return file.getvalue()


def codebook(values: np.ndarray) -> np.ndarray:
    """256 levels (Lloyd's algorithm from quantiles)."""
    ordered = np.sort(values.ravel().astype(np.float64))
    levels = np.quantile(ordered, (np.arange(256) + 0.5) / 256)
    sums = np.r_[0, np.cumsum(ordered)]
    for _ in range(_LLOYD_STEPS):
        ends = np.r_[0, np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2), len(ordered)]
        counts = np.diff(ends)
        means = (sums[ends[1:]] - sums[ends[:-1]]) / np.maximum(counts, 1)
        levels = np.sort(np.where(counts > 0, means, levels))
    return levels.astype(np.float32)


def indices(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)


def palette(rows: np.ndarray, part: int) -> tuple[np.ndarray, np.ndarray]:
    """A palette (K, C) of SH and labels (N,): one step of k-means from evenly chosen rows.

    If there are no more distinct rows than entries, the palette is these rows, as in SOG itself.
    """
    size = min(65536, 1024 * 2 ** int(np.log2(max(1, len(rows) / 1024)))) // part
    distinct, labels = np.unique(rows, axis=0, return_inverse=True)
    if len(distinct) <= size:
        return distinct, labels.reshape(-1)
    centres = rows[np.linspace(0, len(rows) - 1, size).astype(int)].copy()
    labels = nearest(rows, centres)
    counts = np.bincount(labels, minlength=size)
    sums = np.zeros(centres.shape, np.float64)
    np.add.at(sums, labels, rows)
    used = counts > 0
    centres[used] = (sums[used] / counts[used, None]).astype(np.float32)
    return centres, nearest(rows, centres)


def nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    half_norms = (centres**2).sum(axis=1) / 2
    labels = np.empty(len(rows), np.int64)
    for low in range(0, len(rows), _PALETTE_ROWS_AT_ONCE):
        part = rows[low : low + _PALETTE_ROWS_AT_ONCE]
        labels[low : low + len(part)] = (part @ centres.T - half_norms).argmax(axis=1)
    return labels


def sog(splats: Splats, part: int = 1) -> Peer:
    """SOG version 2, bundled, with a palette of 1 / `part` of the usual size.

    The usual size grows with the model up to 65536 entries, nearly all rows of a small model.
    """
    count = splats.count
    width = -(-int(np.ceil(np.sqrt(count))) // 4) * 4
    logged = np.sign(splats.xyz) * np.log1p(np.abs(splats.xyz))
    low, high = logged.min(axis=0), logged.max(axis=0)
    means = np.rint((logged - low) / (high - low) * 65535).astype(np.uint16)
    scale_levels, dc_levels = codebook(splats.scaling), codebook(splats.features_dc)
    scale = indices(splats.scaling, scale_levels)
    dc = indices(splats.features_dc[:, 0], dc_levels)
    alpha = alpha_bytes(splats.opacity)
    largest, three = three_smallest(splats.rotation)
    quaternion_bytes = rounded_bytes(255 * (three * ROOT_HALF + 0.5))
    images = {
        "means_l.webp": webp(list((means & 255).astype(np.uint8).T), width),
        "means_u.webp": webp(list((means >> 8).astype(np.uint8).T), width),
        "scales.webp": webp(list(scale.T), width),
        "quats.webp": webp([*quaternion_bytes.T, (252 + largest).astype(np.uint8)], width),
        "sh0.webp": webp([*dc.T, alpha], width),
    }
    levels = [scale_levels, dc_levels]
    rest = splats.features_rest
    if rest.size:
        sh_images, sh_levels, rest = sog_harmonics(rest, part, width)
        images |= sh_images
        levels.append(sh_levels)
    numbers = [np.round(level.astype(float), 6).tolist() for level in levels]
    meta = {"version": 2, "count": count, "codebooks": numbers, "mins": low.tolist(),
            "maxs": high.tolist(), "files": sorted(images)}  # fmt: skip
    found = means / 65535 * (high - low) + low
    decoded = replace(
        splats,
        xyz=(np.sign(found) * np.expm1(np.abs(found))).astype(np.float32),
        features_dc=dc_levels[dc][:, None],
        features_rest=rest,
        opacity=logits(alpha),
        scaling=scale_levels[scale],
        rotation=quaternions(largest, (quaternion_bytes / 255 - 0.5) / ROOT_HALF),
    )
    return Peer(archive_size(meta, images), decoded)


def sog_harmonics(
    rest: np.ndarray, part: int, width: int
) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """SH (N, K, 3) as images by name, their codebook, and the decoded SH (N, K, 3)."""
    centres, labels = palette(rest.reshape(len(rest), -1), part)
    levels = codebook(centres)
    entries = indices(centres, levels)
    low, high = (labels & 255).astype(np.uint8), (labels >> 8).astype(np.uint8)
    texels = entries.reshape(-1, 3)  # 64 centroids a row, coefficient by coefficient
    images = {
        "shN_labels.webp": webp([low, high, np.zeros(len(rest), np.uint8)], width),
        "shN_centroids.webp": webp(list(texels.T), 64 * rest.shape[1]),
    }
    return images, levels, levels[entries][labels].reshape(rest.shape)


def archive_size(meta: dict[str, Any], images: dict[str, bytes]) -> int:
    """Bytes of the zip file that holds these."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("meta.json", json.dumps(meta))
        for name, data in images.items():
            archive.writestr(name, data)
    return len(file.getvalue())


PEERS: dict[str, Callable[[Splats], Peer]] = {
    "SPZ 4": spz,
    "SOG 2, a sixteenth of its palette": partial(sog, part=16),
    "SOG 2": sog,
}
