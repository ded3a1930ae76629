# SPDX-License-Identifier: Apache-2.0
"""Planes of integers under contexts, written and read by one and the same description.

A `PlaneCoder` is either a writer, which records the values it is given, or a reader, which finds
them: what the layer model says once (layer_model.py) thus holds for both. A value is a token, coded
by rANS under its context's histogram, and from token 232 on extra plain bits.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaussian_compression.codec.errors import CorruptFile
from gaussian_compression.codec.histograms import Counts, Tables
from gaussian_compression.codec.rans import (
    PROBABILITY_BITS,
    DecodeTable,
    RansDecoder,
    RansEncoder,
    Tokens,
)

Values = npt.NDArray[np.int32]
Contexts = npt.NDArray[np.int32]

DIRECT_TOKENS = 232  # below: the value itself; beyond: its number of extra bits, 0 to 23
MAX_VALUE = DIRECT_TOKENS + 2**24 - 2

_EXTRA_BITS = np.r_[np.zeros(DIRECT_TOKENS, np.int32), np.arange(24, dtype=np.int32)]
TOKEN_BASE = np.r_[
    np.arange(DIRECT_TOKENS), DIRECT_TOKENS + 2 ** np.arange(24, dtype=np.int64) - 1
].astype(np.int32)
"""The least value of each token."""
_SIZE = np.minimum(TOKEN_BASE, 2047)  # shifted by MAX_SHIFT + 4 it still fits 32 bits


MAX_SH_MAGNITUDE = 2**15 - 1

# The context of an SH magnitude is kept as one number for each row, its key: the energy of the
# magnitudes before (below 2^9), the neighbours' class, and whether the row's last group is coded.
EnergyKeys = npt.NDArray[np.int16]
_ENERGY_BITS = 9
_ENERGY_EDGES = (1, 4, 8, 14, 22, 32, 46, 66, 95, 140, 210)
_NEIGHBOUR_EDGES = (2, 6)
_NEIGHBOUR_CLASSES = len(_NEIGHBOUR_EDGES) + 1
ENERGY_LAST_GROUP = _NEIGHBOUR_CLASSES << _ENERGY_BITS
_ENERGY_LEVELS = len(_ENERGY_EDGES) + 1
_ENERGY_CONTEXTS = 2 * _NEIGHBOUR_CLASSES * _ENERGY_LEVELS
_CONTEXT_OF_KEY = (
    np.arange(2 * _NEIGHBOUR_CLASSES, dtype=np.int32)[:, None] * _ENERGY_LEVELS
    + np.searchsorted(_ENERGY_EDGES, np.arange(1 << _ENERGY_BITS), side="right").astype(np.int32)
).reshape(-1)


def first_energy_keys(neighbours: Values) -> EnergyKeys:
    """The keys (n,) before the first magnitude, from the neighbours' used groups."""
    classes = np.searchsorted(_NEIGHBOUR_EDGES, neighbours, side="right")
    return (classes << _ENERGY_BITS).astype(np.int16)


def _add_energy(keys: EnergyKeys, tokens: Tokens) -> None:
    """energy += 4 min(magnitude, 15) - (energy >> 3), which stays below 2^9."""
    decay = keys & np.int16((1 << _ENERGY_BITS) - 1)
    decay >>= 3
    keys -= decay
    keys += (np.minimum(tokens, np.uint8(15)) << np.uint8(2)).astype(np.int16)


@dataclass(frozen=True)
class Neighbour:
    """How a value's predecessors in its lane become a part of its context.

    Each lane keeps an average a = 16 x start at first; after a token with the least value m (at
    most 2047), shifted left by the row's `shift`, a += (16 m - a) >> 2. The bin is bins[a >> 4].
    """

    bins: npt.NDArray[np.uint8]
    count: int
    start: int


class PlaneCoder(ABC):
    """What the layer model asks of a writer or a reader. Values are None where it reads."""

    @abstractmethod
    def plane(self, name: str, size: int, contexts: Contexts, values: Values | None) -> Values:
        """Values (n,) of 0 to MAX_VALUE, each under its context in 0 .. size - 1."""

    @abstractmethod
    def neighbour_plane(
        self,
        name: str,
        size: int,
        contexts: Contexts,
        shifts: Values,
        neighbour: Neighbour,
        values: Values | None,
    ) -> Values:
        """As `plane`, with the bin of the predecessors as a further part of the context."""

    @abstractmethod
    def signed_plane(self, name: str, keys: EnergyKeys, values: npt.NDArray[np.int16]) -> None:
        """Magnitudes, each under its key's context, then signs; a reader fills `values` (n,).

        The magnitudes' energy is added to `keys`.
        """

    @abstractmethod
    def bits(self, widths: Values, values: Values | None) -> Values:
        """Plain integers (n,), values[i] of widths[i] bits (at most 24)."""


