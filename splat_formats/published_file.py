# SPDX-License-Identifier: Apache-2.0
"""Reads the files of the published Fast-3DGS code: LZMA over a pickled dictionary of arrays.

No exact description of their layout exists; docs/format.md, "Published files", lists what is
accepted.
Nothing in them is executed (plain_pickle.py). NumPy only.
"""

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splat_codec.errors import CorruptFile
from splat_formats.plain_pickle import RefusedPickle, read_plain_pickle
from splat_formats.scene import SplatScene
from splat_formats.splats import FloatArray, Splats
from utils.errors import InputError

_MAGICS = (b"\xfd7zXZ\x00", b"\x5d\x00\x00")  # .xz, and the older .lzma
_DECODER_MEMORY = 2**27  # preset 9 has a dictionary of 2^26
# Such files are a half to a sixth of their content; one that unpacks to more is refused.
_FREE_BYTES, _BYTES_PER_BYTE = 2**24, 64

_NAMES = {
    "xyz": ("xyz", "positions", "means"),
    "features_dc": ("features_dc", "f_dc", "sh_dc"),
    "features_rest": ("features_rest", "f_rest", "sh_rest"),
    "opacity": ("opacity", "opacities"),
    "scaling": ("scaling", "scalings", "scales"),
    "rotation": ("rotation", "rotations", "quaternions"),
}
_VALUES, _STEP, _ZERO = ("values", "data", "quantized"), ("scale", "step"), ("zero_point", "zero")


def is_published_file(data: bytes) -> bool:
    """Whether a file that begins with `data` is of this kind."""
    return data.startswith(_MAGICS)


def read_published_scene(path: Path) -> SplatScene:
    """The scene in a published file. Raises CorruptFile."""
    return SplatScene(read_published_file(path.read_bytes()))


def read_published_file(data: bytes) -> Splats:
    """The model in a published file's bytes, dequantised. Raises CorruptFile."""
    pickled = _decompressed(data)
    try:
        content = read_plain_pickle(pickled)
    except RefusedPickle as error:
        raise CorruptFile("pickle", str(error)) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CorruptFile("pickle", "a dictionary of arrays by name is expected")
    entries = {key.lower().strip("_"): value for key, value in content.items()}
    found = {name: _attribute(entries, name) for name in _NAMES}
    if sum(attribute.array.size for attribute in found.values()) > len(pickled):
        raise CorruptFile("pickle", "more numbers than bytes: arrays stand for several attributes")
    values = {name: attribute.values() for name, attribute in found.items()}
    count = len(values["xyz"])
    try:
        return Splats(
            xyz=values["xyz"],
            features_dc=values["features_dc"].reshape(count, 1, 3),
            features_rest=values["features_rest"].reshape(count, _coefficients(values), 3),
            opacity=values["opacity"].reshape(count, 1),
            scaling=values["scaling"],
            rotation=values["rotation"],
        )
    except (ValueError, InputError) as error:
        raise CorruptFile("pickle", f"arrays do not fit together: {error}") from error


def _decompressed(data: bytes) -> bytes:
    limit = _FREE_BYTES + _BYTES_PER_BYTE * len(data)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_DECODER_MEMORY)
    try:
        content = decoder.decompress(data, max_length=limit)
    except lzma.LZMAError as error:
        raise CorruptFile("lzma", str(error)) from error
    if not decoder.eof:
        reason = f"more than {limit} bytes" if len(content) == limit else "cut short"
        raise CorruptFile("lzma", reason)
    if decoder.unused_data:
        raise CorruptFile("lzma", f"{len(decoder.unused_data)} bytes left over")
    return content


@dataclass(frozen=True, eq=False)
class _Attribute:
    """Numbers as they are (`step` None), or integers: (integer - zero) x step."""

    name: str
    array: np.ndarray
    step: np.float32 | None = None
    zero: np.float32 | None = None

    def values(self) -> FloatArray:
        """In float32; CorruptFile unless all are finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.array.astype(np.float32)
            if self.step is not None and self.zero is not None:
                values -= self.zero
                values *= self.step
        if not np.isfinite(values).all():
            raise CorruptFile("pickle", f"{self.name} holds numbers that are not finite")
        return values


def _attribute(entries: Mapping[str, Any], name: str) -> _Attribute:
    """One attribute's array and, for integers, its grid: a separate entry, or stored with it."""
    key, found = _one(entries, _NAMES[name], name)
    match found:
        case np.ndarray():
            parts = {part: entries.get(f"{key}_{part}") for part in (*_STEP, *_ZERO)}
            parts = {part: value for part, value in parts.items() if value is not None}
            array = found
        case (np.ndarray() as array, step, zero):
            parts = {"scale": step, "zero_point": zero}
        case dict():
            array = _one(found, _VALUES, f"{name}'s values")[1]
            parts = found
        case _:
            raise CorruptFile("pickle", f"{key} is no array")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or not array.ndim:
        raise CorruptFile("pickle", f"{key} is no array of numbers")
    if array.dtype.kind == "f":
        return _Attribute(key, array)
    step = _number(_one(parts, _STEP, f"the step of {key}")[1], key)
    zero = _number(_one(parts, _ZERO, f"the zero of {key}")[1], key)
    return _Attribute(key, array, step, zero)


def _one(entries: Mapping[str, Any], names: tuple[str, ...], what: str) -> tuple[str, Any]:
    """The name that is used, and the entry under it."""
    found = [name for name in names if name in entries]
    if len(found) != 1:
        there = ", ".join(sorted(map(str, entries)))[:200]
        raise CorruptFile("pickle", f"{what}: one of {names} is expected among: {there}")
    return found[0], entries[found[0]]


def _number(value: Any, key: str) -> np.float32:
    number = np.asarray(value)
    if number.dtype.kind not in "fiu" or number.size != 1 or not abs(number).max() < 2**31:
        raise CorruptFile("pickle", f"the grid of {key} is no finite number")
    return np.float32(number.reshape(()))


def _coefficients(values: Mapping[str, FloatArray]) -> int:
    """Higher SH coefficients per colour."""
    return values["features_rest"].size // (3 * max(1, len(values["xyz"])))
