# SPDX-License-Identifier: Apache-2.0
"""Compiled code (`plane_coder`) for the coders of rans.py, and for sh_rows.py and plain_bits.py.

Imported only if that package is installed; the integers are the same.
"""

import numpy as np
import numpy.typing as npt
import plane_coder
from plane_coder import (
    add_energy,
    apply_signs,
    give_bits,
    planes_to_rows,
    rows_to_planes,
    take_bits,
)

from splat_codec.contexts import Contexts, EnergyKeys, Neighbour, Tokens, Values
from splat_codec.rans import (
    DecodeTable,
    Frequencies,
    Histograms,
    TokenDecoder,
    TokenEncoder,
)

__all__ = [
    "NativeDecoder",
    "NativeEncoder",
    "add_energy",
    "apply_signs",
    "give_bits",
    "neighbour_bins",
    "planes_to_rows",
    "rows_to_planes",
    "take_bits",
]


class NativeDecoder(TokenDecoder):
    """In compiled code."""

    def __init__(self, stream: bytes, lanes: int, table: DecodeTable, section: str) -> None:
        super().__init__(stream, lanes, table, section)
        self._decoder = plane_coder.TokenDecoder(self._states, self._words, table.entries)

    def plane(self, histograms: Histograms, contexts: Contexts) -> Tokens:
        """See TokenDecoder."""
        tokens = np.empty(len(contexts), np.uint8)
        return self._whole(tokens, self._decoder.plane(histograms, contexts, tokens))

    def neighbour_plane(
        self, histograms: Histograms, contexts: Contexts, shifts: Values, neighbour: Neighbour
    ) -> Tokens:
        """See TokenDecoder."""
        tokens = np.empty(len(contexts), np.uint8)
        given = contexts, shifts, neighbour.bins, neighbour.count
        averages = neighbour.averages(self._lanes)
        found = self._decoder.neighbour_plane(histograms, *given, averages, tokens)
        return self._whole(tokens, found)

    def energy_plane(self, histogram_of_key: Histograms, keys: EnergyKeys) -> Tokens:
        """See TokenDecoder."""
        tokens = np.empty(len(keys), np.uint8)
        return self._whole(tokens, self._decoder.energy_plane(histogram_of_key, keys, tokens))

    def _whole(self, tokens: Tokens, has_all: bool) -> Tokens:
        if not has_all:
            raise self._ends_early()
        return tokens

    def _words_read(self) -> int:
        return self._decoder.words_read


class NativeEncoder(TokenEncoder):
    """In compiled code."""

    def __init__(self, lanes: int, frequencies: Frequencies) -> None:
        super().__init__(lanes, frequencies)
        self._encoder = plane_coder.TokenEncoder(self._states, self._symbols)

    def plane_before(
        self, histograms: Histograms, contexts: npt.NDArray[np.uint16], tokens: Tokens
    ) -> None:
        """See TokenEncoder."""
        self._words.append(self._encoder.plane_before(histograms, contexts, tokens))


def neighbour_bins(
    tokens: Tokens, shifts: Values, neighbour: Neighbour, lanes: int
) -> npt.NDArray[np.uint8]:
    """See rans.neighbour_bins."""
    return plane_coder.neighbour_bins(tokens, shifts, neighbour.bins, neighbour.averages(lanes))
