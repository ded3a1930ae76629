# SPDX-License-Identifier: Apache-2.0
""".ksplat files, read only: sections of Gaussians in three levels of compression.

Layout: that of github.com/mkkellogg/GaussianSplats3D, measured on files that splat-transform
reads (docs/formats.md). Files have no magic number: they are recognised by their name.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile
from splat_formats.byte_codes import dc_of_colours, logits
from splat_formats.scene import SplatScene
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, FloatArray, Splats

ENDING = ".ksplat"

_HEADER_BYTES, _SECTION_BYTES = 4096, 1024
_MAIN = struct.Struct("<BB2xIIIIH14xff")
_SECTION = struct.Struct("<IIIIfH2xI4xIIH")
_CENTRE_BYTES = 12
_SH_RANGE = (-1.5, 1.5)
_SCALE_RANGE = 32767
# Types of positions, of sizes and quaternions, and of harmonics, by level.
_TYPES = (("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1"))


@dataclass(frozen=True)
class _Header:
    level: int
    sections: int
    count: int
    sh_range: tuple[float, float]


@dataclass(frozen=True)
class _Section:
    """The header of a section, and where its data are in the file."""

    name: str
    count: int
    capacity: int
    """Of a full bucket, in Gaussians."""
    buckets: int
    block_size: float
    """World units that positions in a bucket span."""
    centre_bytes: int
    """Bytes of a bucket's centre."""
    scale_range: int
    full_buckets: int
    partial_buckets: int
    degree: int
    start: int
    row: np.dtype
    room: int
    """Gaussians that there is room for; the next section follows."""

    @property
    def centres_start(self) -> int:
        return self.start + 4 * self.partial_buckets

    @property
    def rows_start(self) -> int:
        return self.centres_start + self.centre_bytes * self.buckets

    @property
    def end(self) -> int:
        return self.rows_start + self.row.itemsize * self.room


def is_ksplat_path(path: Path) -> bool:
    """Whether the file has the name of a .ksplat file, and begins with a version of it."""
    if not path.is_file() or path.suffix.lower() != ENDING:
        return False
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == 0 and head[1] >= 1


def read_ksplat(path: Path) -> SplatScene:
    """The scene in a .ksplat file. Raises CorruptFile."""
    data = path.read_bytes()
    header = _parse_header(data)
    sections = _parse_sections(data, header)
    degree = max((section.degree for section in sections), default=0)
    parts = [_decode(data, section, header, degree) for section in sections]
    return SplatScene(_joined(parts, degree))


def _parse_header(data: bytes) -> _Header:
    if len(data) < _HEADER_BYTES:
        raise CorruptFile("header", f"{_HEADER_BYTES} bytes are expected, got {len(data)}")
    major, minor, sections, _, _, count, level, low, high = _MAIN.unpack_from(data)
    if major != 0 or minor < 1:
        raise CorruptFile("header", f"version {major}.{minor}, expected 0.1 or a later 0.x")
    if level >= len(_TYPES):
        raise CorruptFile("header", f"compression level {level}, expected 0 to 2")
    if _HEADER_BYTES + sections * _SECTION_BYTES > len(data):
        raise CorruptFile("header", f"{sections} sections in a file of {len(data)} bytes")
    sh_range = (low, high) if low or high else _SH_RANGE
    if not (np.isfinite(sh_range).all() and sh_range[0] < sh_range[1]):
        raise CorruptFile("header", f"harmonics from {low} to {high}, two finite limits expected")
    return _Header(level, sections, count, sh_range)


def _parse_sections(data: bytes, header: _Header) -> list[_Section]:
    start = _HEADER_BYTES + header.sections * _SECTION_BYTES
    sections = []
    for index in range(header.sections):
        section = _parse_section(data, header, index, start)
        start = section.end
        if section.count:
            sections.append(section)
    total = sum(section.count for section in sections)
    if total != header.count:
        raise CorruptFile("header", f"{header.count} Gaussians, the sections have {total}")
    return sections


def _parse_section(data: bytes, header: _Header, index: int, start: int) -> _Section:
    name = f"section {index}"
    (count, room, capacity, buckets, block_size, centre_bytes, scale_range, full, partial,
     degree) = _SECTION.unpack_from(data, _HEADER_BYTES + index * _SECTION_BYTES)  # fmt: skip
    if degree > MAX_SH_DEGREE:
        raise CorruptFile(name, f"SH degree {degree}, expected 0 to {MAX_SH_DEGREE}")
    if count > room:
        raise CorruptFile(name, f"{count} Gaussians, there is room for {room}")
    scale_range = scale_range or _SCALE_RANGE
    found = _Section(name, count, capacity, buckets, block_size, centre_bytes, scale_range, full,
                     partial, degree, start, _row(header.level, degree), room)  # fmt: skip
    needed = found.rows_start + found.row.itemsize * count
    if needed > len(data):
        raise CorruptFile(name, f"truncated: it ends at byte {needed} of {len(data)}")
    if count and header.level:
        _check_buckets(found)
    return found


