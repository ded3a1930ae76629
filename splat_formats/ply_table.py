# SPDX-License-Identifier: Apache-2.0
"""The vertices of any PLY file as columns: header, binary of both byte orders, and ascii.

What the columns mean (Gaussians, SfM points) is the caller's business. Format: Greg Turk, "The PLY
Polygon File Format", 1994.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from utils.errors import InputError

_MAX_HEADER_BYTES = 1 << 20
_ROWS_PER_COPY = 2048  # some 500 KB of records: columns are strided, and stay in the cache
_BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
# Both vocabularies are in use: the original one and the sized one.
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2"},
    **{"int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}


@dataclass(frozen=True)
class _Element:
    """One `element` of a header. `properties` maps names to NumPy type codes, "list" for lists."""

    name: str
    count: int
    properties: Mapping[str, str]

    @property
    def has_lists(self) -> bool:
        return "list" in self.properties.values()

    def row_type(self, byte_order: str) -> np.dtype:
        return np.dtype([(name, byte_order + code) for name, code in self.properties.items()])


@dataclass(frozen=True)
class _Header:
    encoding: str
    elements: tuple[_Element, ...]


@dataclass(frozen=True)
class PlyTable:
    """The vertices of one PLY file: (N,) columns by property name, in the file's own types."""

    path: Path
    count: int
    columns: Mapping[str, npt.NDArray]

    def stack(self, names: list[str], dtype: type = np.float32) -> npt.NDArray:
        """(N, len(names)) contiguous array of the named columns; `InputError` if one is missing."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise InputError(f"{self.path}: the vertices have no property {', '.join(missing)}")
        table: npt.NDArray = np.empty((self.count, len(names)), dtype)
        for start in range(0, self.count, _ROWS_PER_COPY):
            part = slice(start, start + _ROWS_PER_COPY)
            for i, name in enumerate(names):
                table[part, i] = self.columns[name][part]
        return table


def read_ply_table(path: str | os.PathLike[str]) -> PlyTable:
    """The vertices of the PLY file at `path`.

    Raises `InputError` for a file that is no PLY, is cut short, or has no plain vertices.
    """
    path = Path(path)
    with path.open("rb") as file:
        header = _read_header(file, path)
        vertex = _vertex_element(header, path)
        if header.encoding == "ascii":
            return PlyTable(path, vertex.count, _read_ascii(file, header, vertex, path))
        return PlyTable(path, vertex.count, _read_binary(file, header, vertex, path))


def _read_header(file: BinaryIO, path: Path) -> _Header:
    if file.readline(16).strip() != b"ply":
        raise InputError(f"{path}: not a PLY file (its first line is not 'ply')")
    encoding = ""
    elements: list[tuple[str, int, dict[str, str]]] = []
    while True:
        line = file.readline(_MAX_HEADER_BYTES)
        if not line or file.tell() > _MAX_HEADER_BYTES:
            raise InputError(f"{path}: the PLY header has no 'end_header' line")
        match line.decode("ascii", "replace").split():
            case ["end_header"]:
                break
            case ["format", word, _]:
                encoding = word
            case ["element", name, count] if count.isdecimal():
                elements.append((name, int(count), {}))
            case ["property", "list", _, _, name] if elements:
                elements[-1][2][name] = "list"
            case ["property", word, name] if elements and word in _TYPES:
                elements[-1][2][name] = _TYPES[word]
            case [] | ["comment" | "obj_info", *_]:
                pass
            case words:
                raise InputError(f"{path}: unknown line in the PLY header: {' '.join(words)!r}")
    if encoding not in _BYTE_ORDERS and encoding != "ascii":
        raise InputError(f"{path}: unknown PLY format {encoding!r}")
    return _Header(encoding, tuple(_Element(*element) for element in elements))


def _vertex_element(header: _Header, path: Path) -> _Element:
    for element in header.elements:
        if element.name == "vertex":
            if element.has_lists:
                raise InputError(f"{path}: vertices with list properties are not supported")
            return element
        if element.has_lists and header.encoding != "ascii":
            raise InputError(f"{path}: lists in element {element.name!r} precede the vertices")
    raise InputError(f"{path}: the PLY file has no vertices")


def _elements_before(header: _Header, vertex: _Element) -> tuple[_Element, ...]:
    return header.elements[: header.elements.index(vertex)]


def _read_binary(
    file: BinaryIO, header: _Header, vertex: _Element, path: Path
) -> dict[str, npt.NDArray]:
    byte_order = _BYTE_ORDERS[header.encoding]
    skipped = sum(
        e.count * e.row_type(byte_order).itemsize for e in _elements_before(header, vertex)
    )
    start = file.tell() + skipped
    row_type = vertex.row_type(byte_order)
    available = max(0, os.fstat(file.fileno()).st_size - start)
    # Checked before the read, so that a false count cannot make us allocate memory for it.
    if row_type.itemsize * vertex.count > available:
        found = available // row_type.itemsize
        raise InputError(
            f"{path}: truncated: the header promises {vertex.count} vertices, the file has {found}"
        )
    file.seek(start)
    if set(vertex.properties.values()) == {"f4"}:
        # One plain matrix, the usual case: its strided columns copy faster than structured ones.
        width = len(vertex.properties)
        block = np.fromfile(file, byte_order + "f4", vertex.count * width)
        return dict(zip(vertex.properties, block.reshape(vertex.count, width).T, strict=True))
    rows = np.fromfile(file, row_type, vertex.count) if row_type.itemsize else np.empty(0, row_type)
    return {name: rows[name] for name in vertex.properties}


def _read_ascii(
    file: BinaryIO, header: _Header, vertex: _Element, path: Path
) -> dict[str, npt.NDArray]:
    lines = file.read().splitlines()
    start = sum(element.count for element in _elements_before(header, vertex))
    lines = lines[start : start + vertex.count]
    if len(lines) < vertex.count:
        raise InputError(
            f"{path}: truncated: the header promises {vertex.count} vertices, "
            f"the file has {len(lines)}"
        )
    width = len(vertex.properties)
    try:
        table = np.array([line.split() for line in lines], np.float64).reshape(vertex.count, width)
    except ValueError as error:
        raise InputError(f"{path}: a vertex line does not hold {width} numbers: {error}") from error
    return {
        name: table[:, i].astype(code) for i, (name, code) in enumerate(vertex.properties.items())
    }
