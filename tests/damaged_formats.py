# SPDX-License-Identifier: Apache-2.0
"""Small files in every foreign format, and what reading a damaged one may do."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from splat_codec.errors import CorruptFile
from splat_formats.compressed_ply import read_compressed_ply, write_compressed_ply
from splat_formats.gltf import read_gltf
from splat_formats.gltf_writer import write_glb
from splat_formats.ksplat import read_ksplat
from splat_formats.scene import SplatScene
from splat_formats.sog import read_sog
from splat_formats.sog_writer import write_sog
from splat_formats.splat_file import read_splat, write_splat
from splat_formats.spz import read_spz, write_spz
from splat_formats.spz_container import SpzHeader
from tests.format_models import model
from tests.test_sog import write_version_1 as write_sog_1
from tests.test_splat_and_ksplat import Ksplat
from utils.errors import InputError

FEW, DEGREE = 3, 1


@dataclass(frozen=True)
class Target:
    """A reader, and a name that its files may have."""

    read: Callable[[Path], SplatScene]
    ending: str


TARGETS = {
    "compressed_ply": Target(read_compressed_ply, ".compressed.ply"),
    "spz": Target(read_spz, ".spz"),
    "splat": Target(read_splat, ".splat"),
    "ksplat": Target(read_ksplat, ".ksplat"),
    "sog": Target(read_sog, ".sog"),
    "gltf": Target(read_gltf, ".glb"),
}


def small_files(target: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of files of all variants of a format."""
    path, scene = folder / "small", SplatScene(model(FEW, DEGREE))
    if target == "compressed_ply":
        write_compressed_ply(path, scene)
        yield "sh1", path.read_bytes()
        write_compressed_ply(path, SplatScene(model(300, 0)))
        yield "two_chunks", path.read_bytes()
    elif target == "spz":
        for version in (3, 4):
            write_spz(path, scene, version)
            yield f"v{version}", path.read_bytes()
            write_spz(path, SplatScene(model(FEW, 0)), version)
            yield f"v{version}_sh0", path.read_bytes()
            if version == 3:
                plain = gzip.decompress(path.read_bytes())
                yield from _other_spz(plain)
    elif target == "splat":
        write_splat(path, scene)
        yield "splat", path.read_bytes()
    elif target == "ksplat":
        for level in range(3):
            yield f"level{level}", Ksplat(level=level).data()
    elif target == "sog":
        for degree in (0, DEGREE):
            write_sog(path, SplatScene(model(FEW, degree)))
            yield f"v2_sh{degree}", path.read_bytes()
        write_sog_1(folder / "old")
        yield "v1", zipped({file.name: file.read_bytes() for file in (folder / "old").iterdir()})
    elif target == "gltf":
        for degree in (0, DEGREE):
            write_glb(path, SplatScene(model(FEW, degree)))
            yield f"sh{degree}", path.read_bytes()


def _other_spz(plain: bytes) -> Iterator[tuple[str, bytes]]:
    """The file without gzip, and as versions 1 and 2, which have fewer bytes in some streams."""
    yield "plain", plain
    for version, length in ((1, 16 + 16 * FEW), (2, 16 + 19 * FEW)):
        yield f"v{version}", gzip.compress(plain[:4] + bytes([version]) + plain[5:length])


def prepared_input(target: str, data: bytes) -> bytes:
    """An input of the fuzzer as a file: compression, in which few changes are valid, is added.

    Of an SPZ file of version 4 the streams follow the header, one after the other. A bundle of SOG
    gets the right checksums, a .glb the right lengths.
    """
    if target == "sog":
        return with_checksums(data)
    if target == "gltf":
        return with_lengths(data)
    if target != "spz" or not data.startswith(b"NGSP\4") or len(data) < 16:
        return data
    header = SpzHeader(4, int.from_bytes(data[8:12], "little"), data[12] % 5, data[13], data[14])
    frames, position, table = [], 16, b""
    for width in header.widths[: data[15]]:
        stream = data[position : position + width * header.count]
        position += len(stream)
        frames.append(zstandard.compress(stream))
        table += struct.pack("<QQ", len(frames[-1]), len(stream))
    return data[:16] + struct.pack("<I12x", 32) + table + b"".join(frames)


def with_lengths(data: bytes) -> bytes:
    """A .glb file whose lengths are those of its text and its buffer, which b"BIN\0" divides."""
    text, divider, binary = data[20:].partition(b"BIN\0")
    text = text[:-4] if divider else text
    chunks = struct.pack("<I", len(text)) + b"JSON" + text
    if divider:
        chunks += struct.pack("<I", len(binary)) + divider + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def with_checksums(data: bytes) -> bytes:
    """The stored entries of a zip file as another one; the same bytes if they cannot be found."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return data
    found = {}
    for name, entry in entries.items():
        start = entry.header_offset + 30 + len(name.encode())  # no entry has an extra field
        found[name] = data[start : start + entry.compress_size]
    return zipped(found)


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip file of these."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


def read_or_refuse(target: str, path: Path) -> SplatScene | None:
    """The scene, or None if the reader refuses the file by one of the two errors for it."""
    try:
        scene = TARGETS[target].read(path)
    except (CorruptFile, InputError) as error:
        assert str(error), "an error without a message"
        return None
    splats = scene.splats
    assert len({len(values) for values in splats.columns().values()}) == 1
    return scene


def flipped(data: bytes, place: int, bit: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def flips(data: bytes, count: int) -> Iterator[bytes]:
    """The content with one bit changed, at `count` places: mostly where bytes are not zero."""
    rng = np.random.default_rng(0)
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    places = np.concatenate(
        [rng.choice(used, count * 3 // 4), rng.integers(0, len(data), count // 4)]
    )
    for place in np.unique(places):
        yield flipped(data, int(place), int(rng.integers(8)))
