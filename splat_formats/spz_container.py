# SPDX-License-Identifier: Apache-2.0
"""The bytes of SPZ files, versions 1 to 4: a header and a stream of bytes for each attribute.

Layout: README of github.com/nianticlabs/spz. Versions 1 to 3 are one gzip stream (or plain);
version 4 has a plain header, a table of contents and a zstd frame for each stream.
"""

import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from splat_codec.errors import CorruptFile
from splat_formats.byte_codes import Bytes
from splat_formats.unpacked import MOST_GZIP_RATIO, is_gzip, unpacked_head
from utils.optional_modules import load_required

MAGIC = b"NGSP"
ANTIALIASED = 1
HAS_EXTENSIONS = 2
MAX_DEGREE = 4
MAX_FRACTIONAL_BITS = 24
STREAMS = ("positions", "alphas", "colours", "scales", "rotations", "harmonics")

_HEADER = struct.Struct("<4sIIBBBB")  # the last byte: of version 4 the number of streams
_TABLE_PLACE = struct.Struct("<I12x")  # follows the header in version 4
_TABLE_ENTRY = struct.Struct("<QQ")  # compressed bytes, plain bytes
# Zstd can pack more than gzip, but only synthetic models of equal Gaussians need that: files up to
# this plain size may.
_ALWAYS_ALLOWED = 1 << 26
# Higher levels save 1 or 2 % and need several times as long (docs/formats.md).
ZSTD_LEVEL = 12
_GZIP_LEVEL = 6


@dataclass(frozen=True)
class SpzHeader:
    """What stands at the beginning of a file."""

    version: int
    count: int
    degree: int
    """Of the spherical harmonics."""
    fractional_bits: int
    """Of positions, except in version 1."""
    flags: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Bytes of a Gaussian in each of STREAMS."""
        position = 6 if self.version == 1 else 9
        rotation = 3 if self.version < 3 else 4
        return position, 1, 3, 3, rotation, 3 * ((self.degree + 1) ** 2 - 1)


@dataclass(frozen=True, eq=False)
class SpzContent:
    """A file's header and streams."""

    header: SpzHeader
    streams: tuple[Bytes, ...]
    """(N, width) bytes, in the order of STREAMS."""
    has_more: bool = False
    """Whether the file has extensions or streams that were skipped."""


def is_spz(head: bytes) -> bool:
    """Whether a file that begins with `head` is an SPZ file of any version."""
    return unpacked_head(head).startswith(MAGIC)


def unpack(data: bytes) -> SpzContent:
    """The content of a file. Raises CorruptFile; memory is bounded by the header's counts, and
    these by the file's length."""
    if not is_gzip(data) and len(data) > 4 and data[4] == 4:
        return _unpack_4(data)
    return _unpack_1_to_3(data)


def pack(content: SpzContent, zstd_level: int = ZSTD_LEVEL) -> bytes:
    """The bytes of a file of version 4, or else of version 3, which is packed by gzip."""
    return _pack_4(content, zstd_level) if content.header.version == 4 else _pack_3(content)


