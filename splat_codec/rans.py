# SPDX-License-Identifier: Apache-2.0
"""Many interleaved rANS coders in step, one per lane, as NumPy vector operations.

Range asymmetric numeral systems (Duda 2013), 32-bit states renormalised by 16-bit words into one
shared stream, as in Giesen's interleaved coders (2014). A step codes one token in each lane, so
that the cost of a NumPy call is spread over thousands of tokens. Integers only. `native.py` has the
same coders compiled.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.contexts import (
    ENERGY_BITS,
    TOKEN_SIZE,
    Contexts,
    EnergyKeys,
    Neighbour,
    Tokens,
    Values,
)
from splat_codec.errors import CorruptFile

PROBABILITY_BITS = 12
PROBABILITY_ONE = 1 << PROBABILITY_BITS
LOWEST_STATE = 1 << 16  # states lie in [2^16, 2^32) between steps
MAX_LANES = 1 << 14
ENOUGH_LANES = 1 << 13
# Where there are fewer than ENOUGH_LANES: a step takes as long for few lanes as for many.
MAX_ROWS_PER_LANE = 1 << 10

Frequencies = npt.NDArray[np.uint32]
Histograms = npt.NDArray[np.uint8]
"""The histogram of each of a plane's contexts."""
Words = npt.NDArray[np.uint16]


