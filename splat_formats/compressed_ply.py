# SPDX-License-Identifier: Apache-2.0
"""PlayCanvas' compressed PLY: chunks of 256 Gaussians, each with the bounds of its numbers.

Layout: blog.playcanvas.com, "Compressing Gaussian Splats"; details were measured on files that
splat-transform writes and reads (docs/formats.md).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from splat_formats.byte_codes import (
    ROOT_HALF,
    alpha_bytes,
    colours,
    dc_of_colours,
    logits,
    outside,
    quaternions,
    rounded,
    three_smallest,
)
from splat_formats.ply import RENDER_MODE_LINE, in_short, is_antialiased
from splat_formats.ply_header import is_ply
from splat_formats.ply_table import PlyTable, read_ply_tables
from splat_formats.prepared import clipped_notices, prepared
from splat_formats.scene import SplatMetadata, SplatScene, Written
from splat_formats.splats import REST_COEFFICIENTS, FloatArray, Splats
from splat_formats.unpacked import unpacked_head
from utils.errors import InputError
from utils.files import atomic_path

Words = npt.NDArray[np.uint32]
Bounds = npt.NDArray[np.float64]

CHUNK = 256
_PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_IS_PACKED = re.compile(rb"[\r\n]\s*property[ \t]+\w+[ \t]+packed_position\s")
_BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
_SCALE_BOUNDS = [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
_COLOUR_BOUNDS = [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
_ROWS_AT_ONCE = CHUNK << 8
# x, y, z in 11, 10 and 11 bits; r, g, b, alpha, and three parts of a quaternion below an index.
_XYZ_SHIFTS, _XYZ_LEVELS = (21, 11, 0), (2047, 1023, 2047)
_COLOUR_SHIFTS, _COLOUR_LEVELS = (24, 16, 8), (255, 255, 255)
_ROTATION_SHIFTS, _ROTATION_LEVELS = (20, 10, 0), (1023, 1023, 1023)
_MOST_SCALE = 20.0  # of a logarithm
_SH_RANGE = 4.0
# A byte b of SH stands for b / 256 up to (b + 1) / 256 of the range; readers take the middle, and
# for the first and the last one the end of the range.
_SH_SHARES = np.concatenate([[0.0], (np.arange(1, 255) + 0.5) / 256, [1.0]])
_SH_VALUES = ((_SH_SHARES - 0.5) * 2 * _SH_RANGE).astype(np.float32)


def is_compressed_ply(head: bytes) -> bool:
    """Whether a file that begins with `head` is a compressed PLY, in gzip or not."""
    return is_ply(head) and _IS_PACKED.search(unpacked_head(head)) is not None


def read_compressed_ply(path: Path) -> SplatScene:
    """The scene in a compressed PLY, whose chunks may have bounds of colours or not.

    Raises InputError if the file is damaged or lacks a property.
    """
    tables = read_ply_tables(path, ("chunk", "vertex"), ("sh",))
    chunk, vertex = tables["chunk"], tables["vertex"]
    _check(tables)
    splats = Splats(
        xyz=np.empty((vertex.count, 3), np.float32),
        features_dc=np.empty((vertex.count, 1, 3), np.float32),
        features_rest=_features_rest(tables.get("sh"), vertex.count),
        opacity=np.empty((vertex.count, 1), np.float32),
        scaling=np.empty((vertex.count, 3), np.float32),
        rotation=np.empty((vertex.count, 4), np.float32),
    )
    names = [*_BOUNDS, *_SCALE_BOUNDS, *_colour_bounds(chunk)]
    bounds = chunk.stack(names, np.float64)
    for start in range(0, vertex.count, _ROWS_AT_ONCE):
        _unpack(vertex, bounds, splats, slice(start, min(start + _ROWS_AT_ONCE, vertex.count)))
    metadata = SplatMetadata(is_antialiased(vertex), notices=_ignored_notices(tables))
    return SplatScene(splats, metadata)


def write_compressed_ply(path: Path, scene: SplatScene) -> Written:
    """Writes the scene in Morton order, whole or not at all."""
    ready = prepared(scene)
    splats = ready.splats
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_header(splats, scene.metadata.antialiasing))
        _write_chunks(file, splats)
        _write_harmonics(file, splats)
    clipped = {
        f"log scales (beyond {_MOST_SCALE:g})": outside(splats.scaling, -_MOST_SCALE, _MOST_SCALE),
        f"higher SH coefficients (beyond {_SH_RANGE:g})": outside(
            splats.features_rest, -_SH_RANGE, _SH_RANGE
        ),
    }
    return Written((*ready.notices, *clipped_notices(clipped)), ready.rows)


def _check(tables: dict[str, PlyTable]) -> None:
    chunk, vertex, sh = tables["chunk"], tables["vertex"], tables.get("sh")
    path = vertex.path
    _check_types(chunk, [*_BOUNDS, *_SCALE_BOUNDS, *_colour_bounds(chunk)], "f", "floating point")
    _check_types(vertex, _PACKED, "u4", "uint")
    needed = -(-vertex.count // CHUNK)
    if chunk.count < needed:
        raise InputError(
            f"{path}: {vertex.count} vertices need {needed} chunks of {CHUNK}, the file has "
            f"{chunk.count}"
        )
    if sh is None:
        return
    widths = [3 * rest for rest in REST_COEFFICIENTS]
    names = [name for name in sh.columns if name.startswith("f_rest_")]
    if len(names) not in widths:
        raise InputError(f"{path}: element 'sh' has {len(names)} properties f_rest_*, expected "
                         f"one of {widths}")  # fmt: skip
    _check_types(sh, [f"f_rest_{i}" for i in range(len(names))], "u1", "uchar")
    if sh.count != vertex.count:
        raise InputError(f"{path}: element 'sh' has {sh.count} rows for {vertex.count} vertices")


def _check_types(table: PlyTable, names: list[str], code: str, expected: str) -> None:
    """Raises InputError unless all of the columns are there, with types of this NumPy code."""
    for name in names:
        if name not in table.columns:
            raise InputError(f"{table.path}: the compressed PLY has no property {name!r}")
        if not table.columns[name].dtype.str[1:].startswith(code):
            found = table.columns[name].dtype
            raise InputError(
                f"{table.path}: property {name!r} has the type {found}, expected {expected}"
            )


def _colour_bounds(chunk: PlyTable) -> list[str]:
    """The names of the bounds of colours, which older files lack."""
    return _COLOUR_BOUNDS if set(_COLOUR_BOUNDS) & set(chunk.columns) else []


def _ignored_notices(tables: dict[str, PlyTable]) -> tuple[str, ...]:
    known = {*_PACKED, *_BOUNDS, *_SCALE_BOUNDS, *_COLOUR_BOUNDS}
    names = [
        f"the property {name}"
        for table in tables.values()
        for name in in_short([n for n in table.columns if n not in known])
        if not name.startswith("f_rest_")
    ]
    others = dict.fromkeys(item for table in tables.values() for item in table.left_out)
    return (f"not used: {', '.join([*names, *others])}",) if names or others else ()


def _unpack(vertex: PlyTable, bounds: Bounds, splats: Splats, part: slice) -> None:
    """Decodes these rows into `splats`."""
    position, rotation, scale, colour = (
        vertex.columns[name][part].astype(np.uint32) for name in _PACKED
    )
    chunks = np.repeat(bounds[part.start // CHUNK : -(-part.stop // CHUNK)], CHUNK, axis=0)
    low_high = chunks[: part.stop - part.start].reshape(len(position), -1, 2, 3)
    splats.xyz[part] = _between(low_high[:, 0], _shares(position, _XYZ_SHIFTS, _XYZ_LEVELS))
    splats.scaling[part] = _between(low_high[:, 1], _shares(scale, _XYZ_SHIFTS, _XYZ_LEVELS))
    rgb = _shares(colour, _COLOUR_SHIFTS, _COLOUR_LEVELS)
    if low_high.shape[1] == 3:
        rgb = _between(low_high[:, 2], rgb)
    splats.features_dc[part] = dc_of_colours(rgb)
    splats.opacity[part] = logits((colour & 255).astype(np.uint8))
    three = (_shares(rotation, _ROTATION_SHIFTS, _ROTATION_LEVELS) - 0.5) / ROOT_HALF
    splats.rotation[part] = quaternions(rotation >> 30, three)


def _shares(words: Words, shifts: tuple[int, ...], levels: tuple[int, ...]) -> Bounds:
    """(n, 3) numbers from 0 to 1, packed into words (n,)."""
    fields = [(words >> shift) & level for shift, level in zip(shifts, levels, strict=True)]
    return np.stack(fields, axis=1) / np.array(levels, np.float64)


def _between(low_high: Bounds, shares: Bounds) -> Bounds:
    with np.errstate(invalid="ignore", over="ignore"):  # bounds that are not finite stay so
        return low_high[:, 0] + shares * (low_high[:, 1] - low_high[:, 0])


def _features_rest(sh: PlyTable | None, count: int) -> FloatArray:
    """(N, K, 3) higher coefficients; channel by channel in the file."""
    if sh is None:
        return np.empty((count, 0, 3), np.float32)
    width = len([name for name in sh.columns if name.startswith("f_rest_")])
    names = [f"f_rest_{channel * (width // 3) + k}" for k in range(width // 3)
             for channel in range(3)]  # fmt: skip
    found = sh.stack(names, np.uint8).reshape(count, width // 3, 3)
    return _SH_VALUES[found]


def _header(splats: Splats, antialiasing: bool) -> bytes:
    rest = 3 * splats.features_rest.shape[1]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *([RENDER_MODE_LINE] if antialiasing else []),
        f"element chunk {-(-splats.count // CHUNK)}",
        *(f"property float {name}" for name in (*_BOUNDS, *_SCALE_BOUNDS, *_COLOUR_BOUNDS)),
        f"element vertex {splats.count}",
        *(f"property uint {name}" for name in _PACKED),
        *([f"element sh {splats.count}"] if rest else []),
        *(f"property uchar f_rest_{i}" for i in range(rest)),
        "end_header",
    ]
    return "".join(line + "\n" for line in lines).encode("ascii")


def _write_chunks(file: BinaryIO, splats: Splats) -> None:
    """All chunks' bounds, then all Gaussians."""
    bounds, words = [], []
    for part in _parts(splats.count):
        packed = _pack(splats.rows(part))
        bounds.append(packed.bounds)
        words.append(packed.words)
    for block in (*bounds, *words):
        file.write(block.tobytes())


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS_AT_ONCE):
        yield slice(start, min(start + _ROWS_AT_ONCE, count))


