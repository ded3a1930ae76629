# SPDX-License-Identifier: Apache-2.0
"""The header of a PLY file. Format: Greg Turk, "The PLY Polygon File Format", 1994."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from splat_formats.unpacked import unpacked_head
from utils.errors import InputError

MAX_HEADER_BYTES = 1 << 20
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*ply[ \t]*(\r\n|\n|\r)")
_MAX_DIGITS = 18  # of a count: no file has a larger one
# Two sets of names are in use: the original and one with sizes. "half" is a common extension.
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2"},
    **{"int": "i4", "uint": "u4", "half": "f2", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"int64": "i8", "uint64": "u8", "float16": "f2", "float32": "f4", "float64": "f8"},
}


@dataclass(frozen=True)
class Property:
    """One number of each row, or a list of them."""

    name: str
    code: str
    """NumPy type code without byte order; of a list: of its entries."""
    count_code: str | None = None
    """Of a list: type code of its length."""


@dataclass(frozen=True)
class Element:
    """One `element` of a header: a table of `count` rows."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def rows_noun(self) -> str:
        """The name of its rows, for messages."""
        return "vertices" if self.name == "vertex" else f"rows of element {self.name!r}"

    @property
    def has_lists(self) -> bool:
        """Whether rows may differ in length."""
        return any(found.count_code is not None for found in self.properties)


@dataclass(frozen=True)
class Header:
    """The content of a header."""

    encoding: str
    """ascii, binary_little_endian or binary_big_endian."""
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    """Lines of comments, without the word `comment` (or `obj_info`)."""
    size: int
    """Bytes up to the first row."""

    def before(self, element: Element) -> tuple[Element, ...]:
        """The elements whose rows precede those of `element`."""
        return self.elements[: self.elements.index(element)]


def is_ply(head: bytes) -> bool:
    """Whether a file that begins with `head` is a PLY, in gzip or not."""
    return _FIRST_LINE.match(unpacked_head(head)) is not None


def parse_header(head: bytes, path: Path) -> Header:
    """The header at the beginning of `head`, which need not end with it. Raises InputError."""
    first = _FIRST_LINE.match(head)
    if first is None:
        raise InputError(f"{path}: not a PLY file (its first line is not 'ply')")
    line_end = b"\r" if first[1] == b"\r" else b"\n"
    builder, position = _Builder(path), first.end()
    while (end := head.find(line_end, position)) >= 0:
        line = head[position:end].decode("ascii", "replace").strip()
        position = end + 1
        if line == "end_header":
            return builder.header(position)
        builder.add(line)
    raise InputError(f"{path}: the PLY header has no 'end_header' line")


@dataclass
class _Builder:
    """A header while its lines are read."""

    path: Path
    encoding: str = ""
    elements: list[tuple[str, int, list[Property]]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Adds one line. Raises InputError."""
        match line.split():
            case []:
                pass
            case ["comment" | "obj_info", *_]:
                self.comments.append(line.partition(" ")[2].strip())
            case ["format", word, _] if not self.encoding:
                if word not in BYTE_ORDERS and word != "ascii":
                    raise InputError(f"{self.path}: unknown PLY format {word!r}")
                self.encoding = word
            case ["element", name, count] if count.isdecimal() and len(count) <= _MAX_DIGITS:
                self.elements.append((name, int(count), []))
            case ["property", "list", length, word, name] if self._are_list_types(length, word):
                self._add(Property(name, _TYPES[word], _TYPES[length]))
            case ["property", word, name] if self.elements and word in _TYPES:
                self._add(Property(name, _TYPES[word]))
            case _:
                raise InputError(f"{self.path}: unknown line in the PLY header: {line[:80]!r}")

    def header(self, size: int) -> Header:
        """The complete header, after its last line. Raises InputError."""
        if not self.encoding:
            raise InputError(f"{self.path}: the PLY header has no 'format' line")
        elements = tuple(Element(name, count, tuple(rows)) for name, count, rows in self.elements)
        return Header(self.encoding, elements, tuple(self.comments), size)

    def _are_list_types(self, length: str, word: str) -> bool:
        return bool(self.elements) and word in _TYPES and _TYPES.get(length, "f")[0] in "iu"

    def _add(self, new: Property) -> None:
        element, _, properties = self.elements[-1]
        if any(known.name == new.name for known in properties):
            raise InputError(
                f"{self.path}: the PLY header has the property {new.name!r} of element "
                f"{element!r} twice"
            )
        properties.append(new)


def only_element(header: Header, name: str, path: Path) -> Element:
    """The one element of this name. Raises InputError."""
    found = [element for element in header.elements if element.name == name]
    if len(found) != 1:
        none = "no vertices" if name == "vertex" else f"no element {name!r}"
        what = none if not found else f"{len(found)} elements named {name!r}"
        raise InputError(f"{path}: the PLY file has {what}")
    return found[0]
