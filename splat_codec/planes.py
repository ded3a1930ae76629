# SPDX-License-Identifier: Apache-2.0
"""Planes of integers coded under contexts; one description serves for writing and reading.

A `PlaneCoder` is either a writer, which records the values it is given, or a reader, which decodes
them; layer_model.py describes the planes for both. A value is stored as a token, which rANS codes
under its context's histogram; tokens from 232 on are followed by extra plain bits.
"""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from splat_codec import kernels
from splat_codec.contexts import (
    CONTEXT_OF_KEY,
    DIRECT_TOKENS,
    ENERGY_CONTEXTS,
    EXTRA_BITS,
    TOKEN_BASE,
    Contexts,
    EnergyKeys,
    Neighbour,
    Tokens,
    Values,
    tokens_of,
)
from splat_codec.errors import CorruptFile
from splat_codec.histograms import Counts, Tables
from splat_codec.rans import DecodeTable, Histograms

MAX_SH_MAGNITUDE = 2**15 - 1


class PlaneCoder(ABC):
    """The operations of the layer model. A reader gets None for `values`."""

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


class PlaneWriter(PlaneCoder):
    """Records one layer; `families` numbers its contexts and counts its tokens."""

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
        bins = kernels.best.neighbour_bins(tokens, shifts, neighbour, self._lanes)
        self._record(name, size * neighbour.count, contexts * neighbour.count + bins, tokens)
        self._extra_bits(tokens, values)
        return values

    def signed_plane(self, name: str, keys: EnergyKeys, values: npt.NDArray[np.int16]) -> None:
        """See PlaneCoder."""
        magnitudes = np.abs(values)
        tokens = tokens_of(magnitudes)
        self._record(name, ENERGY_CONTEXTS, CONTEXT_OF_KEY.take(keys), tokens)
        self._extra_bits(tokens, magnitudes)
        self._bits.append(np.packbits(values[tokens != 0] < 0).tobytes())
        kernels.best.add_energy(keys, tokens)

    def bits(self, widths: Values, values: Values | None) -> Values:
        """See PlaneCoder."""
        assert values is not None
        for bit in range(int(widths.max(initial=0)) - 1, -1, -1):
            self._bits.append(kernels.best.give_bits(widths, bit, values).tobytes())
        return values

    def _extra_bits(self, tokens: Tokens, values: Values) -> None:
        large = np.flatnonzero(tokens > DIRECT_TOKENS)
        self.bits(EXTRA_BITS[tokens[large]], values[large] - TOKEN_BASE[tokens[large]])

    def _record(self, name: str, size: int, contexts: Contexts, tokens: Tokens) -> None:
        first = self._families.count(name, size, contexts, tokens)
        self._blocks.append((first, contexts.astype(np.uint16), tokens))

    def rans_bytes(self, tables: Tables) -> bytes:
        """The layer's rANS stream."""
        encoder = kernels.best.encoder(self._lanes, tables.frequencies)
        for first, contexts, tokens in reversed(self._blocks):
            encoder.plane_before(tables.context_map[first:], contexts, tokens)
        return encoder.finish()

    def bit_bytes(self) -> bytes:
        """The layer's plain bits."""
        return b"".join(self._bits)


class Families:
    """The contexts of all planes, numbered in the order in which the planes first occur."""

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
            (name.rstrip("0123456789"), counts)
            for name, counts in zip(self._bases, self._counts, strict=True)
        ]


class PlaneReader(PlaneCoder):
    """Reads one layer back, from its two streams: rANS and plain bits."""

    def __init__(
        self,
        streams: tuple[bytes, bytes],
        lanes: int,
        static: tuple["ContextBases", DecodeTable],
        layer: int,
    ) -> None:
        rans, bits = streams
        self._bases, table = static
        self._decoder = kernels.best.decoder(rans, lanes, table, f"rans{layer}")
        self._bits = np.frombuffer(bits, np.uint8)
        self._bit_section, self._next_byte = f"bits{layer}", 0

    def plane(self, name: str, size: int, contexts: Contexts, values: Values | None) -> Values:
        """See PlaneCoder."""
        return self._values(self._decoder.plane(self._bases.histograms(name, size), contexts))

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
        tokens = self._decoder.neighbour_plane(histograms, contexts, shifts, neighbour)
        return self._values(tokens)

    def signed_plane(self, name: str, keys: EnergyKeys, values: npt.NDArray[np.int16]) -> None:
        """See PlaneCoder."""
        histograms = self._bases.histograms(name, ENERGY_CONTEXTS)
        tokens = self._decoder.energy_plane(histograms.take(CONTEXT_OF_KEY), keys)
        values[:] = tokens
        if tokens.max(initial=0) > DIRECT_TOKENS:
            magnitudes = self._values(tokens)
            if magnitudes.max() > MAX_SH_MAGNITUDE:
                raise CorruptFile("sh", f"a magnitude above {MAX_SH_MAGNITUDE}")
            values[:] = magnitudes
        kernels.best.apply_signs(values, self._plain(int(np.count_nonzero(tokens))))

    def bits(self, widths: Values, values: Values | None) -> Values:
        """See PlaneCoder."""
        found = np.zeros(len(widths), np.int32)
        for bit in range(int(widths.max(initial=0)) - 1, -1, -1):
            count = int(np.count_nonzero(widths > bit))
            kernels.best.take_bits(widths, bit, self._plain(count), found)
        return found

    def finish(self) -> None:
        """CorruptFile unless both streams were read to their ends."""
        self._decoder.finish()
        if self._next_byte != len(self._bits):
            raise CorruptFile(self._bit_section, "bytes left over")

    def _plain(self, count: int) -> npt.NDArray[np.uint8]:
        """The bytes of the next list of `count` plain bits."""
        end = self._next_byte + (count + 7) // 8
        if end > len(self._bits):
            raise CorruptFile(self._bit_section, "ends before its last bit")
        found = self._bits[self._next_byte : end]
        self._next_byte = end
        return found

    def _values(self, tokens: Tokens) -> Values:
        if tokens.max(initial=0) <= DIRECT_TOKENS:
            return tokens.astype(np.int32)
        values = TOKEN_BASE.take(tokens)
        large = np.flatnonzero(tokens > DIRECT_TOKENS)
        values[large] += self.bits(EXTRA_BITS[tokens[large]], None)
        return values


class ContextBases:
    """For the reader, as `Families` for the writer: each plane's part of the context map."""

    def __init__(self, tables: Tables, section: str) -> None:
        self._map = tables.context_map
        self._section = section
        self._parts: dict[str, Histograms] = {}
        self._next = 0

    def histograms(self, name: str, size: int) -> Histograms:
        """The histogram of each of the plane's `size` contexts."""
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
