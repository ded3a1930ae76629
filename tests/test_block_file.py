# SPDX-License-Identifier: Apache-2.0
"""The file of version 3: the index and the blocks, read, cut short and damaged."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_codec.block_file import (
    BlockIndex,
    BlockWriter,
    read_block,
    read_index,
)
from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.errors import CorruptFile
from splat_codec.model_file import decode
from splat_formats.block_coding import index_of
from splat_formats.files import read_splats
from splat_formats.splats import Splats
from tests.test_blocks import blocked
from tests.test_training_free import visible_splats
from utils.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three blocks."""
    folder = blocked(tmp_path_factory.mktemp("blocks"), visible_splats(60, 1))
    return folder / "compressed" / "model.f3dgs"


def sections_of(data: bytes) -> dict[str, bytes]:
    return dict(unpack_container(data).sections)


def with_sections(data: bytes, version: int = 3, **new: bytes) -> bytes:
    return pack_container(Container(version, {**sections_of(data), **new}))


def decoded(data: bytes, path: Path) -> Splats:
    path.write_bytes(data)
    return read_splats(path).splats


def test_every_cut_and_flipped_bit_is_refused(tmp_path: Path) -> None:
    data = (GOLDEN / "blocks_good.f3dgs").read_bytes()
    path = tmp_path / "a.f3dgs"
    assert decoded(data, path).count == 24
    for end in range(0, len(data), 9):
        with pytest.raises((CorruptFile, InputError)):
            decoded(data[:end], path)
    with pytest.raises(InputError, match="left over"):
        decoded(data + b"\0", path)
    generator = np.random.default_rng(0)
    head = 300  # header, table, index and metadata
    places = [*range(0, head, 5), *generator.integers(head, len(data), 40).tolist()]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(generator.integers(8))
        with pytest.raises((CorruptFile, InputError)):
            decoded(bytes(changed), path)


def test_the_golden_file_decodes_to_the_recorded_bits(tmp_path: Path) -> None:
    splats = decoded((GOLDEN / "blocks_good.f3dgs").read_bytes(), tmp_path / "a.f3dgs")
    assert zlib.crc32(splats.xyz.tobytes()) == GOLDEN_XYZ
    assert zlib.crc32(splats.features_rest.tobytes()) == GOLDEN_SH


GOLDEN_XYZ = 0x643ACF0C
GOLDEN_SH = 0x7073156D


def entry(index: BlockIndex, number: int, **new: object) -> bytes:
    """The section `index` with another entry, its lengths and offsets as they are."""
    blocks = list(index.blocks)
    blocks[number] = replace(blocks[number], **new)
    packed = b"".join(
        struct.pack("<6fIQQI", *b.low, *b.high, b.count, b.offset, b.bytes, b.crc) for b in blocks
    )
    return struct.pack("<BI", index.sh_degree, len(blocks)) + packed


def test_damage_under_valid_checksums_is_named(path: Path, tmp_path: Path) -> None:
    data, damaged = path.read_bytes(), tmp_path / "a.f3dgs"
    index, nan = index_of(path), float("nan")
    block = index.blocks[1]
    inner = unpack_container(decode_bytes(data, index, 1))
    cases = {
        "begins at": {"index": entry(index, 1, offset=block.offset + 1)},
        "bytes of blocks": {"index": entry(index, 2, bytes=5)},
        "has no box": {"index": entry(index, 1, low=(nan, 0.0, 0.0))},
        "has Gaussians, but no bytes": {"index": entry(index, 1, bytes=0)},
        "no Gaussians, but": {"index": entry(index, 1, count=0)},
        "the index states": {"index": entry(index, 1, count=block.count + 1)},
        "outside the block's box": {"index": entry(index, 1, high=block.low)},
        "Gaussians, at most": {"index": entry(index, 1, count=2**31)},
        "0 blocks": {"index": struct.pack("<BI", 1, 0)},
        "70000 blocks": {"index": struct.pack("<BI", 1, 70000)},
        "SH degree 4": {"index": struct.pack("<BI", 4, 3)},
        "cut short": {"index": struct.pack("<BI", 1, 9)},
        "left over": {"index": sections_of(data)["index"] + b"\0"},
        "not JSON": {"meta": b"{"},
        "at most 1048576": {"meta": b"{}" + b" " * 2**20},
        "expected, got index": {"more": b""},
    }
    for message, changed in cases.items():
        with pytest.raises(InputError, match=message):
            decoded(with_sections(data, **changed), damaged)
    with pytest.raises(InputError, match="section model: missing"):
        decoded(with_sections(data, version=2), damaged)
    nested = pack_container(Container(2, {**inner.sections, "meta": b'{"a": 1}'}))
    for wrong in (data, nested, pack_container(Container(1, inner.sections))):
        with pytest.raises(InputError, match="number 0"):
            decoded(of_blocks([wrong], 20, 1), damaged)
    assert decoded(of_blocks([], 0, 1), damaged).count == 0
    with pytest.raises(InputError, match="of degree 2"):
        decoded(of_blocks([decode_bytes(data, index, 0)], index.blocks[0].count, 2), damaged)


def decode_bytes(data: bytes, index: BlockIndex, number: int) -> bytes:
    return read_block(io.BytesIO(data), index, number)


def of_blocks(blocks: list[bytes], count: int, sh_degree: int) -> bytes:
    """A file of these blocks, with `count` Gaussians in each, or of an empty one."""
    file = io.BytesIO()
    writer = BlockWriter(file, max(1, len(blocks)), sh_degree, {})
    for data in blocks:
        writer.add(data, count, (-1e3,) * 3, (1e3,) * 3)
    if not blocks:
        writer.add(b"", 0, (0, 0, 0), (0, 0, 0))
    writer.finish()
    return file.getvalue()


def test_a_small_file_cannot_claim_many_gaussians() -> None:
    file = io.BytesIO()
    writer = BlockWriter(file, 2, 0, {})
    for _ in range(2):
        writer.add(b"x", 2**26 + 1, (0, 0, 0), (0, 0, 0))
    writer.finish()
    with pytest.raises(CorruptFile, match="at most"):
        read_index(file)


def test_readers_of_whole_models_refuse_blocks(path: Path) -> None:
    with pytest.raises(CorruptFile, match="version 3"):
        decode(path.read_bytes())
    with pytest.raises(CorruptFile, match="has no blocks"):
        read_index(io.BytesIO((GOLDEN / "good_v2_sh0.f3dgs").read_bytes()))


def test_block_indexes_are_complete() -> None:
    writer = BlockWriter(io.BytesIO(), 2, 0, {})
    with pytest.raises(ValueError, match="2 blocks expected"):
        writer.finish()
    with pytest.raises(ValueError, match="1 to 65536 blocks"):
        BlockWriter(io.BytesIO(), 0, 0, {})
