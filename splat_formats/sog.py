# SPDX-License-Identifier: Apache-2.0
"""Reads SOG ("Spatially Ordered Gaussians", PlayCanvas): bytes in lossless images. Needs Pillow.

Versions 1 and 2, as a folder, as its meta.json, or as a bundle (a zip file). The axes are those of
the PLY. docs/formats.md has the bit depths and what follows from them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile
from splat_formats.byte_codes import ROOT_HALF, quaternions
from splat_formats.lossless_images import ByteArray, ImageSize, decoded, image_size
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.sog_meta import MAX_PALETTE, Palette, SogMeta, parse_meta
from splat_formats.sog_parts import META, Parts, opened_parts
from splat_formats.splats import REST_COEFFICIENTS, FloatArray, Splats

ENTRIES_PER_ROW = 64
"""Of the image of a palette."""
FIRST_TAG = 252
"""The alpha of a quaternion whose largest component is w; x, y, z follow."""

_META_LIMIT = 1 << 22  # bytes
_IMAGE_LIMIT = 1 << 30  # bytes
# An image may be larger than the model needs, but not much.
_SPARE_TEXELS, _SPARE_FACTOR = 1 << 20, 4
# Images of many equal Gaussians are small files. More of them than this cannot be meant.
_GAUSSIANS_PER_BYTE, _PLAUSIBLE_COUNT = 64, 1 << 20

_Images = Mapping[str, bytes]


def is_sog_meta(head: bytes) -> bool:
    """Whether a file that begins with `head` is the meta.json of a model."""
    return head.lstrip().startswith(b"{") and b'"means"' in head


def read_sog(path: Path) -> SplatScene:
    """The scene in a folder, beside a meta.json, or in a bundle. Raises CorruptFile."""
    with opened_parts(path) as parts:
        meta = parse_meta(parts.read(META, _META_LIMIT))
        images = _read_images(meta, parts)
    colours = _looked_up(_texels(meta, images, meta.colours.file), meta.colours.values)
    splats = Splats(
        xyz=_positions(meta, images),
        features_dc=colours[:, None, :3].copy(),
        features_rest=_harmonics(meta, images),
        opacity=colours[:, 3:].copy(),
        scaling=_looked_up(_texels(meta, images, meta.scales.file), meta.scales.values),
        rotation=_rotations(meta, images),
    )
    return SplatScene(
        splats, SplatMetadata(antialiasing=meta.model == "antialiased", notices=_notices(meta))
    )


def _notices(meta: SogMeta) -> tuple[str, ...]:
    if meta.model in (None, "antialiased"):
        return ()
    if meta.model == "2dgs":
        return ("2D Gaussians (model 2dgs): read as flat 3D Gaussians",)
    return (f"the model kind {meta.model!r:.80} is unknown: read as ordinary Gaussians",)


def _read_images(meta: SogMeta, parts: Parts) -> _Images:
    """The encoded images by name; the sizes that their headers declare fit the model."""
    names = [*meta.means.files, meta.scales.file, meta.quaternions_file, meta.colours.file]
    if meta.palette:
        names.append(meta.palette.labels_file)
    images = {name: parts.read(name, _IMAGE_LIMIT) for name in dict.fromkeys(names)}
    plausible = _PLAUSIBLE_COUNT + _GAUSSIANS_PER_BYTE * sum(map(len, images.values()))
    if meta.count > plausible:
        raise CorruptFile(
            META, f"{meta.count:,} Gaussians, {plausible:,} are plausible for images of their size"
        )
    for name, data in images.items():
        size = image_size(data, name)
        if not meta.count <= size.texels <= _SPARE_FACTOR * meta.count + _SPARE_TEXELS:
            raise CorruptFile(
                name, f"texels for {meta.count:,} Gaussians are expected, got {_named(size)}"
            )
    if meta.palette:
        name = meta.palette.centroids_file
        images[name] = parts.read(name, _IMAGE_LIMIT)
    return images


def _named(size: ImageSize) -> str:
    return f"{size.width} x {size.height}"


def _texels(meta: SogMeta, images: _Images, name: str) -> ByteArray:
    """(N, 4) RGBA, one texel for each Gaussian."""
    return decoded(images[name], name).reshape(-1, 4)[: meta.count]


def _looked_up(texels: ByteArray, table: FloatArray) -> FloatArray:
    """(N, C) the values of the first C channels in the table (C, 256)."""
    values = np.empty((len(texels), len(table)), np.float32)
    for channel, levels in enumerate(table):
        values[:, channel] = levels[texels[:, channel]]
    return values


def _positions(meta: SogMeta, images: _Images) -> FloatArray:
    low_bytes, high_bytes = (_texels(meta, images, name) for name in meta.means.files)
    xyz = np.empty((meta.count, 3), np.float32)
    for axis in range(3):
        steps = high_bytes[:, axis] * np.float64(256) + low_bytes[:, axis]
        low, high = meta.means.low[axis], meta.means.high[axis]
        logged = low + (high - low) / 65535 * steps
        xyz[:, axis] = np.copysign(np.expm1(np.abs(logged)), logged)
    return xyz


def _rotations(meta: SogMeta, images: _Images) -> FloatArray:
    name = meta.quaternions_file
    texels = _texels(meta, images, name)
    tags = texels[:, 3]
    wrong = np.flatnonzero(tags < FIRST_TAG)
    if len(wrong):
        raise CorruptFile(
            name, f"alpha {FIRST_TAG} to 255 is expected, Gaussian {wrong[0]} has {tags[wrong[0]]}"
        )
    three = (texels[:, :3] / np.float32(255) - np.float32(0.5)) / np.float32(ROOT_HALF)
    return quaternions((tags - FIRST_TAG).astype(np.intp), three)


def _harmonics(meta: SogMeta, images: _Images) -> FloatArray:
    if meta.palette is None:
        return np.zeros((meta.count, 0, 3), np.float32)
    entries = _entries(meta.palette, images)
    texels = _texels(meta, images, meta.palette.labels_file)
    labels = texels[:, 1].astype(np.intp) * 256 + texels[:, 0]
    wrong = np.flatnonzero(labels >= len(entries))
    if len(wrong):
        raise CorruptFile(
            meta.palette.labels_file,
            f"{len(entries):,} entries, Gaussian {wrong[0]} has the label {labels[wrong[0]]}",
        )
    return entries[labels]


def _entries(palette: Palette, images: _Images) -> FloatArray:
    """(entries, K, 3): 64 entries in a row of the image, the K coefficients of each together."""
    name = palette.centroids_file
    size = image_size(images[name], name)
    known = {ENTRIES_PER_ROW * k: degree for degree, k in enumerate(REST_COEFFICIENTS) if degree}
    degree = known.get(size.width) if palette.degree is None else palette.degree
    width = ENTRIES_PER_ROW * REST_COEFFICIENTS[degree] if degree else 0
    needed = -(-(palette.entries or 0) // ENTRIES_PER_ROW)
    most = MAX_PALETTE // ENTRIES_PER_ROW
    if size.width != width or not needed <= size.height <= most:
        widths = f"{width}" if width else " or ".join(map(str, known))
        raise CorruptFile(
            name, f"{widths} x {needed} to {most} texels are expected, got {_named(size)}"
        )
    coefficients = width // ENTRIES_PER_ROW
    texels: npt.NDArray[np.uint8] = decoded(images[name], name)[..., :3]
    values = palette.levels[texels].reshape(-1, coefficients, 3)
    return values if palette.entries is None else values[: palette.entries]