def _parse_header(data: bytes, size: int, versions: Sequence[int]) -> tuple[SpzHeader, int]:
    """The header, and its last byte; `size` is the file's length."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise CorruptFile("header", f"{_HEADER.size} bytes that begin with NGSP are expected, got "
                          f"{len(data)} that begin with {data[:4]!r}")  # fmt: skip
    _, version, count, degree, bits, flags, last = _HEADER.unpack_from(data)
    if version not in versions:
        expected = f"{versions[0]} to {versions[-1]}" if len(versions) > 1 else str(versions[0])
        raise CorruptFile("header", f"version {version}, expected {expected}")
    if degree > MAX_DEGREE:
        raise CorruptFile("header", f"SH degree {degree}, expected 0 to {MAX_DEGREE}")
    if bits > MAX_FRACTIONAL_BITS:
        raise CorruptFile("header", f"{bits} fractional bits, at most {MAX_FRACTIONAL_BITS}")
    header = SpzHeader(version, count, degree, bits, flags)
    needed = count * sum(header.widths)
    if needed > max(_ALWAYS_ALLOWED, MOST_GZIP_RATIO * size):
        raise CorruptFile("header", f"{count} Gaussians in a file of {size} bytes")
    return header, last


def _unpack_1_to_3(data: bytes) -> SpzContent:
    plain = _Plain(data)
    header, _ = _parse_header(plain.read(_HEADER.size), len(data), (1, 2, 3))
    streams = []
    for name, width in zip(STREAMS, header.widths, strict=True):
        found = plain.read(header.count * width)
        _check_length(name, len(found), header.count * width)
        streams.append(np.frombuffer(found, np.uint8).reshape(header.count, width))
    has_extensions = bool(header.flags & HAS_EXTENSIONS)
    if not has_extensions:
        plain.check_end()
    return SpzContent(header, tuple(streams), has_extensions)


class _Plain:
    """The bytes of a gzip file, decompressed as far as they are read, or of another file."""

    def __init__(self, data: bytes) -> None:
        self._rest = data
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16) if is_gzip(data) else None

    def read(self, length: int) -> bytes:
        """At most `length` bytes. Raises CorruptFile."""
        if not length:
            return b""
        if self._inflater is None:
            found, self._rest = self._rest[:length], self._rest[length:]
            return found
        parts = []
        while length and not self._inflater.eof:
            part = self._inflate(length)
            if not part:
                break
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def check_end(self) -> None:
        """Raises CorruptFile if there is more, or if the gzip stream ends early."""
        if self.read(1):
            raise CorruptFile("streams", "the file has more bytes than its header states")
        if self._inflater is not None and not self._inflater.eof:
            raise CorruptFile("gzip", "the compressed stream ends early")

    def _inflate(self, length: int) -> bytes:
        assert self._inflater is not None
        try:
            part = self._inflater.decompress(self._rest, length)
        except zlib.error as error:
            raise CorruptFile("gzip", str(error)) from error
        self._rest = self._inflater.unconsumed_tail
        return part


def _unpack_4(data: bytes) -> SpzContent:
    header, count = _parse_header(data, len(data), (4,))
    if len(data) < _HEADER.size + _TABLE_PLACE.size:
        raise CorruptFile("header", f"32 bytes are expected, got {len(data)}")
    (table,) = _TABLE_PLACE.unpack_from(data, _HEADER.size)
    required = 5 if not header.degree else 6
    if count < required:
        raise CorruptFile("header", f"{count} streams, at least {required} are expected")
    position = table + count * _TABLE_ENTRY.size
    if table < _HEADER.size + _TABLE_PLACE.size or position > len(data):
        raise CorruptFile("table", f"{count} entries at byte {table} of {len(data)}")
    streams = []
    for index, (name, width) in enumerate(zip(STREAMS, header.widths, strict=True)):
        length = header.count * width
        if index >= count:
            streams.append(np.empty((header.count, 0), np.uint8))
            continue
        packed, plain = _TABLE_ENTRY.unpack_from(data, table + index * _TABLE_ENTRY.size)
        _check_length(name, plain, length)
        if position + packed > len(data):
            raise CorruptFile(name, f"truncated: {packed} bytes at byte {position} of {len(data)}")
        found = _zstd_decompressed(memoryview(data)[position : position + packed], length, name)
        streams.append(np.frombuffer(found, np.uint8).reshape(header.count, width))
        position += packed
    has_more = bool(header.flags & HAS_EXTENSIONS) or count > len(STREAMS)
    return SpzContent(header, tuple(streams), has_more)


def _zstd_decompressed(packed: memoryview, length: int, name: str) -> bytes:
    """The content of one zstd frame of `length` plain bytes. Raises CorruptFile."""
    zstandard = _zstandard()
    if not length and not packed:
        return b""
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            found = reader.read(length + 1)
    except zstandard.ZstdError as error:
        raise CorruptFile(name, f"damaged zstd frame: {error}") from error
    _check_length(name, len(found), length)
    return found


def _zstandard() -> ModuleType:
    """The package. Raises InputError where it is missing."""
    return load_required("zstandard", "SPZ of version 4", "pip install zstandard")


def _check_length(name: str, found: int, expected: int) -> None:
    if found != expected:
        more = "more than " if found > expected else f"{found} of "
        raise CorruptFile(name, f"{more}the {expected} bytes that the header's count needs")


def _pack_3(content: SpzContent) -> bytes:
    compressor = zlib.compressobj(_GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
    parts = [compressor.compress(_packed_header(content.header, 0))]
    parts += [compressor.compress(stream.tobytes()) for stream in content.streams]
    return b"".join([*parts, compressor.flush()])


def _pack_4(content: SpzContent, zstd_level: int) -> bytes:
    zstandard = _zstandard()

    def compressed(stream: Bytes) -> bytes:
        # The checksum, 4 bytes, makes readers notice damage that decompresses.
        compressor = zstandard.ZstdCompressor(level=zstd_level, write_checksum=True)
        return compressor.compress(stream.tobytes())

    used = content.streams if content.header.degree else content.streams[:-1]
    with ThreadPoolExecutor(2) as pool:  # the harmonics take as long as all others together
        frames = list(pool.map(compressed, used[::-1]))[::-1]
    table = b"".join(_TABLE_ENTRY.pack(len(frame), stream.nbytes)
                     for frame, stream in zip(frames, used, strict=True))  # fmt: skip
    place = _TABLE_PLACE.pack(_HEADER.size + _TABLE_PLACE.size)
    return b"".join([_packed_header(content.header, len(used)), place, table, *frames])


def _packed_header(header: SpzHeader, last: int) -> bytes:
    return _HEADER.pack(MAGIC, header.version, header.count, header.degree,
                        header.fractional_bits, header.flags, last)  # fmt: skip