def _check_buckets(section: _Section) -> None:
    if section.centre_bytes < _CENTRE_BYTES:
        raise CorruptFile(section.name, f"{section.centre_bytes} bytes for a bucket's centre, at "
                          f"least {_CENTRE_BYTES} are expected")  # fmt: skip
    if section.full_buckets + section.partial_buckets > section.buckets:
        raise CorruptFile(
            section.name,
            f"{section.full_buckets} full and {section.partial_buckets} other buckets of "
            f"{section.buckets}",
        )
    if not (np.isfinite(section.block_size) and section.block_size > 0):
        raise CorruptFile(section.name, f"buckets of size {section.block_size}")


def _row(level: int, degree: int) -> np.dtype:
    position, size, harmonics = _TYPES[level]
    fields = [("xyz", position, 3), ("scale", size, 3), ("rotation", size, 4), ("rgba", "u1", 4)]
    return np.dtype([*fields, ("harmonics", harmonics, 3 * REST_COEFFICIENTS[degree])])


def _decode(data: bytes, section: _Section, header: _Header, degree: int) -> Splats:
    rows = np.frombuffer(data, section.row, section.count, section.rows_start)
    xyz = rows["xyz"].astype(np.float32)
    if header.level:
        step = section.block_size / 2 / section.scale_range
        offsets = (rows["xyz"].astype(np.float64) - section.scale_range) * step
        xyz = (offsets + _centres(data, section)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # of 0: flat, see repairs.py
        scaling = np.log(rows["scale"].astype(np.float32))
    return Splats(
        xyz=xyz,
        features_dc=dc_of_colours(rows["rgba"][:, :3] / np.float32(255)),
        features_rest=_harmonics(rows["harmonics"], section.degree, header, degree),
        opacity=logits(rows["rgba"][:, 3]),
        scaling=scaling,
        rotation=rows["rotation"].astype(np.float32),
    )


def _centres(data: bytes, section: _Section) -> npt.NDArray[np.float64]:
    """(N, 3) the centre of each Gaussian's bucket: full buckets come first. Raises CorruptFile."""
    partial = np.frombuffer(data, "<u4", section.partial_buckets, section.start)
    in_full = section.capacity * section.full_buckets
    numbers = np.arange(section.count)
    bucket = numbers // max(section.capacity, 1)
    ends = in_full + np.cumsum(partial, dtype=np.int64)
    after = section.full_buckets + np.searchsorted(ends, numbers, side="right")
    bucket = np.where(numbers < in_full, bucket, after)
    if bucket.max() >= section.full_buckets + section.partial_buckets:
        room = int(ends[-1]) if len(ends) else in_full
        raise CorruptFile(section.name, f"{section.count} Gaussians in buckets for {room}")
    stored = np.frombuffer(data, np.uint8, section.centre_bytes * section.buckets,
                           section.centres_start)  # fmt: skip
    parts = stored.reshape(section.buckets, section.centre_bytes)[:, :_CENTRE_BYTES]
    return np.ascontiguousarray(parts).view("<f4")[bucket].astype(np.float64)


def _harmonics(stored: npt.NDArray, own: int, header: _Header, degree: int) -> FloatArray:
    """(N, K, 3) coefficients of `degree`, which is at least the section's own: stored degree by
    degree, and channel by channel within one."""
    values = stored.astype(np.float32)
    if stored.dtype == np.uint8:
        low, high = header.sh_range
        values = values * np.float32((high - low) / 255) + np.float32(low)
    found = np.zeros((len(stored), REST_COEFFICIENTS[degree], 3), np.float32)
    for band in range(1, own + 1):
        part = slice(band**2 - 1, (band + 1) ** 2 - 1)
        block = values[:, 3 * part.start : 3 * part.stop]
        found[:, part] = block.reshape(len(block), 3, 2 * band + 1).transpose(0, 2, 1)
    return found


def _joined(parts: list[Splats], degree: int) -> Splats:
    empty = np.empty((0, 1), np.float32)
    first = Splats(
        xyz=np.empty((0, 3), np.float32),
        features_dc=np.empty((0, 1, 3), np.float32),
        features_rest=np.empty((0, REST_COEFFICIENTS[degree], 3), np.float32),
        opacity=empty,
        scaling=np.empty((0, 3), np.float32),
        rotation=np.empty((0, 4), np.float32),
    )
    return Splats(**{name: np.concatenate([getattr(part, name) for part in (first, *parts)])
                     for name in Splats.__dataclass_fields__})  # fmt: skip