def tokens_of(values: Values) -> Tokens:
    """The token of each value."""
    if len(values) and (values.min() < 0 or values.max() > MAX_VALUE):
        raise ValueError(f"values from 0 to {MAX_VALUE} can be stored, got {values.min()} to "
                         f"{values.max()}")  # fmt: skip
    tokens = np.minimum(values, DIRECT_TOKENS).astype(np.uint8)
    large = np.flatnonzero(tokens == DIRECT_TOKENS)
    beyond = values[large].astype(np.float64) - (DIRECT_TOKENS - 1)  # exact, and so its exponent
    tokens[large] = DIRECT_TOKENS - 1 + np.frexp(beyond)[1]
    return tokens


def neighbour_bins(
    tokens: Tokens, shifts: Values, neighbour: Neighbour, lanes: int
) -> npt.NDArray[np.uint8]:
    """The bin (n,) of every value's predecessors."""
    bins = np.empty(len(tokens), np.uint8)
    average = np.full(lanes, 16 * neighbour.start, np.int32)
    sizes = _SIZE.take(tokens) << (shifts + 4)
    for low in range(0, len(tokens), lanes):
        seen = sizes[low : low + lanes]
        part = average[: len(seen)]
        bins[low : low + lanes] = neighbour.bins.take(part >> 4, mode="clip")
        part += (seen - part) >> 2
    return bins


class PlaneWriter(PlaneCoder):
    """Records one layer; `counts` gathers its statistics under context numbers it hands out."""

    def __init__(self, lanes: int, families: "Families") -> None:
        self._lanes, self._families = lanes, families
        self._blocks: list[tuple[int, npt.NDArray[np.uint16], Tokens]] = []
        self._bits: list[bytes] = []

    def plane(self, name: str, size: int, contexts: Contexts, values: Values | None) -> Values:
        """See PlaneCoder."""
        assert values is not None
        tokens = tokens_of(values)
        self._record(name, size, contexts, tokens)
        self._extra_bits(tokens, values)
        return values

    def neighbour_plane(
        self,
        name: str,
        size: int,
        contexts: Contexts,
        shifts: Values,
        neighbour: Neighbour,
        values: Values | None,
    ) -> Values:
        """See PlaneCoder."""
        assert values is not None
        tokens = tokens_of(values)
        bins = neighbour_bins(tokens, shifts, neighbour, self._lanes)
        self._record(name, size * neighbour.count, contexts * neighbour.count + bins, tokens)
        self._extra_bits(tokens, values)
        return values

    def signed_plane(self, name: str, keys: EnergyKeys, values: npt.NDArray[np.int16]) -> None:
        """See PlaneCoder."""
        magnitudes = np.abs(values.astype(np.int32))
        tokens = tokens_of(magnitudes)
        self._record(name, _ENERGY_CONTEXTS, _CONTEXT_OF_KEY.take(keys), tokens)
        self._extra_bits(tokens, magnitudes)
        self._bits.append(np.packbits(values[tokens != 0] < 0).tobytes())
        _add_energy(keys, tokens)

    def bits(self, widths: Values, values: Values | None) -> Values:
        """See PlaneCoder."""
        assert values is not None
        for bit in range(int(widths.max()) - 1 if len(widths) else -1, -1, -1):
            wide = widths > bit
            self._bits.append(np.packbits(values[wide] >> bit & 1).tobytes())
        return values

    def _extra_bits(self, tokens: Tokens, values: Values) -> None:
        large = np.flatnonzero(tokens > DIRECT_TOKENS)
        self.bits(_EXTRA_BITS[tokens[large]], values[large] - TOKEN_BASE[tokens[large]])

    def _record(self, name: str, size: int, contexts: Contexts, tokens: Tokens) -> None:
        first = self._families.count(name, size, contexts, tokens)
        self._blocks.append((first, contexts.astype(np.uint16), tokens))

    def rans_bytes(self, tables: Tables) -> bytes:
        """The layer's rANS stream."""
        encoder = RansEncoder(self._lanes, tables.frequencies)
        for first, contexts, tokens in reversed(self._blocks):
            encoder.add_before(tables.context_map[first:].take(contexts), tokens)
        return encoder.finish()

    def bit_bytes(self) -> bytes:
        """The layer's plain bits."""
        return b"".join(self._bits)


class Families:
    """The contexts of all planes, numbered in the order in which planes are first met."""

    def __init__(self) -> None:
        self._bases: dict[str, int] = {}
        self._counts: list[npt.NDArray[np.int64]] = []
        self._size = 0

    def count(self, name: str, size: int, contexts: Contexts, tokens: Tokens) -> int:
        """Counts a block's tokens; the number of the plane's first context."""
        base = self.base(name, size)
        index = contexts.astype(np.intp) * 256 + tokens
        self._counts[list(self._bases).index(name)] += np.bincount(
            index, minlength=size * 256
        ).reshape(size, 256)
        return base

    def base(self, name: str, size: int) -> int:
        """The number of the plane's first context."""
        if name not in self._bases:
            self._bases[name] = self._size
            self._counts.append(np.zeros((size, 256), np.int64))
            self._size += size
        return self._bases[name]

    def counts(self) -> list[tuple[str, Counts]]:
        """Family and token counts of each plane, in order; the family is the name's letters."""
        return [
            (name.rstrip("0123456789"), counts.astype(np.float64))
            for name, counts in zip(self._bases, self._counts, strict=True)
        ]


