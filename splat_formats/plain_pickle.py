# SPDX-License-Identifier: Apache-2.0
"""Reads pickles that hold NumPy arrays, numbers, text and plain containers, and nothing else.

Python's own unpickler imports and calls what the bytes name. This is a separate interpreter for the
few opcodes that such data needs: a name is only compared with those in NumPy's pickles, only
functions of this module are called, and only a new array can be given a state. The standard
library's `pickletools` parses the bytes and documents the opcodes.
"""

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_OPCODES = 100_000
_MAX_DIMENSIONS = 8
_MAX_LENGTH = 2**40  # of an array; a product of longer integers would be slow
_MAX_KEY_LENGTH = 256
_TYPES = {"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"}
_NAMES = {
    "_codecs.encode": "encode",  # bytes, in protocols before 3
    "__builtin__.bytes": "no bytes",  # the same, empty
    "collections.OrderedDict": "dictionary",
    "numpy.dtype": "dtype",
    "numpy.ndarray": "ndarray",
    **{
        f"numpy.{core}.{name}": what
        for core in ("core", "_core")  # before NumPy 2, and since
        for name, what in {
            "multiarray._reconstruct": "empty array",
            "multiarray.scalar": "scalar",
            "numeric._frombuffer": "array",
        }.items()
    },
}


class RefusedPickle(ValueError):  # noqa: N818, as CorruptFile
    """The bytes are no pickle of plain data; the message names what else they hold."""


@dataclass(frozen=True)
class _Name:
    """One of the allowed globals, as a text that states its meaning."""

    meaning: str


@dataclass(eq=False)
class _EmptyArray:
    """An array whose state has not been read yet."""

    array: np.ndarray | None = None


_Mark = object()


def read_plain_pickle(data: bytes) -> Any:
    """The object in `data`: arrays, scalars, text, bytes, None, tuples, lists and dictionaries.

    Arrays cannot be written to. RefusedPickle for anything else, or if something is left over.
    """
    try:
        with warnings.catch_warnings():  # about odd escapes in damaged text
            warnings.simplefilter("ignore")
            return _run(data)
    except RefusedPickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # A malformed stream: an empty stack, an unknown memo entry, wrong arguments.
        raise RefusedPickle(f"malformed: {type(error).__name__}") from error


def _run(data: bytes) -> Any:
    machine = _Machine(spare_bytes=len(data))
    for number, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if number >= MAX_OPCODES:
            raise RefusedPickle(f"more than {MAX_OPCODES} opcodes")
        if opcode.name == "STOP":
            left = len(data) - (position or 0) - 1
            if left:
                raise RefusedPickle(f"{left} bytes left over")
            return machine.result()
        machine.step(opcode.name, argument)
    raise RefusedPickle("ends before its STOP")