@dataclass(frozen=True, eq=False)
class _Packed:
    bounds: npt.NDArray[np.float32]
    """(chunks, 18)."""
    words: Words
    """(n, 4)."""


def _pack(splats: Splats) -> _Packed:
    """Whole chunks, and perhaps a shorter last one."""
    scaling = np.clip(splats.scaling, -_MOST_SCALE, _MOST_SCALE).astype(np.float32)
    numbers = (splats.xyz, scaling, colours(splats.features_dc).astype(np.float32))
    packed, all_bounds = [], []
    layouts = ((_XYZ_SHIFTS, _XYZ_LEVELS),) * 2 + ((_COLOUR_SHIFTS, _COLOUR_LEVELS),)
    for values, (shifts, levels) in zip(numbers, layouts, strict=True):
        low, high = _chunk_bounds(values)
        all_bounds += [low, high]
        packed.append(_words(_share_of(values, low, high), shifts, levels))
    index, three = three_smallest(splats.rotation)
    rotation = _words(three * ROOT_HALF + 0.5, _ROTATION_SHIFTS, _ROTATION_LEVELS) | index << 30
    colour = packed[2] | alpha_bytes(splats.opacity)
    words = np.stack([packed[0], rotation, packed[1], colour], axis=1).astype("<u4")
    return _Packed(np.concatenate(all_bounds, axis=1).astype("<f4"), words)


