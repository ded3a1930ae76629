# SPDX-License-Identifier: Apache-2.0
"""Planes of small integers under contexts, coded by interleaved rANS; rows transposed to planes.

The compiled part of the .f3dgs codec. The codec has the same functions in NumPy (its rans.py,
sh_rows.py and plain_bits.py), which give the same integers. Arrays are NumPy's, contiguous, of the
types named. Arguments that would make the compiled code access memory outside its arrays raise
ValueError or TypeError before it runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from ._native import load_library

__all__ = [
    "TokenDecoder",
    "TokenEncoder",
    "add_energy",
    "apply_signs",
    "give_bits",
    "instruction_set",
    "neighbour_bins",
    "planes_to_rows",
    "rows_to_planes",
    "take_bits",
]

PROBABILITY_BITS = 12
MAX_SHIFT = 15
MAX_KEY_ENERGY = 1 << 9
MAX_CHANNELS = 64
MAX_AVERAGE = 1 << 30
VALUE_BITS = 31

_library, instruction_set = load_library()
_POINTER, _COUNT, _SMALL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("states", _POINTER),
        ("words", _POINTER),
        ("table", _POINTER),
        ("lanes", _COUNT),
        ("word_count", _COUNT),
        ("next", _COUNT),
    ]


def _function(name: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


_decode_plane = _function("decode_plane", ctypes.c_int, *[_POINTER, _COUNT, *[_POINTER] * 3])
_decode_neighbour_plane = _function(
    "decode_neighbour_plane",
    ctypes.c_int,
    *[_POINTER, _COUNT, *[_POINTER] * 4, _SMALL, _SMALL, _POINTER, _POINTER],
)
_decode_energy_plane = _function(
    "decode_energy_plane", ctypes.c_int, *[_POINTER, _COUNT, *[_POINTER] * 3]
)
_encode_plane = _function("encode_plane", _COUNT, *[_POINTER, _COUNT, _COUNT, *[_POINTER] * 5])
_neighbour_bins = _function(
    "neighbour_bins", None, *[_COUNT, _COUNT, *[_POINTER] * 3, _SMALL, _POINTER, _POINTER]
)
_add_energy = _function("add_energy", None, _COUNT, _POINTER, _POINTER)
_rows_to_planes = _function("rows_to_planes", None, *[_COUNT, _COUNT, *[_POINTER] * 3])
_planes_to_rows = _function(
    "planes_to_rows", None, *[_COUNT, _COUNT, _POINTER, _COUNT, _POINTER, _POINTER]
)
_apply_signs = _function("apply_signs", None, _COUNT, _POINTER, _POINTER)
_take_bits = _function("take_bits", None, _COUNT, _POINTER, _SMALL, _POINTER, _POINTER)
_give_bits = _function("give_bits", _COUNT, _COUNT, _POINTER, _SMALL, _POINTER, _POINTER)


class TokenDecoder:
    """Reads the planes of one stream in order, one state a lane.

    `states` (lanes,) uint32 is changed in place; `words` (W,) uint16; `table` (histograms x 2^12,)
    uint32: frequency - 1 << 20 | low bits - start << 8 | token. The methods return False where
    words are missing: then the decoder must not be used again.
    """

    def __init__(self, states: np.ndarray, words: np.ndarray, table: np.ndarray) -> None:
        _check("states", states, np.uint32, len(states), written=True)
        _check("words", words, np.uint16, len(words))
        _check("table", table, np.uint32, len(table))
        if not len(states):
            raise ValueError("states: at least one lane expected.")
        self._arrays = states, words, table
        self._histograms = len(table) >> PROBABILITY_BITS
        self._decoder = _Decoder(
            states.ctypes.data, words.ctypes.data, table.ctypes.data, len(states), len(words), 0
        )

    @property
    def words_read(self) -> int:
        """Number of words read so far."""
        return int(self._decoder.next)

    def plane(self, histograms: np.ndarray, contexts: np.ndarray, tokens: np.ndarray) -> bool:
        """Fills tokens (n,) uint8, each under histograms[contexts (n,) int32], uint8."""
        count = len(tokens)
        _check("contexts", contexts, np.int32, count, len(histograms))
        rows = self._rows(histograms, tokens)
        return bool(_call(_decode_plane, self._decoder, count, rows, contexts, tokens))

    def neighbour_plane(
        self,
        histograms: np.ndarray,
        contexts: np.ndarray,
        shifts: np.ndarray,
        bins: np.ndarray,
        bin_count: int,
        averages: np.ndarray,
        tokens: np.ndarray,
    ) -> bool:
        """As `plane`, under contexts x bin_count + bins[average >> 4], bins uint8.

        `averages` (lanes,) int32, not negative, are updated with the lanes' tokens, shifted left
        by `shifts` (n,) int32.
        """
        count = len(tokens)
        _check("contexts", contexts, np.int32, count, len(histograms) // bin_count)
        _check("shifts", shifts, np.int32, count, MAX_SHIFT + 1)
        _check("bins", bins, np.uint8, len(bins), bin_count)
        lanes = int(self._decoder.lanes)
        _check("averages", averages, np.int32, lanes, MAX_AVERAGE, written=True)
        if not len(bins):
            raise ValueError("bins: at least one expected.")
        inputs = self._rows(histograms, tokens), contexts, shifts, bins.astype(np.int32)
        sizes = len(bins) - 1, bin_count
        return bool(
            _call(_decode_neighbour_plane, self._decoder, count, *inputs, *sizes, averages, tokens)
        )

    def energy_plane(
        self, histogram_of_key: np.ndarray, keys: np.ndarray, tokens: np.ndarray
    ) -> bool:
        """As `plane`, under histogram_of_key[keys (n,) int16], uint8; adds the energy to keys."""
        count, limit = len(tokens), len(histogram_of_key)
        if limit % MAX_KEY_ENERGY:  # else an energy could be outside the table
            raise ValueError(f"keys: a multiple of {MAX_KEY_ENERGY} expected, not {limit}.")
        _check("keys", keys, np.int16, count, limit, written=True)
        rows = self._rows(histogram_of_key, tokens)
        return bool(_call(_decode_energy_plane, self._decoder, count, rows, keys, tokens))

    def _rows(self, histograms: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The place in the table where each context's histogram begins."""
        _check("tokens", tokens, np.uint8, len(tokens), written=True)
        _check("histograms", histograms, np.uint8, len(histograms), self._histograms)
        return histograms.astype(np.uint32) << np.uint32(PROBABILITY_BITS)