def lanes_for(count: int) -> int:
    """The writer's number of lanes for `count` Gaussians: a power of two, 1 to 8192.

    A lane costs four bytes: at 128 Gaussians each, 0.03 bytes per Gaussian. Measured per token:
    9 ns with 4096 lanes, 17 ns with 1024.
    """
    return 1 << max(0, min(ENOUGH_LANES.bit_length(), (count // 96).bit_length()) - 1)


@dataclass(frozen=True)
class DecodeTable:
    """What a state's low bits mean, for every histogram: index = histogram x 2^12 + low bits."""

    entries: npt.NDArray[np.uint32]
    """Frequency of the token less 1 << 20 | low bits - start of the token << 8 | token."""

    @staticmethod
    def of(frequencies: Frequencies) -> "DecodeTable":
        """The table of histograms (H, 256), each with sum 2^12."""
        flat = frequencies.ravel()
        token = np.repeat(np.tile(np.arange(256, dtype=np.uint32), len(frequencies)), flat)
        start = np.cumsum(flat, dtype=np.uint32) - flat
        offset = np.arange(len(token), dtype=np.uint32) - np.repeat(start, flat)
        less_one = np.repeat(flat.astype(np.uint32) - np.uint32(1), flat)
        return DecodeTable((less_one << np.uint32(20)) | (offset << np.uint32(8)) | token)


class TokenDecoder(ABC):
    """Reads the planes of one stream in order. CorruptFile names `section`."""

    def __init__(self, stream: bytes, lanes: int, table: DecodeTable, section: str) -> None:
        if len(stream) < 4 * lanes or len(stream) % 2:
            raise CorruptFile(section, f"{len(stream)} bytes cannot hold {lanes} lanes and words")
        self._states = np.frombuffer(stream, "<u4", lanes).astype(np.uint32)
        if (self._states < LOWEST_STATE).any():
            raise CorruptFile(section, "a coder's first state is out of range")
        self._words: Words = np.frombuffer(stream, "<u2", offset=4 * lanes).astype(np.uint16)
        self._lanes, self._table, self._section = lanes, table, section

    @abstractmethod
    def plane(self, histograms: Histograms, contexts: Contexts) -> Tokens:
        """The next tokens (n,), under contexts (n,)."""

    @abstractmethod
    def neighbour_plane(
        self, histograms: Histograms, contexts: Contexts, shifts: Values, neighbour: Neighbour
    ) -> Tokens:
        """As `plane`, with the bin of the predecessors as a further part of the context."""

    @abstractmethod
    def energy_plane(self, histogram_of_key: Histograms, keys: EnergyKeys) -> Tokens:
        """As `plane`, under the rows' keys, to which the tokens' energy is added."""

    @abstractmethod
    def _words_read(self) -> int:
        """Number of words read so far."""

    def finish(self) -> None:
        """CorruptFile unless everything was read and the states are those the writer began with."""
        if self._words_read() != len(self._words) or (self._states != LOWEST_STATE).any():
            raise CorruptFile(self._section, "does not end at its last token")

    def _ends_early(self) -> CorruptFile:
        return CorruptFile(self._section, "ends before its last token")


class TokenEncoder(ABC):
    """Codes planes, the last in decoding order first."""

    def __init__(self, lanes: int, frequencies: Frequencies) -> None:
        self._lanes = lanes
        self._states = np.full(lanes, LOWEST_STATE, np.uint32)
        self._words: list[Words] = []
        starts = np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies
        symbols = (starts << np.uint32(16)) | frequencies
        self._symbols = symbols.astype(np.uint32).ravel()  # by histogram x 256 + token

    @abstractmethod
    def plane_before(
        self, histograms: Histograms, contexts: npt.NDArray[np.uint16], tokens: Tokens
    ) -> None:
        """Adds the plane before those added so far; token i is coded in lane i mod lanes."""

    def finish(self) -> bytes:
        """The stream: the lanes' first states (u32), then the words (u16) in reading order."""
        words = np.concatenate([np.zeros(0, np.uint16), *reversed(self._words)])
        return self._states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


class PlainDecoder(TokenDecoder):
    """In NumPy."""

    def __init__(self, stream: bytes, lanes: int, table: DecodeTable, section: str) -> None:
        super().__init__(stream, lanes, table, section)
        self._next = 0
        # Some ones follow the lanes: if more than a tenth of the booleans are true, NumPy finds
        # these without branches, three times as fast.
        self._ones = lanes // 8 + 1
        self._is_low = np.ones(lanes + self._ones, np.bool_)

    def plane(self, histograms: Histograms, contexts: Contexts) -> Tokens:
        """See TokenDecoder."""
        tokens = np.empty(len(contexts), np.uint8)
        rows = _table_rows(histograms)
        for low in range(0, len(contexts), self._lanes):
            part = slice(low, low + self._lanes)
            tokens[part] = self._step(rows.take(contexts[part]))
        return tokens

    def neighbour_plane(
        self, histograms: Histograms, contexts: Contexts, shifts: Values, neighbour: Neighbour
    ) -> Tokens:
        """See TokenDecoder."""
        tokens = np.empty(len(contexts), np.uint8)
        rows, average = _table_rows(histograms), neighbour.averages(self._lanes)
        for low in range(0, len(contexts), self._lanes):
            context = contexts[low : low + self._lanes] * np.int32(neighbour.count)
            part = average[: len(context)]
            context += neighbour.bins.take(part >> 4, mode="clip")
            found = self._step(rows.take(context))
            tokens[low : low + self._lanes] = found
            part += ((TOKEN_SIZE.take(found) << (shifts[low : low + self._lanes] + 4)) - part) >> 2
        return tokens

    def energy_plane(self, histogram_of_key: Histograms, keys: EnergyKeys) -> Tokens:
        """See TokenDecoder."""
        tokens = np.empty(len(keys), np.uint8)
        rows = _table_rows(histogram_of_key)
        for low in range(0, len(keys), self._lanes):
            part = keys[low : low + self._lanes]
            found = self._step(rows.take(part))
            tokens[low : low + self._lanes] = found
            add_energy(part, found)
        return tokens

    def _step(self, index: npt.NDArray[np.int32]) -> Tokens:
        """At most one token a lane; `index`, rows of the table, is overwritten."""
        state = self._states[: len(index)]
        index += (state & np.uint32(PROBABILITY_ONE - 1)).view(np.int32)
        entry = self._table.entries.take(index)
        tokens = entry.astype(np.uint8)
        state >>= np.uint32(PROBABILITY_BITS)
        state *= (entry >> np.uint32(20)) + np.uint32(1)
        entry >>= np.uint32(8)
        entry &= np.uint32(0xFFF)
        state += entry
        self._refill(state)
        return tokens

    def _refill(self, state: npt.NDArray[np.uint32]) -> None:
        is_low = self._is_low[self._lanes - len(state) :]
        np.less(state, LOWEST_STATE, out=is_low[: len(state)])
        low = is_low.nonzero()[0][: -self._ones]
        end = self._next + len(low)
        if end > len(self._words):
            raise self._ends_early()
        refilled = state.take(low)
        refilled <<= np.uint32(16)
        refilled |= self._words[self._next : end]
        state[low] = refilled
        self._next = end

    def _words_read(self) -> int:
        return self._next


class PlainEncoder(TokenEncoder):
    """In NumPy."""

    def plane_before(
        self, histograms: Histograms, contexts: npt.NDArray[np.uint16], tokens: Tokens
    ) -> None:
        """See TokenEncoder."""
        ids = histograms.take(contexts)
        for low in range((len(tokens) - 1) // self._lanes * self._lanes, -1, -self._lanes):
            part = slice(low, low + self._lanes)
            self._step(self._symbols.take(ids[part].astype(np.intp) * 256 + tokens[part]))

    def _step(self, symbols: npt.NDArray[np.uint32]) -> None:
        """One token a lane, by its start and frequency."""
        state, frequency = self._states[: len(symbols)], symbols & np.uint32(0xFFFF)
        # state >= frequency << 20, without the overflow at frequency 2^12
        (full,) = (state >> np.uint32(32 - PROBABILITY_BITS) >= frequency).nonzero()
        overflowing = state.take(full)
        self._words.append(overflowing.astype(np.uint16))
        state[full] = overflowing >> np.uint32(16)
        # Exact: both operands are exact in float64, whose rounding is far finer than 1 / frequency.
        quotient = (state / frequency).astype(np.uint32)
        quotient *= np.uint32(PROBABILITY_ONE) - frequency
        state += quotient
        state += symbols >> np.uint32(16)


def neighbour_bins(
    tokens: Tokens, shifts: Values, neighbour: Neighbour, lanes: int
) -> npt.NDArray[np.uint8]:
    """The bin (n,) of every token's predecessors, the same as in `neighbour_plane`."""
    bins = np.empty(len(tokens), np.uint8)
    average = neighbour.averages(lanes)
    sizes = TOKEN_SIZE.take(tokens) << (shifts + 4)
    for low in range(0, len(tokens), lanes):
        added = sizes[low : low + lanes]
        part = average[: len(added)]
        bins[low : low + lanes] = neighbour.bins.take(part >> 4, mode="clip")
        part += (added - part) >> 2
    return bins


def add_energy(keys: EnergyKeys, tokens: Tokens) -> None:
    """energy += 4 min(magnitude, 15) - (energy >> 3), which stays below 2^9."""
    decay = keys & np.int16((1 << ENERGY_BITS) - 1)
    decay >>= 3
    keys -= decay
    keys += (np.minimum(tokens, np.uint8(15)) << np.uint8(2)).astype(np.int16)


def _table_rows(histograms: Histograms) -> npt.NDArray[np.int32]:
    """Where each context's part of the table begins."""
    return histograms.astype(np.int32) << PROBABILITY_BITS