def _chunk_bounds(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(chunks, 3) least and greatest values of rows (n, 3)."""
    starts = np.arange(0, len(values), CHUNK)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _share_of(values: FloatArray, low: FloatArray, high: FloatArray) -> Bounds:
    """Where the rows (n, 3) lie between the bounds of their chunks, 0 to 1."""
    bounds = [np.repeat(end.astype(np.float64), CHUNK, axis=0)[: len(values)]
              for end in (low, high)]  # fmt: skip
    extent = bounds[1] - bounds[0]
    return (values - bounds[0]) / np.where(extent > 0, extent, 1)


def _words(shares: Bounds, shifts: tuple[int, ...], levels: tuple[int, ...]) -> Words:
    """The inverse of `_shares`."""
    words = np.zeros(len(shares), np.uint32)
    for axis, (shift, level) in enumerate(zip(shifts, levels, strict=True)):
        words |= rounded(shares[:, axis] * level, level) << shift
    return words


def _write_harmonics(file: BinaryIO, splats: Splats) -> None:
    if not splats.features_rest.shape[1]:
        return
    for part in _parts(splats.count):
        rest = splats.features_rest[part].transpose(0, 2, 1)
        shares = np.floor((rest / (2 * _SH_RANGE) + 0.5) * 256)
        file.write(np.clip(shares, 0, 255).astype(np.uint8).tobytes())