class _Machine:
    """The stack and the memo."""

    def __init__(self, spare_bytes: int) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._spare_bytes = self._spare_array_bytes = spare_bytes

    def result(self) -> Any:
        """The only value on the stack."""
        value = self._pop()
        if self._stack:
            raise ValueError
        return value

    def step(self, name: str, argument: Any) -> None:
        """Carries out one opcode."""
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise RefusedPickle(f"opcode {name} is not needed for plain data")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _Mark:
            raise ValueError
        if isinstance(value, _EmptyArray):
            if value.array is None:
                raise ValueError
            return value.array
        return value

    def _pop_many(self, count: int | None = None) -> list[Any]:
        """The last `count` values, or those above the mark, which is removed too; in order."""
        values: list[Any] = []
        while len(values) != count:
            if count is None and self._stack[-1] is _Mark:
                self._stack.pop()
                break
            values.append(self._pop())
        return values[::-1]

    def push_tuple(self, count: int | None = None) -> None:
        self._stack.append(tuple(self._pop_many(count)))

    def extend(self, count: int | None = None) -> None:
        values = self._pop_many(count)
        if not isinstance(self._stack[-1], list):
            raise ValueError
        self._stack[-1].extend(values)

    def set_items(self, count: int | None = None) -> None:
        values = self._pop_many(count)
        for key in values[::2]:  # hashing deeply nested ones could end the process
            if not isinstance(key, str | int) or len(str(key)) > _MAX_KEY_LENGTH:
                raise RefusedPickle("a dictionary's key is neither short text nor a number")
        if not isinstance(self._stack[-1], dict):
            raise ValueError
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def push_container(self, kind: type[list] | type[dict]) -> None:
        self._stack.append(kind())

    def push_list(self) -> None:
        self._stack.append(self._pop_many())

    def push_dictionary(self) -> None:
        values = self._pop_many()
        self._stack += [{}, _Mark, *values]
        self.set_items()

    def get(self, key: str | int) -> None:
        self._stack.append(self._memo[int(key)])

    def put(self, key: str | int) -> None:
        self._memo[int(key)] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def push_name(self, full_name: str) -> None:
        if full_name not in _NAMES:
            raise RefusedPickle(f"it names {full_name[:100]!r}, which is no plain data")
        self._stack.append(_Name(_NAMES[full_name]))

    def push_name_from_stack(self) -> None:
        module, name = self._pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError
        self.push_name(f"{module}.{name}")

    def call(self) -> None:
        name, arguments = self._pop_many(2)
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise ValueError
        self._stack.append(self._made(name.meaning, *arguments))

    def _made(self, meaning: str, *arguments: Any) -> Any:
        match meaning, arguments:
            case "encode", (str(text), "latin1" | "latin-1"):
                self._spare_bytes -= len(text)  # no ordinary pickle encodes a text twice
                if self._spare_bytes < 0:
                    raise RefusedPickle("more bytes than its own length")
                return text.encode("latin-1")
            case "no bytes", ():
                return b""
            case "dictionary", ():
                return {}
            case "dtype", (str(code), *_):
                if code not in _TYPES:
                    raise RefusedPickle(f"arrays of type {code[:20]!r} are no plain numbers")
                return np.dtype(code)
            case "empty array", (_Name("ndarray"), *_):
                return _EmptyArray()
            case "array", (buffer, dtype, shape, order):
                return self._array(buffer, dtype, shape, order)
            case "scalar", (dtype, buffer):
                return self._array(buffer, dtype, (), "C")[()]
        raise ValueError

    def build(self) -> None:
        state = self._pop()
        match self._stack[-1], state:
            case _EmptyArray(None) as target, (1, shape, dtype, bool(by_columns), buffer):
                target.array = self._array(buffer, dtype, shape, "F" if by_columns else "C")
            case np.dtype(), (int(), "<" | "|", None, None, None, -1, -1, 0, *_):
                pass
            case _:
                raise ValueError

    def _array(self, buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """The array; ValueError unless `buffer` holds exactly its bytes."""
        if not isinstance(buffer, bytes | bytearray) or not isinstance(dtype, np.dtype):
            raise ValueError
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS or order not in ("C", "F"):
            raise ValueError
        if any(not isinstance(n, int) or not 0 <= n <= _MAX_LENGTH for n in shape):
            raise ValueError
        if math.prod(shape) * dtype.itemsize != len(buffer):
            raise RefusedPickle(f"an array {shape} of {dtype} with {len(buffer)} bytes")
        self._spare_array_bytes -= len(buffer)  # no ordinary pickle uses bytes for two arrays
        if self._spare_array_bytes < 0:
            raise RefusedPickle("arrays of more bytes than its own length")
        array = np.frombuffer(bytes(buffer), dtype) if buffer else np.zeros(0, dtype)
        return array.reshape(shape, order=order)


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _Mark, "EMPTY_TUPLE": ()}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_DICT": lambda machine, _: machine.push_container(dict),
    "EMPTY_LIST": lambda machine, _: machine.push_container(list),
    "TUPLE": lambda machine, _: machine.push_tuple(),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "LIST": lambda machine, _: machine.push_list(),
    "DICT": lambda machine, _: machine.push_dictionary(),
    "APPEND": lambda machine, _: machine.extend(1),
    "APPENDS": lambda machine, _: machine.extend(),
    "SETITEM": lambda machine, _: machine.set_items(2),
    "SETITEMS": lambda machine, _: machine.set_items(),
    "GLOBAL": lambda machine, names: machine.push_name(names.replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: machine.push_name_from_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.memoize(),
}
