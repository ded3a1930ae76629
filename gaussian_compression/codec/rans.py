# SPDX-License-Identifier: Apache-2.0
"""Many interleaved rANS coders in step, one per lane, as NumPy vector operations.

Range asymmetric numeral systems (Duda 2013), 32-bit states renormalised by 16-bit words into one
shared stream, as in Giesen's interleaved coders (2014). A step codes one token in each lane, so
that the cost of a NumPy call is spread over thousands of tokens. Integers only.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaussian_compression.codec.errors import CorruptFile

PROBABILITY_BITS = 12
PROBABILITY_ONE = 1 << PROBABILITY_BITS
LOWEST_STATE = 1 << 16  # states lie in [2^16, 2^32) between steps
MAX_LANES = 1 << 14
ENOUGH_LANES = 1 << 13
MAX_ROWS_PER_LANE = (
    1 << 10
)  # with fewer lanes than enough: a step costs as much for few as for many

Tokens = npt.NDArray[np.uint8]
HistogramIds = npt.NDArray[np.uint8]
Frequencies = npt.NDArray[np.uint32]


def lanes_for(count: int) -> int:
    """The writer's number of lanes for `count` Gaussians: a power of two, 1 to 8192.

    A lane costs four bytes: at 128 Gaussians each, 0.03 bytes per Gaussian. Measured per token:
    9 ns with 4096 lanes, 17 ns with 1024.
    """
    return 1 << max(0, min(ENOUGH_LANES.bit_length(), (count // 96).bit_length()) - 1)


@dataclass(frozen=True)
class DecodeTable:
    """What a state's low bits mean, for every histogram: index = histogram x 2^12 + low bits."""

    step: npt.NDArray[np.uint32]
    """Frequency of the token << 16 | low bits - start of the token."""
    token: Tokens

    @staticmethod
    def of(frequencies: Frequencies) -> "DecodeTable":
        """The table of histograms (H, 256), each with sum 2^12."""
        flat = frequencies.ravel()
        token = np.repeat(np.tile(np.arange(256, dtype=np.uint8), len(frequencies)), flat)
        start = np.cumsum(flat, dtype=np.uint32) - flat
        offset = np.arange(len(token), dtype=np.uint32) - np.repeat(start, flat)
        step = (np.repeat(flat, flat) << 16) | offset
        return DecodeTable(step.astype(np.uint32), token)


class RansEncoder:
    """Codes blocks of tokens, the last in decoding order first."""

    def __init__(self, lanes: int, frequencies: Frequencies) -> None:
        self._lanes = lanes
        self._states = np.full(lanes, LOWEST_STATE, np.uint32)
        self._words: list[npt.NDArray[np.uint16]] = []
        self._frequency = frequencies.ravel()
        starts = np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies
        self._start = starts.astype(np.uint32).ravel()

    def add_before(self, histogram_ids: HistogramIds, tokens: Tokens) -> None:
        """The block before those added so far; token i is coded in lane i mod lanes."""
        for low in range((len(tokens) - 1) // self._lanes * self._lanes, -1, -self._lanes):
            part = slice(low, low + self._lanes)
            self._step(histogram_ids[part].astype(np.intp) * 256 + tokens[part])

    def _step(self, symbols: npt.NDArray[np.intp]) -> None:
        """One token a lane; `symbols` are histogram x 256 + token."""
        state = self._states[: len(symbols)]
        frequency = self._frequency.take(symbols)
        # state >= frequency << 20, without the overflow at frequency 2^12
        (full,) = (state >> np.uint32(32 - PROBABILITY_BITS) >= frequency).nonzero()
        overflowing = state.take(full)
        self._words.append(overflowing.astype(np.uint16))
        state[full] = overflowing >> np.uint32(16)
        # Exact: both are exact in float64, whose rounding is far finer than 1 / frequency.
        quotient = (state / frequency).astype(np.uint32)
        quotient *= np.uint32(PROBABILITY_ONE) - frequency
        state += quotient
        state += self._start.take(symbols)

    def finish(self) -> bytes:
        """The stream: the lanes' first states (u32), then the words (u16) in reading order."""
        words = np.concatenate([np.zeros(0, np.uint16), *reversed(self._words)])
        return self._states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


class RansDecoder:
    """Reads the blocks of one stream in order. CorruptFile names `section`."""

    def __init__(self, stream: bytes, lanes: int, table: DecodeTable, section: str) -> None:
        if len(stream) < 4 * lanes or len(stream) % 2:
            raise CorruptFile(section, f"{len(stream)} bytes cannot hold {lanes} lanes and words")
        self._states = np.frombuffer(stream, "<u4", lanes).astype(np.uint32)
        if (self._states < LOWEST_STATE).any():
            raise CorruptFile(section, "a coder's first state is out of range")
        self._words = np.frombuffer(stream, "<u2", offset=4 * lanes).astype(np.uint32)
        self._next = 0
        self._lanes, self._table, self._section = lanes, table, section
        # Behind the lanes stand a number of ones, because NumPy finds the true among booleans
        # without branches, three times as fast, where they are more than a tenth.
        self._ones = lanes // 8 + 1
        self._is_low = np.ones(lanes + self._ones, np.bool_)

    def block(self, index: npt.NDArray[np.int32]) -> Tokens:
        """The next len(index) tokens; `index`, histograms << 12, is overwritten."""
        tokens = np.empty(len(index), np.uint8)
        for low in range(0, len(index), self._lanes):
            tokens[low : low + self._lanes] = self.step(index[low : low + self._lanes])
        return tokens

    def step(self, index: npt.NDArray[np.int32]) -> Tokens:
        """As `block`, at most one token a lane."""
        state = self._states[: len(index)]
        index += (state & np.uint32(PROBABILITY_ONE - 1)).view(np.int32)
        place = index.astype(np.intp)  # once, instead of in each lookup
        entry = self._table.step.take(place)
        state >>= np.uint32(PROBABILITY_BITS)
        state *= entry >> np.uint32(16)
        entry &= np.uint32(0xFFFF)
        state += entry
        self._refill(state)
        return self._table.token.take(place)

    def _refill(self, state: npt.NDArray[np.uint32]) -> None:
        is_low = self._is_low[self._lanes - len(state) :]
        np.less(state, LOWEST_STATE, out=is_low[: len(state)])
        low = is_low.nonzero()[0][: -self._ones]
        end = self._next + len(low)
        if end > len(self._words):
            raise CorruptFile(self._section, "ends before its last token")
        refilled = state.take(low)
        refilled <<= np.uint32(16)
        refilled |= self._words[self._next : end]
        state[low] = refilled
        self._next = end

    def finish(self) -> None:
        """CorruptFile unless everything was read and the coders are where the writer began."""
        if self._next != len(self._words) or (self._states != LOWEST_STATE).any():
            raise CorruptFile(self._section, "does not end where its last token does")
