# SPDX-License-Identifier: Apache-2.0
"""Values of JSON texts from files, checked: any of them may have any type."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile

Object = Mapping[str, Any]

_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 80  # characters of a wrong value


@dataclass(frozen=True)
class Checked:
    """The checks of the values of one text; each raises CorruptFile."""

    section: str
    """Names the text in messages."""

    def parsed(self, data: bytes) -> Object:
        """The object that the text is."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self.error(f"JSON is expected: {error}") from error
        if not isinstance(found, dict):
            raise self.wrong("", "an object", found)
        return found

    def member(self, parent: Object, key: str) -> Object:
        """An object."""
        value = parent.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object", value)
        return value

    def objects(self, parent: Object, key: str) -> list[Object]:
        """A list of objects; an empty one if it is missing."""
        values = parent.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.wrong(key, "a list of objects", values)
        return values

    def whole(self, parent: Object, key: str, most: int, default: int | None = None) -> int:
        """An integer from 0 to `most`."""
        value = parent.get(key, default)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.wrong(key, f"an integer from 0 to {most:,}", value)
        return value

    def numbers(self, parent: Object, key: str, length: int) -> npt.NDArray[np.float64]:
        """`length` numbers that float32 can hold."""
        values = parent.get(key)
        if not isinstance(values, list) or len(values) != length:
            raise self.wrong(key, f"{length} numbers", values)
        for value in values:
            if not _is_number(value):
                raise self.wrong(key, f"{length} finite numbers", value)
        return np.array(values, np.float64)

    def names(self, parent: Object, key: str, count: int | None = None) -> tuple[str, ...]:
        """A list of texts, `count` of them if it is given; an empty one if it is missing."""
        values = parent.get(key, [])
        listed = values if isinstance(values, list) else [None]
        names = tuple(value for value in listed if isinstance(value, str))
        if len(names) != len(listed) or count not in (None, len(names)):
            raise self.wrong(key, "texts" if count is None else f"{count} texts", values)
        return names

    def text(self, parent: Object, key: str) -> str | None:
        """A text, or None if it is missing."""
        value = parent.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a text", value)
        return value

    def wrong(self, key: str, expected: str, value: object) -> CorruptFile:
        """The error for a value that is not what is expected."""
        place = f"{key}: " if key else ""
        came = f"{len(value)} values" if isinstance(value, list) else f"{value!r:.{_SHOWN}}"
        return self.error(f"{place}{expected} expected, got {came}")

    def error(self, reason: str) -> CorruptFile:
        """The error for this text."""
        return CorruptFile(self.section, reason)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= _LARGEST
