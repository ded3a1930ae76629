# SPDX-License-Identifier: Apache-2.0
"""Version 3 of the file: a big model as blocks, each of which is a file of version 2.

Written and read one block after the other, so that memory depends on the blocks and not on the
model. The section `index` has the box of each block's centres, its number of Gaussians, and its
place: a reader can fetch one region. Normative text: docs/format.md.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO

from splat_codec.container import (
    MAGIC,
    MAX_TABLE_BYTES,
    SectionReader,
    pack_table,
    unpack_table,
)
from splat_codec.errors import CorruptFile
from splat_codec.grid_file import MAX_LAYERS
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import (
    MAX_METADATA_BYTES,
    MAX_SH_DEGREE,
    decode,
    pack_metadata,
    unpack_metadata,
)
from splat_codec.symbols import check_count

VERSION = 3
MAX_BLOCKS = 1 << 16
_SECTIONS = ("index", "meta", "blocks")
_HEAD = struct.Struct("<BI")  # SH degree, number of blocks
_ENTRY = struct.Struct("<6fIQQI")  # box, Gaussians, offset and length in `blocks`, CRC-32
_FINITE = 3.4028235e38

Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Block:
    """One entry of the index."""

    low: Corner
    """The least coordinates of its centres; float32 numbers."""
    high: Corner
    """The greatest ones."""
    count: int
    """Gaussians; 0: the block has no bytes."""
    offset: int
    """Of its bytes, in the section `blocks`."""
    bytes: int
    crc: int
    """CRC-32 of its bytes."""

    def meets(self, low: Corner, high: Corner) -> bool:
        """Whether a centre may lie in this box, its faces included."""
        return self.count > 0 and all(
            own_low <= end and begin <= own_high
            for own_low, own_high, begin, end in zip(self.low, self.high, low, high, strict=True)
        )


@dataclass(frozen=True)
class BlockIndex:
    """All of a file but its blocks."""

    sh_degree: int
    blocks: tuple[Block, ...]
    metadata: Mapping[str, Any]
    start: int
    """Where the section `blocks` begins in the file."""
    bytes_per_section: Mapping[str, int]
    crc: int
    """CRC-32 of the section `blocks`."""

    @property
    def count(self) -> int:
        """Gaussians in all blocks."""
        return sum(block.count for block in self.blocks)


def has_blocks(head: bytes) -> bool:
    """Whether a file that begins with `head` is of this version."""
    return head.startswith(MAGIC + VERSION.to_bytes(2, "little"))


class BlockWriter:
    """Writes a file of `number` blocks into an empty binary file that can be read and sought.

    `metadata` is that of the whole model.
    """

    def __init__(
        self, file: BinaryIO, number: int, sh_degree: int, metadata: Mapping[str, Any]
    ) -> None:
        if not 1 <= number <= MAX_BLOCKS:
            raise ValueError(f"1 to {MAX_BLOCKS} blocks expected, got {number}")
        self._file, self._number, self._sh_degree = file, number, sh_degree
        self._meta = pack_metadata(metadata)
        self._blocks: list[Block] = []
        self._crc = self._length = 0
        file.write(bytes(len(self._head(b""))))

    def add(self, data: bytes, count: int, low: Corner, high: Corner) -> None:
        """Writes the next block: a file of version 2 without metadata, and the box of its centres.

        A block of 0 Gaussians has no bytes.
        """
        self._blocks.append(Block(low, high, count, self._length, len(data), zlib.crc32(data)))
        self._crc = zlib.crc32(data, self._crc)
        self._length += len(data)
        self._file.write(data)

    def finish(self) -> None:
        """Writes the index. ValueError if blocks are missing."""
        if len(self._blocks) != self._number:
            raise ValueError(f"{self._number} blocks expected, got {len(self._blocks)}")
        entries = [
            _ENTRY.pack(*b.low, *b.high, b.count, b.offset, b.bytes, b.crc) for b in self._blocks
        ]
        self._file.seek(0)
        self._file.write(self._head(b"".join(entries)))

    def _head(self, entries: bytes) -> bytes:
        """All bytes before the blocks."""
        index = _HEAD.pack(self._sh_degree, self._number)
        index += entries or bytes(_ENTRY.size * self._number)
        sections = {
            "index": (len(index), zlib.crc32(index)),
            "meta": (len(self._meta), zlib.crc32(self._meta)),
            "blocks": (self._length, self._crc),
        }
        return pack_table(VERSION, sections) + index + self._meta


def read_index(file: BinaryIO) -> BlockIndex:
    """The index of a file, which is as long as it states. Raises CorruptFile.

    The blocks are not read.
    """
    file_bytes = file.seek(0, 2)
    file.seek(0)
    version, entries, start = unpack_table(file.read(MAX_TABLE_BYTES))
    if version != VERSION:
        raise CorruptFile("header", f"version {version} has no blocks, {VERSION} has")
    if tuple(name for name, _, _ in entries) != _SECTIONS:
        found = ", ".join(name for name, _, _ in entries)
        raise CorruptFile("section table", f"{', '.join(_SECTIONS)} expected, got {found}")
    sizes = {name: length for name, length, _ in entries}
    limits = (("index", _HEAD.size + _ENTRY.size * MAX_BLOCKS), ("meta", MAX_METADATA_BYTES))
    for name, limit in limits:
        if sizes[name] > limit:
            raise CorruptFile(name, f"{sizes[name]} bytes, at most {limit} allowed")
    beyond = start + sum(sizes.values()) - file_bytes
    if beyond > 0:
        raise CorruptFile("blocks", f"cut short: {beyond} bytes of the file are missing")
    if beyond:
        raise CorruptFile("end", f"{-beyond} bytes left over after the last section")
    file.seek(start)
    index, meta = (_checked(name, file.read(length), crc) for name, length, crc in entries[:2])
    sh_degree, blocks = _unpack_index(index, sizes["blocks"])
    check_count(sum(block.count for block in blocks), file_bytes)
    return BlockIndex(
        sh_degree=sh_degree,
        blocks=blocks,
        metadata=unpack_metadata(meta),
        start=start + sizes["index"] + sizes["meta"],
        bytes_per_section={**sizes, "container": start},
        crc=entries[2][2],
    )


def read_block(file: BinaryIO, index: BlockIndex, number: int) -> bytes:
    """The bytes of one block that has any: a file of version 2. Raises CorruptFile."""
    block = index.blocks[number]
    file.seek(index.start + block.offset)
    return _checked(f"blocks, number {number}", file.read(block.bytes), block.crc)


def decode_block(
    data: bytes, index: BlockIndex, number: int, layers: int = MAX_LAYERS
) -> GridSplats:
    """The Gaussians of a block, with `layers` only those of its first layers.

    Raises CorruptFile. That the centres lie in the block's box is not checked here.
    """
    section, block = f"blocks, number {number}", index.blocks[number]
    try:
        model = decode(data, layers)
    except CorruptFile as error:
        raise CorruptFile(section, str(error).removeprefix("corrupt file: ")) from error
    splats = model.splats
    if not isinstance(splats, GridSplats) or model.metadata:
        raise CorruptFile(section, "a file of version 2 without metadata is expected")
    whole = layers >= MAX_LAYERS
    if splats.sh_degree != index.sh_degree or (whole and splats.count != block.count):
        raise CorruptFile(
            section,
            f"{splats.count} Gaussians of SH degree {splats.sh_degree}, but the index states "
            f"{block.count} of degree {index.sh_degree}",
        )
    return splats


def read_blocks(file: BinaryIO, index: BlockIndex) -> Iterator[tuple[int, bytes]]:
    """The number and the bytes of every block that has any, in order. Raises CorruptFile.

    The checksum of all of them is checked after the last.
    """
    crc = 0
    for number, block in enumerate(index.blocks):
        if block.bytes:
            data = read_block(file, index, number)
            crc = zlib.crc32(data, crc)
            yield number, data
    if crc != index.crc:
        raise CorruptFile("blocks", "checksum does not match")


def _checked(name: str, data: bytes, crc: int) -> bytes:
    if zlib.crc32(data) != crc:
        raise CorruptFile(name, "checksum does not match")
    return data


def _unpack_index(data: bytes, length: int) -> tuple[int, tuple[Block, ...]]:
    """The SH degree and the entries; `length` is that of the section `blocks`."""
    reader = SectionReader("index", data)
    sh_degree, number = _HEAD.unpack(reader.take(_HEAD.size))
    if sh_degree > MAX_SH_DEGREE:
        raise CorruptFile("index", f"SH degree {sh_degree}, at most {MAX_SH_DEGREE} allowed")
    if not 1 <= number <= MAX_BLOCKS:
        raise CorruptFile("index", f"{number} blocks, 1 to {MAX_BLOCKS} allowed")
    blocks = tuple(
        Block((x0, y0, z0), (x1, y1, z1), *place)
        for x0, y0, z0, x1, y1, z1, *place in _ENTRY.iter_unpack(reader.take(_ENTRY.size * number))
    )
    reader.finish()
    ends = [0, *accumulate(block.bytes for block in blocks)]
    for place, (block, offset) in enumerate(zip(blocks, ends, strict=False)):
        if block.offset != offset:
            raise CorruptFile("index", f"block {place} begins at {block.offset}, not at {offset}")
        _check_entry(block, place)
    if ends[-1] != length:
        raise CorruptFile("index", f"{ends[-1]} bytes of blocks, but the section has {length}")
    return sh_degree, blocks


def _check_entry(block: Block, place: int) -> None:
    ordered = all(
        -_FINITE <= low <= high <= _FINITE for low, high in zip(block.low, block.high, strict=True)
    )
    if not ordered:
        raise CorruptFile("index", f"block {place} has no box: {block.low} to {block.high}")
    if block.count == 0 and (block.bytes or block.crc or any((*block.low, *block.high))):
        raise CorruptFile("index", f"block {place} has no Gaussians, but other numbers than 0")
    if block.count and not block.bytes:
        raise CorruptFile("index", f"block {place} has Gaussians, but no bytes")
