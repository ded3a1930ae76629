# SPDX-License-Identifier: Apache-2.0
"""The inputs of tests/fuzz_codec.py: files without checksums, zlib and LZMA."""

import lzma
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.errors import CorruptFile
from splat_codec.model_file import SECTION_NAMES
from splat_formats.published_file import read_published_file
from tests.both_kernels import decoded_alike

PACKED = ("model", "tables")
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0}]


def _is_symbols(version: int, name: str) -> bool:
    return version == 1 and name in SECTION_NAMES.values()


def _plain(version: int, name: str, section: bytes) -> bytes:
    if _is_symbols(version, name):
        return lzma.decompress(section)
    return zlib.decompress(section) if version == 2 and name in PACKED else section


def _compressed(version: int, name: str, content: bytes) -> bytes:
    if _is_symbols(version, name):
        return lzma.compress(content, check=lzma.CHECK_NONE, filters=FILTERS)
    return zlib.compress(content, 1) if version == 2 and name in PACKED else content


def unpacked(data: bytes) -> bytes:
    """A file as an input of the fuzzer: version, then each section's name, length and content."""
    container = unpack_container(data)
    parts = [struct.pack("<H", container.version)]
    for name, section in container.sections.items():
        content = _plain(container.version, name, section)
        parts.append(struct.pack("<8sI", name.encode(), len(content)) + content)
    return b"".join(parts)


def packed(data: bytes) -> bytes | None:
    """The file that such bytes describe, with correct checksums; None if they describe none."""
    if len(data) < 2:
        return None
    (version,), sections, position = struct.unpack_from("<H", data), {}, 2
    while position + 12 <= len(data):
        name, length = struct.unpack_from("<8sI", data, position)
        content = data[position + 12 : position + 12 + length]
        position += 12 + length
        text = name.rstrip(b"\0")
        if not text.isalnum():
            return None
        key = text.decode("ascii")
        sections[key] = _compressed(version, key, content)
    return pack_container(Container(version, sections)) if len(sections) <= 64 else None


def one_input(data: bytes) -> None:
    """Raises only if the decoder has a fault or its two kernels do not agree."""
    for candidate in (data, packed(data)):
        if candidate is not None and (model := decoded_alike(candidate)) is not None:
            _require_finite(model.values())


def one_published_input(data: bytes) -> None:
    """As one_input, for the pickle in a file of the published code."""
    try:
        splats = read_published_file(lzma.compress(data, check=lzma.CHECK_NONE, filters=FILTERS))
    except CorruptFile:
        return
    _require_finite(splats.columns())


def _require_finite(values: Mapping[str, np.ndarray]) -> None:
    for name, array in values.items():
        assert np.isfinite(array).all(), name
