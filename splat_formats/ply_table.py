# SPDX-License-Identifier: Apache-2.0
"""The rows of any PLY file as columns: binary of both byte orders, and ascii, gzipped or not.

The caller interprets the columns (Gaussians, SfM points).
"""

import gzip
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from splat_formats.ply_header import (
    BYTE_ORDERS,
    MAX_HEADER_BYTES,
    Element,
    Header,
    only_element,
    parse_header,
)
from splat_formats.ply_text import read_text_columns
from splat_formats.unpacked import MOST_GZIP_RATIO, is_gzip, open_unpacked
from utils.errors import InputError

_ROWS_PER_COPY = 2048  # about 500 KB of records: columns are strided, and stay in the cache
_BYTES_PER_READ = 1 << 26
_BYTES_MAPPED = 1 << 28  # at a time
_MAX_ROW_BYTES = 1 << 20

Columns = dict[str, npt.NDArray]


@dataclass(frozen=True)
class PlyTable:
    """One element of a PLY file, its vertices above all: (N,) columns by property name, in the
    file's own types.

    Columns of text files are float64, if their type is a floating-point one.
    """

    path: Path
    count: int
    columns: Mapping[str, npt.NDArray]
    comments: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """What else the file holds: lists in the rows, other elements."""
    matrix: npt.NDArray | None = None
    """(N, C) all columns, in their order, where they are one array."""

    def stack(self, names: list[str], dtype: type = np.float32) -> npt.NDArray:
        """(N, len(names)) contiguous array of the named columns; `InputError` if one is missing.

        Numbers too large for the type become infinite.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise InputError(f"{self.path}: the vertices have no property {', '.join(missing)}")
        if self.matrix is not None:
            places = {name: place for place, name in enumerate(self.columns)}
            chosen = self.matrix.take([places[name] for name in names], axis=1)
            with np.errstate(over="ignore"):
                return chosen.astype(dtype, copy=False)
        table: npt.NDArray = np.empty((self.count, len(names)), dtype)
        with np.errstate(over="ignore"):
            for start in range(0, self.count, _ROWS_PER_COPY):
                part = slice(start, start + _ROWS_PER_COPY)
                for i, name in enumerate(names):
                    table[part, i] = self.columns[name][part]
        return table


@dataclass(frozen=True, eq=False)
class MappedPly:
    """The vertices of a binary PLY file, of which only the rows that are used are read.

    The file's pages are mapped into memory, and given back after each use.
    """

    path: Path
    count: int
    row: np.dtype
    names: tuple[str, ...]
    comments: tuple[str, ...]
    left_out: tuple[str, ...]
    _start: int
    _pages: mmap.mmap

    def table(self, rows: npt.NDArray[np.integer]) -> PlyTable:
        """A copy of the chosen rows, whose numbers are in ascending order."""
        # As bytes: behind a header of odd length, where numbers do not lie at multiples of their
        # size, `take` would copy the whole file first.
        size = self.row.itemsize
        every = np.frombuffer(self._pages, np.uint8, self.count * size, self._start)
        every = every.reshape(self.count, size)
        chosen = np.empty((len(rows), size), np.uint8)
        span = max(1, _BYTES_MAPPED // size)
        ends = np.searchsorted(rows, np.arange(span, self.count + span, span)).tolist()
        for low, high in pairwise([0, *ends]):
            part = rows[low:high]
            every.take(part, axis=0, out=chosen[low:high], mode="clip")  # "raise" would copy
            self._give_back()
        return self._table_of(np.frombuffer(chosen, self.row, len(rows)))

    def parts(self, size: int) -> Iterator[tuple[slice, PlyTable]]:
        """All rows, up to `size` at a time and without a copy, and where they are in the file."""
        every = self._every()
        for start in range(0, self.count, size):
            part = slice(start, min(start + size, self.count))
            yield part, self._table_of(every[part])
            self._give_back()

    def _every(self) -> npt.NDArray:
        return np.frombuffer(self._pages, self.row, self.count, self._start)

    def _table_of(self, rows: npt.NDArray) -> PlyTable:
        return PlyTable(
            path=self.path,
            count=len(rows),
            columns=_columns(rows, self.names),
            comments=self.comments,
            left_out=self.left_out,
            matrix=_matrix(rows),
        )

    def _give_back(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows, which takes pages back by itself
            self._pages.madvise(mmap.MADV_DONTNEED)


def map_ply_table(path: str | os.PathLike[str]) -> MappedPly | None:
    """The vertices of the PLY file at `path`, or None where only reading it as a whole finds them:
    gzip, text, lists, no vertices.

    Raises `InputError` for a file that is no PLY, or is cut short.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
        if is_gzip(head):
            return None
        header = parse_header(head, path)
        element = only_element(header, "vertex", path)
        earlier = header.before(element)
        if header.encoding == "ascii" or any(part.has_lists for part in (*earlier, element)):
            return None
        order = BYTE_ORDERS[header.encoding]
        start = header.size + sum(part.count * _row_of(part, order).itemsize for part in earlier)
        row = _row_of(element, order)
        if not row.itemsize or not element.count:
            return None
        _check_rows(os.fstat(file.fileno()).st_size - start, row.itemsize, element, path)
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    others = tuple(f"element {part.name}" for part in header.elements if part != element)
    names = tuple(found.name for found in element.properties)
    return MappedPly(path, element.count, row, names, header.comments, others, start, pages)


