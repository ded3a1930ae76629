# SPDX-License-Identifier: Apache-2.0
"""Files as they are, or as they are inside gzip."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from utils.errors import InputError

_GZIP = b"\x1f\x8b"
_UNPACKED_HEAD = 1 << 12


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file opened for reading; its content where it is a gzip file."""
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
    """The beginning of what a gzip file that begins with `head` holds; other heads unchanged."""
    if not is_gzip(head):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _UNPACKED_HEAD)
    except zlib.error:
        return b""