class TokenEncoder:
    """Codes planes, the last in decoding order first.

    `states` (lanes,) uint32 is changed in place; `symbols` (histograms x 256,) uint32: start << 16
    | frequency.
    """

    def __init__(self, states: np.ndarray, symbols: np.ndarray) -> None:
        _check("states", states, np.uint32, len(states), written=True)
        _check("symbols", symbols, np.uint32, len(symbols))
        if not len(states):
            raise ValueError("states: at least one lane expected.")
        if len(symbols) and int((symbols & 0xFFFF).max()) > 1 << PROBABILITY_BITS:
            raise ValueError("symbols: a frequency above 2^12.")
        # A token that never occurs has frequency 0; dividing by it must not end the process.
        self._states, self._symbols = states, np.where(symbols & 0xFFFF, symbols, 1)
        self._symbols = np.ascontiguousarray(self._symbols, np.uint32)

    def plane_before(
        self, histograms: np.ndarray, contexts: np.ndarray, tokens: np.ndarray
    ) -> np.ndarray:
        """The words (w,) uint16 of tokens (n,) uint8 under histograms[contexts (n,) uint16]."""
        count = len(tokens)
        _check("contexts", contexts, np.uint16, count, len(histograms))
        _check("histograms", histograms, np.uint8, len(histograms), len(self._symbols) >> 8)
        _check("tokens", tokens, np.uint8, count)
        words = np.empty(count + 1, np.uint16)
        inputs = self._symbols, histograms, contexts, tokens
        found = _call(_encode_plane, self._states, len(self._states), count, *inputs, words)
        return words[count + 1 - found :].copy()


def neighbour_bins(
    tokens: np.ndarray, shifts: np.ndarray, bins: np.ndarray, averages: np.ndarray
) -> np.ndarray:
    """The bin (n,) uint8 of each token's predecessors in its lane; updates `averages`."""
    count = len(tokens)
    _check("tokens", tokens, np.uint8, count)
    _check("shifts", shifts, np.int32, count, MAX_SHIFT + 1)
    _check("bins", bins, np.uint8, len(bins))
    _check("averages", averages, np.int32, len(averages), MAX_AVERAGE, written=True)
    if not len(bins) or not len(averages):
        raise ValueError("bins, averages: at least one of each expected.")
    found = np.empty(count, np.uint8)
    inputs = tokens, shifts, bins.astype(np.int32), len(bins) - 1
    _call(_neighbour_bins, count, len(averages), *inputs, averages, found)
    return found


def add_energy(keys: np.ndarray, tokens: np.ndarray) -> None:
    """Adds the energy of tokens (n,) uint8 to keys (n,) int16."""
    _check("keys", keys, np.int16, len(tokens), written=True)
    _check("tokens", tokens, np.uint8, len(tokens))
    _call(_add_energy, len(tokens), tokens, keys)