def read_ply_table(path: str | os.PathLike[str]) -> PlyTable:
    """The vertices of the PLY file at `path`, which may be a gzip file.

    Raises `InputError` for a file that is no PLY, is cut short, or has no plain vertices.
    """
    return read_ply_tables(path, ("vertex",))["vertex"]


def read_ply_tables(
    path: str | os.PathLike[str], names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, PlyTable]:
    """The elements of these names, and those of `optional` that the PLY file has.

    Raises `InputError` for a file that is no PLY, is cut short, or lacks one of the names.
    """
    path = Path(path)
    tables: dict[str, PlyTable] = {}
    with open_unpacked(path) as file:
        header = parse_header(file.read(MAX_HEADER_BYTES), path)
        present = {element.name for element in header.elements}
        wanted = (*names, *(name for name in optional if name in present))
        others = tuple(f"element {element.name}" for element in header.elements
                       if element.name not in wanted)  # fmt: skip
        for name in wanted:
            file.seek(header.size)
            tables[name] = _read_element(file, header, only_element(header, name, path), path)
    return {name: replace(table, left_out=(*table.left_out, *others))
            for name, table in tables.items()}  # fmt: skip


def _read_element(file: BinaryIO, header: Header, element: Element, path: Path) -> PlyTable:
    if header.encoding == "ascii":
        columns, matrix = read_text_columns(file, header, element, path), None
    else:
        columns, matrix = _read_binary(file, header, element, path)
    lists = tuple(f"the list {found.name}" for found in element.properties if found.count_code)
    return PlyTable(path, element.count, columns, header.comments, lists, matrix)


def _read_binary(
    file: BinaryIO, header: Header, element: Element, path: Path
) -> tuple[Columns, npt.NDArray | None]:
    """The columns, and the one array that they are, if they are."""
    order = BYTE_ORDERS[header.encoding]
    for earlier in header.before(element):
        _skip(file, earlier, order, path)
    if element.has_lists:
        return _read_rows_with_lists(file, element, order, path), None
    rows = _read_rows(file, _row_of(element, order), element, path)
    return _columns(rows, tuple(found.name for found in element.properties)), _matrix(rows)


def _row_of(element: Element, order: str) -> np.dtype:
    """The type of a row without lists."""
    codes = {found.code for found in element.properties}
    if len(codes) == 1:
        # One plain matrix, the usual case: its strided columns copy faster than structured ones.
        return np.dtype((order + codes.pop(), (len(element.properties),)))
    return np.dtype([(found.name, order + found.code) for found in element.properties])


def _columns(rows: npt.NDArray, names: tuple[str, ...]) -> Columns:
    """The columns of rows with the type `_row_of`, by name."""
    if rows.dtype.names is None:
        return dict(zip(names, rows.reshape(len(rows), len(names)).T, strict=True))
    return {name: rows[name] for name in names}


def _matrix(rows: npt.NDArray) -> npt.NDArray | None:
    """(N, C) the rows, where all their columns have one type."""
    return rows if rows.dtype.names is None and rows.ndim == 2 else None


