# SPDX-License-Identifier: Apache-2.0
"""Values for JSON, and those parsed from it as frozen dataclasses with every type checked.

Standard library only.
"""

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from utils.errors import InputError

T = TypeVar("T")

MOST = 1e100
"""The greatest absolute value of a number: products of three remain finite."""


def read_json(path: Path) -> Any:
    """The content of a JSON file. InputError if it is none; FileNotFoundError without the file."""
    try:
        # Bytes, because json then recognises UTF-8 with a mark, and UTF-16.
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error


def finite_only(value: Any, places: list[str], place: str = "") -> Any:
    """`value` with None for numbers that are not finite; their places are added to `places`.

    JSON has no form for such numbers. Dictionaries, lists and tuples are searched; tuples become
    lists.
    """
    if isinstance(value, dict):
        return {
            key: finite_only(inner, places, f"{place}.{key}" if place else key)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [finite_only(inner, places, f"{place}[{i}]") for i, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        places.append(place)
        return None
    return value


def from_json(kind: type[T], value: Any, place: str = "") -> T:
    """`value` as the dataclass `kind`, whose `asdict` it is.

    Fields that `value` lacks get their defaults, entries that are no fields are ignored. A float
    may be None, because JSON has no other form for numbers that are not finite. ValueError, with
    the place, for everything else that does not fit, and for numbers beyond MOST.
    """
    if not isinstance(value, dict):
        raise _fault(place, "an object", value)
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):  # type: ignore[arg-type]
        inside = f"{place}.{field.name}" if place else field.name
        if field.name in value:
            found[field.name] = _value(hints[field.name], value[field.name], inside)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{inside} is missing")
    return kind(**found)


def _value(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    if get_origin(kind) in (Union, UnionType):
        return _of_union(get_args(kind), value, place)
    if is_dataclass(kind):
        return from_json(kind, value, place)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        _expect(list, "a list", value, place)
        item = get_args(kind)[0]
        return tuple(_value(item, entry, f"{place}[{i}]") for i, entry in enumerate(value))
    if get_origin(kind) is dict:
        _expect(dict, "an object", value, place)
        item = get_args(kind)[1]
        return {name: _value(item, entry, f"{place}.{name}") for name, entry in value.items()}
    return _plain(kind, value, place)


def _of_union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    """A value of the one kind that may also be None."""
    if value is None:
        return None
    (kind,) = (kind for kind in kinds if kind is not NoneType)
    return _value(kind, value, place)


def _plain(kind: type, value: Any, place: str) -> Any:
    if kind is float and value is None:
        return None
    accepted = (int, float) if kind is float else kind
    _expect(accepted, kind.__name__, value, place)
    if isinstance(value, bool) and kind is not bool:
        raise _fault(place, kind.__name__, value)
    if isinstance(value, int | float) and abs(value) > MOST:
        raise ValueError(f"{place}: expected a number up to {MOST:g}, got a greater one")
    return value


def _expect(kind: Any, name: str, value: Any, place: str) -> None:
    if not isinstance(value, kind):
        raise _fault(place, name, value)


def _fault(place: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{place or 'the file'}: expected {expected}, got {str(value)[:40]!r}")