def rows_to_planes(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Planes (C, n) int16 of the rows order (n,) int64 of rows (N, C) int16."""
    _check_rows(rows, order)
    planes = np.empty((rows.shape[1], len(order)), np.int16)
    _call(_rows_to_planes, len(order), rows.shape[1], rows, order, planes)
    return planes


def planes_to_rows(planes: np.ndarray, order: np.ndarray, rows: np.ndarray) -> None:
    """Row order[i] of rows (N, C) becomes column i of planes (C, n), all int16.

    `planes` may be some columns of a larger array: only its rows have to be contiguous.
    """
    _check_rows(rows, order, written=True)
    if planes.dtype != np.int16:
        raise TypeError(f"planes: int16 expected, not {planes.dtype}.")
    if planes.shape != (rows.shape[1], len(order)):
        raise ValueError(f"planes: {(rows.shape[1], len(order))} expected, not {planes.shape}.")
    stride, rest = divmod(planes.strides[0], planes.itemsize)
    if (len(order) > 1 and planes.strides[1] != planes.itemsize) or rest:
        raise ValueError("planes: contiguous rows expected.")
    _call(_planes_to_rows, len(order), rows.shape[1], planes, stride, order, rows)


def apply_signs(values: np.ndarray, bits: np.ndarray) -> None:
    """Negates the values (n,) int16 whose bit is 1; there is a bit for each value other than 0.

    Each of `bits` (b,) uint8 holds eight bits, the highest first.
    """
    _check("values", values, np.int16, len(values), written=True)
    signs = _unpacked(bits, int(np.count_nonzero(values)))
    _call(_apply_signs, len(values), signs, values)


def take_bits(widths: np.ndarray, bit: int, bits: np.ndarray, values: np.ndarray) -> None:
    """Sets bit `bit` of values (n,) int32 whose widths (n,) int32 are greater.

    `bits` are packed as in apply_signs.
    """
    _check_widths(widths, bit, values)
    _check("values", values, np.int32, len(values), written=True)
    ones = _unpacked(bits, int(np.count_nonzero(widths > bit)))
    _call(_take_bits, len(values), widths, bit, ones, values)


def give_bits(widths: np.ndarray, bit: int, values: np.ndarray) -> np.ndarray:
    """Bit `bit` of the values whose width is greater, packed: the `bits` of take_bits."""
    _check_widths(widths, bit, values)
    _check("values", values, np.int32, len(values))
    ones = np.empty(len(values) + 1, np.uint8)
    found = _call(_give_bits, len(values), widths, bit, values, ones)
    return np.packbits(ones[:found])


def _check_widths(widths: np.ndarray, bit: int, values: np.ndarray) -> None:
    _check("widths", widths, np.int32, len(values))
    if not 0 <= bit < VALUE_BITS:
        raise ValueError(f"bit: 0 to {VALUE_BITS - 1} expected, not {bit}.")


def _unpacked(bits: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bits, one to a byte, and one more byte."""
    _check("bits", bits, np.uint8, len(bits))
    if 8 * len(bits) < count:
        raise ValueError(f"bits: {count} expected, not {8 * len(bits)}.")
    ones = np.zeros(count + 1, np.uint8)
    ones[:count] = np.unpackbits(bits, count=count)
    return ones


def _check(
    name: str,
    array: np.ndarray,
    kind: type[np.generic],
    size: int,
    limit: int | None = None,
    *,
    written: bool = False,
) -> None:
    """Raises an error unless `array` is `size` contiguous numbers of a type, 0 to limit - 1."""
    if array.dtype != kind:
        raise TypeError(f"{name}: {np.dtype(kind)} expected, not {array.dtype}.")
    if array.size != size or not array.flags.c_contiguous:
        raise ValueError(f"{name}: {size} contiguous numbers expected, not {array.shape}.")
    if written and not array.flags.writeable:
        raise ValueError(f"{name}: a writable array expected.")
    if limit is None or not size:
        return
    if int(array.max()) >= limit or int(array.min()) < 0:
        raise ValueError(f"{name}: 0 to {limit - 1} expected, not {array.min()} to {array.max()}.")


def _check_rows(rows: np.ndarray, order: np.ndarray, *, written: bool = False) -> None:
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MAX_CHANNELS:
        raise ValueError(f"rows: (N, 1 to {MAX_CHANNELS}) expected, not {rows.shape}.")
    _check("rows", rows, np.int16, rows.size, written=written)
    _check("order", order, np.int64, len(order), len(rows))


def _call(function: Callable[..., int], *arguments: np.ndarray | ctypes.Structure | int) -> int:
    """Calls with the arrays' addresses; the arrays exist during the call."""
    plain = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            plain.append(argument.ctypes.data)
        elif isinstance(argument, ctypes.Structure):
            plain.append(ctypes.addressof(argument))
        else:
            plain.append(argument)
    return function(*plain)