def _read_rows(file: BinaryIO, row: np.dtype, element: Element, path: Path) -> npt.NDArray:
    """The element's rows, from here. InputError, before memory is allocated, if there are fewer."""
    if not row.itemsize:
        return np.empty(0, row)
    length = _bytes_left(file)
    if length is None:  # the length of gzip content is known only at its end
        _check_gzip(os.fstat(file.fileno()).st_size, row.itemsize, element, path)
        data = _read_up_to(file, row.itemsize * element.count)
        _check_rows(len(data), row.itemsize, element, path)
        return np.frombuffer(data, row, element.count)
    _check_rows(length, row.itemsize, element, path)
    rows = np.fromfile(file, row, element.count)
    _check_rows(rows.nbytes, row.itemsize, element, path)  # again: another program may cut the file
    return rows


def _check_rows(length: int, row_bytes: int, element: Element, path: Path) -> None:
    if row_bytes * element.count > length:
        raise InputError(
            f"{path}: truncated: the header states {element.count} {element.rows_noun}, the file "
            f"has {max(0, length) // row_bytes}"
        )


def _check_gzip(packed: int, row_bytes: int, element: Element, path: Path) -> None:
    """InputError, before anything is read, for more rows than a gzip file of this size can hold."""
    if row_bytes * element.count > MOST_GZIP_RATIO * packed:
        raise InputError(
            f"{path}: truncated: the header states {element.count} {element.rows_noun}, more than "
            f"{packed} bytes of gzip can hold"
        )


def _bytes_left(file: BinaryIO) -> int | None:
    """Bytes between the current position and the end; None if only reading can determine it."""
    if isinstance(file, gzip.GzipFile):
        return None
    return os.fstat(file.fileno()).st_size - file.tell()


def _read_up_to(file: BinaryIO, length: int) -> bytearray:
    """At most `length` bytes; memory is allocated as they are read."""
    data = bytearray()
    while len(data) < length and (more := file.read(min(length - len(data), _BYTES_PER_READ))):
        data += more
    return data


def _skip(file: BinaryIO, element: Element, order: str, path: Path) -> None:
    """Skips the element's rows."""
    if not element.has_lists:
        row_bytes = sum(np.dtype(found.code).itemsize for found in element.properties)
        _move(file, element.count * row_bytes, element, path)
        return
    for _ in range(element.count):
        _skip_row(file, element, order, path)


def _skip_row(file: BinaryIO, element: Element, order: str, path: Path) -> list[int]:
    """Skips one row; returns the lengths of its lists."""
    lengths = []
    for found in element.properties:
        if found.count_code is None:
            _move(file, np.dtype(found.code).itemsize, element, path)
            continue
        counter = np.dtype(order + found.count_code)
        data = file.read(counter.itemsize)
        if len(data) < counter.itemsize:
            raise _ends_within(element, path)
        length = int(np.frombuffer(data, counter)[0])
        if length < 0:
            raise InputError(f"{path}: a list in element {element.name!r} has length {length}")
        _move(file, length * np.dtype(found.code).itemsize, element, path)
        lengths.append(length)
    return lengths


def _move(file: BinaryIO, length: int, element: Element, path: Path) -> None:
    """Moves forward. A small step may pass the end of the file: the next read detects it."""
    if length > _MAX_ROW_BYTES and (left := _bytes_left(file)) is not None and length > left:
        raise _ends_within(element, path)
    file.seek(length, os.SEEK_CUR)


def _ends_within(element: Element, path: Path) -> InputError:
    return InputError(f"{path}: truncated: the file ends within element {element.name!r}")


def _read_rows_with_lists(file: BinaryIO, element: Element, order: str, path: Path) -> Columns:
    """The columns of numbers, where the lists of all rows are equally long."""
    start = file.tell()
    lengths = iter(_skip_row(file, element, order, path) if element.count else [])
    row_bytes = file.tell() - start
    file.seek(start)
    if row_bytes > _MAX_ROW_BYTES:
        raise InputError(f"{path}: the first {element.name} has lists of {row_bytes} bytes")
    fields: list[tuple] = []
    counters: dict[str, int] = {}
    for number, found in enumerate(element.properties):
        if found.count_code is None:
            fields.append((found.name, order + found.code))
            continue
        counters[f"length {number}"] = length = next(lengths, 0)
        fields.append((f"length {number}", order + found.count_code))
        fields.append((f"list {number}", order + found.code, (length,)))
    rows = _read_rows(file, np.dtype(fields), element, path)
    if any((rows[name] != length).any() for name, length in counters.items()):
        raise InputError(
            f"{path}: {element.rows_noun} with lists of different lengths are not supported"
        )
    return {f.name: rows[f.name] for f in element.properties if f.count_code is None}
