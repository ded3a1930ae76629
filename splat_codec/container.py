# SPDX-License-Identifier: Apache-2.0
"""The container: magic, version, a checked table of sections, and their bytes.

Every length is checked against the bytes at hand before it is used, no bytes may be left over, and
a CRC-32 covers every byte. Normative text: docs/format.md.
"""

import struct
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from splat_codec.errors import CorruptFile

# As in PNG: a high bit, a CR LF and a control-Z show that a transfer changed the bytes.
MAGIC = b"\x89F3DGS\r\n\x1a\n"
_HEAD = struct.Struct("<10sHH")  # magic, version, number of sections
_CRC = struct.Struct("<I")  # CRC-32 of head and table, after the table
_ENTRY = struct.Struct("<8sQI")  # name, length in bytes, CRC-32 of the bytes
MAX_SECTIONS = 80
MAX_TABLE_BYTES = _HEAD.size + MAX_SECTIONS * _ENTRY.size + _CRC.size
"""Of everything before the first section."""


@dataclass(frozen=True)
class Container:
    """A file's version and its sections by name, in file order."""

    version: int
    sections: Mapping[str, bytes]
    missing: frozenset[str] = frozenset()
    """Sections in the table of a file that ends before them or within them."""


class SectionReader:
    """Takes the bytes of a section, one piece after the other. CorruptFile names the section."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name, self._data, self._position = name, data, 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        end = self._position + length
        if end > len(self._data):
            raise CorruptFile(self._name, f"cut short: {len(self._data)} bytes")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def has_more(self) -> bool:
        """Whether bytes are left."""
        return self._position < len(self._data)

    def finish(self) -> None:
        """CorruptFile if bytes are left over."""
        if self._position != len(self._data):
            raise CorruptFile(self._name, f"{len(self._data) - self._position} bytes left over")


def take_section(sections: MutableMapping[str, bytes], name: str) -> bytes:
    """Removes a section from `sections`; CorruptFile if it is missing."""
    try:
        return sections.pop(name)
    except KeyError:
        raise CorruptFile(name, "missing") from None


def pack_container(container: Container) -> bytes:
    """The file's bytes."""
    sections = container.sections
    table = pack_table(
        container.version, {name: (len(data), zlib.crc32(data)) for name, data in sections.items()}
    )
    return b"".join([table, *sections.values()])


def pack_table(version: int, sections: Mapping[str, tuple[int, int]]) -> bytes:
    """The bytes before the first section, of the length and the CRC-32 of each."""
    table = b"".join(
        _ENTRY.pack(_packed_name(name), length, crc) for name, (length, crc) in sections.items()
    )
    head = _HEAD.pack(MAGIC, version, len(sections)) + table
    return head + _CRC.pack(zlib.crc32(head))


def unpack_container(data: bytes, may_be_cut: bool = False) -> Container:
    """The sections of a file's bytes; CorruptFile names the one that is damaged, and the damage.

    With `may_be_cut`, `data` may end anywhere after the table: the first section that is not whole
    and all later ones are left out.
    """
    version, entries, start = unpack_table(data)
    sections: dict[str, bytes] = {}
    for number, (name, length, crc) in enumerate(entries):
        if length > len(data) - start:
            if may_be_cut:
                rest = frozenset(entry[0] for entry in entries[number:])
                return Container(version, sections, rest)
            raise CorruptFile(name, f"cut short: {len(data) - start} bytes of {length}")
        sections[name] = data[start : start + length]
        if zlib.crc32(sections[name]) != crc:
            raise CorruptFile(name, "checksum does not match")
        start += length
    if start != len(data):
        raise CorruptFile("end", f"{len(data) - start} bytes left over after the last section")
    return Container(version, sections)


def bytes_per_section(data: bytes) -> dict[str, int]:
    """Bytes of every section, and `container` for the header and the table.

    The figures are those of the whole file, even if `data` ends anywhere after the table.
    """
    _, entries, start = unpack_table(data)
    return {**{name: length for name, length, _ in entries}, "container": start}


def unpack_table(data: bytes) -> tuple[int, list[tuple[str, int, int]], int]:
    """The version, name, length and checksum of each section, and where the first begins."""
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
    entries = [
        (_unpacked_name(name), length, crc)
        for name, length, crc in _ENTRY.iter_unpack(data[_HEAD.size : table_end])
    ]
    for number, (name, _, _) in enumerate(entries):
        if any(name == other for other, _, _ in entries[:number]):
            raise CorruptFile(name, "listed twice")
    return version, entries, start


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
