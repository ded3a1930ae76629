# SPDX-License-Identifier: Apache-2.0
"""The container: magic, version, a checked table of sections, their bytes. Knows no Gaussians.

Every length is checked against the bytes at hand before it is used, nothing may be left over, and
every byte lies under a CRC-32. Normative text: docs/format.md.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from splat_codec.errors import CorruptFile

# As PNG's: a high bit, a CR LF and a control-Z catch transfers that are not 8-bit clean.
MAGIC = b"\x89F3DGS\r\n\x1a\n"
_HEAD = struct.Struct("<10sHH")  # magic, version, number of sections
_CRC = struct.Struct("<I")  # CRC-32 of head and table, behind the table
_ENTRY = struct.Struct("<8sQI")  # name, length in bytes, CRC-32 of the bytes
MAX_SECTIONS = 64


@dataclass(frozen=True)
class Container:
    """A file's version and its sections by name, in file order."""

    version: int
    sections: Mapping[str, bytes]


def pack_container(container: Container) -> bytes:
    """The file's bytes."""
    table = b"".join(
        _ENTRY.pack(_packed_name(name), len(data), zlib.crc32(data))
        for name, data in container.sections.items()
    )
    head = _HEAD.pack(MAGIC, container.version, len(container.sections)) + table
    return b"".join([head, _CRC.pack(zlib.crc32(head)), *container.sections.values()])


def unpack_container(data: bytes, may_be_cut: bool = False) -> Container:
    """The sections of a file's bytes; CorruptFile says what is wrong with which of them.

    With `may_be_cut`, `data` may end anywhere behind the table: the sections that are not whole,
    and those behind them, are left out.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CorruptFile("header", "this is not a .f3dgs file (magic number missing)")
    if len(data) < _HEAD.size:
        raise CorruptFile("header", f"cut short: {len(data)} bytes of {_HEAD.size}")
    _, version, count = _HEAD.unpack_from(data)
    if count > MAX_SECTIONS:
        raise CorruptFile("header", f"{count} sections, at most {MAX_SECTIONS} allowed")
    table_end = _HEAD.size + count * _ENTRY.size
    start = table_end + _CRC.size
    if len(data) < start:
        raise CorruptFile("section table", f"cut short: {len(data)} bytes of {start}")
    if _CRC.unpack_from(data, table_end)[0] != zlib.crc32(data[:table_end]):
        raise CorruptFile("section table", "checksum does not match")
    table = data[_HEAD.size : table_end]
    return Container(version, _unpack_sections(data, table, start, may_be_cut))


def _unpack_sections(data: bytes, table: bytes, start: int, may_be_cut: bool) -> dict[str, bytes]:
    sections: dict[str, bytes] = {}
    for packed_name, length, crc in _ENTRY.iter_unpack(table):
        name = _unpacked_name(packed_name)
        if name in sections:
            raise CorruptFile(name, "listed twice")
        if length > len(data) - start:
            if may_be_cut:
                return sections
            raise CorruptFile(name, f"cut short: {len(data) - start} bytes of {length}")
        sections[name] = data[start : start + length]
        if zlib.crc32(sections[name]) != crc:
            raise CorruptFile(name, "checksum does not match")
        start += length
    if start != len(data):
        raise CorruptFile("end", f"{len(data) - start} bytes left over after the last section")
    return sections


def _packed_name(name: str) -> bytes:
    packed = name.encode("ascii")
    if not 1 <= len(packed) <= 8:
        raise ValueError(f"section name of 1 to 8 ASCII characters expected, got {name!r}")
    return packed


def _unpacked_name(packed: bytes) -> str:
    name = packed.rstrip(b"\0")
    if not name.isalnum() or not name.isascii():
        raise CorruptFile("section table", f"section name {packed!r} is not alphanumeric ASCII")
    return name.decode("ascii")
