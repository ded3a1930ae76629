# SPDX-License-Identifier: Apache-2.0
"""Accessors of a glTF 2.0 file as arrays (specification, section 3.6.2)."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from splat_formats.gltf_container import CHECKED, Document
from splat_formats.json_values import Object

FLOAT, UNSIGNED_BYTE = 5126, 5121
_TYPES: dict[int, np.dtype] = {
    5120: np.dtype("<i1"),
    UNSIGNED_BYTE: np.dtype("<u1"),
    5122: np.dtype("<i2"),
    5123: np.dtype("<u2"),
    5125: np.dtype("<u4"),
    FLOAT: np.dtype("<f4"),
}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_MOST_BYTES = (1 << 32) - 1
_STRIDES = (4, 252)
_INDEX_TYPES = (UNSIGNED_BYTE, 5123, 5125)

_Entry = TypeVar("_Entry")


class Accessors:
    """The accessors of a document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._accessors = CHECKED.objects(document.json, "accessors")
        self._views = CHECKED.objects(document.json, "bufferViews")

    def count(self, index: int) -> int:
        """Elements of an accessor. Each takes a byte of the buffers at least."""
        return CHECKED.whole(self._accessor(index), "count", self.document.binary_bytes)

    def values(self, index: int, components: int) -> npt.NDArray[np.float32]:
        """The elements (count, components); integers are divided if they are normalised.

        Raises CorruptFile.
        """
        accessor = self._accessor(index)
        kind = CHECKED.text(accessor, "type") or ""
        if _COMPONENTS.get(kind) != components:
            names = [name for name, count in _COMPONENTS.items() if count == components]
            raise CHECKED.wrong(f"accessor {index}: type", names[0], kind)
        dtype = self._dtype(accessor, tuple(_TYPES))
        count = self.count(index)
        if "bufferView" in accessor:
            raw = self._elements(accessor, dtype, count, components)
        else:
            raw = np.zeros((count, components), dtype)
        if "sparse" in accessor:
            raw = self._with_sparse(raw, CHECKED.member(accessor, "sparse"), dtype)
        values = raw.astype(np.float32)
        if accessor.get("normalized") is True and dtype.kind != "f":
            values = np.maximum(values / np.float32(np.iinfo(dtype).max), np.float32(-1))
        return values

    def _accessor(self, index: int) -> Object:
        return _entry(self._accessors, index, "accessor")

    def _dtype(self, part: Object, allowed: tuple[int, ...]) -> np.dtype:
        code = CHECKED.whole(part, "componentType", max(_TYPES))
        if code not in allowed:
            raise CHECKED.wrong("componentType", " or ".join(map(str, allowed)), code)
        return _TYPES[code]

    def _elements(self, part: Object, dtype: np.dtype, count: int, components: int) -> npt.NDArray:
        """(count, components) elements in a buffer view, at any alignment and distance."""
        index = CHECKED.whole(part, "bufferView", _MOST_BYTES)
        view = _entry(self._views, index, "bufferView")
        place = CHECKED.whole(view, "buffer", _MOST_BYTES)
        buffer = _entry(self.document.buffers, place, "buffer")
        start = CHECKED.whole(view, "byteOffset", _MOST_BYTES, 0)
        length = CHECKED.whole(view, "byteLength", _MOST_BYTES)
        if start + length > len(buffer):
            raise CHECKED.error(
                f"bufferView {index}: bytes {start:,} to {start + length:,} of buffer {place}, "
                f"which has {len(buffer):,}"
            )
        offset = CHECKED.whole(part, "byteOffset", _MOST_BYTES, 0)
        size = dtype.itemsize * components
        stride = CHECKED.whole(view, "byteStride", _STRIDES[1], size)
        if "byteStride" in view and stride < max(_STRIDES[0], size):
            raise CHECKED.wrong(f"bufferView {index}: byteStride", f"{size} or more", stride)
        needed = offset + stride * (count - 1) + size if count else 0
        if needed > length:
            raise CHECKED.error(
                f"bufferView {index}: {count:,} elements need {needed:,} bytes, it has {length:,}"
            )
        strides = (stride, dtype.itemsize)
        content = buffer[start : start + length]
        return np.ndarray((count, components), dtype, content, offset if count else 0, strides)

    def _with_sparse(self, base: npt.NDArray, sparse: Object, dtype: np.dtype) -> npt.NDArray:
        """The elements with some replaced."""
        count, components = base.shape
        replaced = CHECKED.whole(sparse, "count", count)
        indices, values = (CHECKED.member(sparse, name) for name in ("indices", "values"))
        rows = self._elements(indices, self._dtype(indices, _INDEX_TYPES), replaced, 1)[:, 0]
        rows = rows.astype(np.int64)
        if len(rows) and (rows.max() >= count or (np.diff(rows) <= 0).any()):
            raise CHECKED.error(f"sparse indices must ascend and be below {count:,}")
        found = base.copy()
        found[rows] = self._elements(values, dtype, replaced, components)
        return found


def _entry(entries: Sequence[_Entry], index: int, what: str) -> _Entry:
    if index >= len(entries):
        raise CHECKED.error(f"{what} {index} is named, there are {len(entries)}")
    return entries[index]
