# SPDX-License-Identifier: Apache-2.0
"""The rows of a PLY file in text form (`format ascii`)."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from splat_formats.ply_header import Element, Header
from utils.errors import InputError

_COMMENTS = (b"comment", b"obj_info")


def read_text_columns(
    file: BinaryIO, header: Header, element: Element, path: Path
) -> dict[str, npt.NDArray]:
    """The columns of numbers by name. Floating-point ones are float64: text may hold more digits
    than the header's type. Raises InputError."""
    rows = _rows(file)
    skipped = sum(earlier.count for earlier in header.before(element) if earlier.properties)
    for _ in islice(rows, skipped):
        pass
    wanted = element.count if element.properties else 0
    words = [row.split() for row in islice(rows, wanted)]
    if len(words) < wanted:
        raise InputError(
            f"{path}: truncated: the header states {wanted} {element.rows_noun}, "
            f"the file has {len(words)}"
        )
    places, lengths, width = _places(element, words, path)
    table = _numbers(words, width, element.name, path)
    if any((table[:, place] != length).any() for place, length in lengths.items()):
        raise InputError(
            f"{path}: {element.rows_noun} with lists of different lengths are not supported"
        )
    codes = {found.name: found.code for found in element.properties}
    return {name: _column(table[:, place], codes[name]) for name, place in places.items()}


def _rows(file: BinaryIO) -> Iterator[bytes]:
    """The lines with content. Line ends are those of any system."""
    for line in file:
        for row in line.splitlines():
            row = row.strip()
            if row and not row.startswith(_COMMENTS):
                yield row


def _places(
    element: Element, words: list[list[bytes]], path: Path
) -> tuple[dict[str, int], dict[int, int], int]:
    """The index of each number in a row; the index and value of each list's length; row width.

    Lists are assumed to be as long in every row as in the first.
    """
    places: dict[str, int] = {}
    lengths: dict[int, int] = {}
    position = 0
    for found in element.properties:
        if found.count_code is None:
            places[found.name] = position
        elif words:
            text = words[0][position] if position < len(words[0]) else b"nothing"
            if not text.isdigit():
                raise InputError(
                    f"{path}: the first {element.name} has {_shown(text)} as a list's length"
                )
            lengths[position] = int(text[:9])
            position += lengths[position]
        position += 1
    return places, lengths, position


def _numbers(
    words: list[list[bytes]], width: int, name: str, path: Path
) -> npt.NDArray[np.float64]:
    """(N, width) numbers."""
    for number, row in enumerate(words):
        if len(row) != width:
            raise InputError(
                f"{path}: {name} {number} does not hold {width} numbers: it holds {len(row)}"
            )
    try:
        return np.array(words, np.float64).reshape(len(words), width)
    except ValueError:
        number, word = next(_no_numbers(words), (0, b"a word"))
        raise InputError(
            f"{path}: {name} {number} does not hold {width} numbers: {_shown(word)} is none"
        ) from None


def _no_numbers(words: list[list[bytes]]) -> Iterator[tuple[int, bytes]]:
    for number, row in enumerate(words):
        for word in row:
            try:
                float(word)
            except ValueError:
                yield number, word


def _shown(word: bytes) -> str:
    return repr(word[:20].decode("ascii", "replace"))


def _column(values: npt.NDArray[np.float64], code: str) -> npt.NDArray:
    if code.startswith("f"):
        return values
    with np.errstate(invalid="ignore"):
        return values.astype(code)
