# SPDX-License-Identifier: Apache-2.0
"""Opens files, and decompresses gzip files."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from utils.errors import InputError

MOST_GZIP_RATIO = 1032
"""How many bytes one byte of a gzip file can stand for."""

_GZIP = b"\x1f\x8b"
_FIRST_BYTES = 16  # enough to recognise a format
_UNPACKED_HEAD = 1 << 16  # contains the headers of PLY files


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file opened for reading; of a gzip file the decompressed content."""
    with path.open("rb") as file:
        if file.peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
            yield file
            return
        try:
            with gzip.open(file, "rb") as content:
                yield cast(BinaryIO, content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: damaged gzip file: {error}") from error


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins with `head` is a gzip file."""
    return head.startswith(_GZIP)


def unpacked_head(head: bytes) -> bytes:
    """The first bytes of the content, if `head` begins a gzip file; other heads unchanged."""
    if not is_gzip(head):
        return head
    inflater, found = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
    try:
        found = inflater.decompress(head, _FIRST_BYTES)
        found += inflater.decompress(inflater.unconsumed_tail, _UNPACKED_HEAD)
    except zlib.error:
        pass  # the reader of the format that the bytes before the damage show reports it
    return found