class PlaneReader(PlaneCoder):
    """Reads one layer back, from its two streams: rANS and plain bits."""

    def __init__(
        self,
        streams: tuple[bytes, bytes],
        lanes: int,
        knowledge: tuple["ContextBases", DecodeTable],
        layer: int,
    ) -> None:
        rans, bits = streams
        self._bases, table = knowledge
        self._lanes = lanes
        self._decoder = RansDecoder(rans, lanes, table, f"rans{layer}")
        self._bits = np.frombuffer(bits, np.uint8)
        self._bit_section, self._next_byte = f"bits{layer}", 0

    def plane(self, name: str, size: int, contexts: Contexts, values: Values | None) -> Values:
        """See PlaneCoder."""
        tokens = self._decoder.block(self._bases.histograms(name, size).take(contexts))
        return self._values(tokens)

    def neighbour_plane(
        self,
        name: str,
        size: int,
        contexts: Contexts,
        shifts: Values,
        neighbour: Neighbour,
        values: Values | None,
    ) -> Values:
        """See PlaneCoder."""
        histograms = self._bases.histograms(name, size * neighbour.count)
        tokens = np.empty(len(contexts), np.uint8)
        average = np.full(self._lanes, 16 * neighbour.start, np.int32)
        first, shift = contexts * np.int32(neighbour.count), shifts + 4
        for low in range(0, len(contexts), self._lanes):
            context = first[low : low + self._lanes]
            part = average[: len(context)]
            context += neighbour.bins.take(part >> 4, mode="clip")
            found = self._decoder.step(histograms.take(context))
            tokens[low : low + self._lanes] = found
            part += ((_SIZE.take(found) << shift[low : low + self._lanes]) - part) >> 2
        return self._values(tokens)

    def bits(self, widths: Values, values: Values | None) -> Values:
        """See PlaneCoder."""
        found = np.zeros(len(widths), np.int32)
        for bit in range(int(widths.max()) - 1 if len(widths) else -1, -1, -1):
            wide = np.flatnonzero(widths > bit)
            found[wide] |= self._plain(len(wide)).astype(np.int32) << bit
        return found

    def finish(self) -> None:
        """CorruptFile unless both streams were read to their ends."""
        self._decoder.finish()
        if self._next_byte != len(self._bits):
            raise CorruptFile(self._bit_section, "bytes left over")

    def signed_plane(self, name: str, keys: EnergyKeys, values: npt.NDArray[np.int16]) -> None:
        """See PlaneCoder."""
        histogram_of_key = self._bases.histograms(name, _ENERGY_CONTEXTS).take(_CONTEXT_OF_KEY)
        tokens = np.empty(len(keys), np.uint8)
        for low in range(0, len(keys), self._lanes):
            part = keys[low : low + self._lanes]
            found = self._decoder.step(histogram_of_key.take(part))
            tokens[low : low + self._lanes] = found
            _add_energy(part, found)
        values[:] = tokens
        if tokens.max(initial=0) > DIRECT_TOKENS:
            magnitudes = self._values(tokens)
            if magnitudes.max() > MAX_SH_MAGNITUDE:
                raise CorruptFile("sh", f"a magnitude above {MAX_SH_MAGNITUDE}")
            values[:] = magnitudes
        (rows,) = (tokens != 0).nonzero()
        negative = rows[self._plain(len(rows)).view(np.bool_)]
        values[negative] = -values.take(negative)

    def _plain(self, count: int) -> npt.NDArray[np.uint8]:
        """The next list of `count` plain bits."""
        end = self._next_byte + (count + 7) // 8
        if end > len(self._bits):
            raise CorruptFile(self._bit_section, "ends before its last bit")
        found = np.unpackbits(self._bits[self._next_byte : end], count=count)
        self._next_byte = end
        return found

    def _values(self, tokens: Tokens) -> Values:
        if tokens.max(initial=0) <= DIRECT_TOKENS:
            return tokens.astype(np.int32)
        values = TOKEN_BASE.take(tokens)
        large = np.flatnonzero(tokens > DIRECT_TOKENS)
        values[large] += self.bits(_EXTRA_BITS[tokens[large]], None)
        return values


class ContextBases:
    """The reader's side of `Families`: each plane's part of the context map."""

    def __init__(self, tables: Tables, section: str) -> None:
        self._map = tables.context_map.astype(np.int32) << PROBABILITY_BITS
        self._section = section
        self._parts: dict[str, npt.NDArray[np.int32]] = {}
        self._next = 0

    def histograms(self, name: str, size: int) -> npt.NDArray[np.int32]:
        """The histogram << 12 of each of the plane's `size` contexts."""
        if name not in self._parts:
            end = self._next + size
            if end > len(self._map):
                raise CorruptFile(self._section, "too few contexts")
            self._parts[name] = self._map[self._next : end]
            self._next = end
        return self._parts[name]

    def finish(self) -> None:
        """CorruptFile unless every context was used."""
        if self._next != len(self._map):
            raise CorruptFile(self._section, "too many contexts")
