# SPDX-License-Identifier: Apache-2.0
"""Tokens and their contexts: the average of a token's predecessors, or the energy of its row.

A value is stored as a token; tokens from 232 on are followed by extra plain bits. Normative text:
docs/format.md.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint8]
Values = npt.NDArray[np.int32]
Contexts = npt.NDArray[np.int32]

DIRECT_TOKENS = 232  # a lower token is the value itself; token 232 + j has j extra bits, 0 to 23
MAX_VALUE = DIRECT_TOKENS + 2**24 - 2
EXTRA_BITS = np.r_[np.zeros(DIRECT_TOKENS, np.int32), np.arange(24, dtype=np.int32)]
"""The number of plain bits that follow each token."""
TOKEN_BASE = np.r_[
    np.arange(DIRECT_TOKENS), DIRECT_TOKENS + 2 ** np.arange(24, dtype=np.int64) - 1
].astype(np.int32)
"""The least value of each token."""
TOKEN_SIZE = np.minimum(TOKEN_BASE, 2047)  # fits 32 bits even when shifted by MAX_SHIFT + 4
"""What a token adds to its lane's average."""


def tokens_of(values: Values) -> Tokens:
    """The token of each value."""
    if len(values) and (values.min() < 0 or values.max() > MAX_VALUE):
        raise ValueError(f"values from 0 to {MAX_VALUE} can be stored, got {values.min()} to "
                         f"{values.max()}")  # fmt: skip
    tokens = np.minimum(values, DIRECT_TOKENS).astype(np.uint8)
    large = np.flatnonzero(tokens == DIRECT_TOKENS)
    beyond = values[large].astype(np.float64) - (DIRECT_TOKENS - 1)  # exact, so is its exponent
    tokens[large] = DIRECT_TOKENS - 1 + np.frexp(beyond)[1]
    return tokens


@dataclass(frozen=True)
class Neighbour:
    """How a value's predecessors in its lane become a part of its context.

    Each lane keeps an average a, which begins as 16 x start. After a token with the least value m
    (at most 2047, then shifted left by the row's `shift`), a += (16 m - a) >> 2. The bin is
    bins[a >> 4].
    """

    bins: npt.NDArray[np.uint8]
    count: int
    start: int

    def averages(self, lanes: int) -> Values:
        """Each lane's average before its first token."""
        return np.full(lanes, 16 * self.start, np.int32)


# The context of an SH magnitude is kept as one number for each row, its key: the energy of the
# magnitudes so far (below 2^9), the neighbours' class, and whether the row's last group is coded.
EnergyKeys = npt.NDArray[np.int16]
ENERGY_BITS = 9
_ENERGY_EDGES = (1, 4, 8, 14, 22, 32, 46, 66, 95, 140, 210)
_NEIGHBOUR_EDGES = (2, 6)
_NEIGHBOUR_CLASSES = len(_NEIGHBOUR_EDGES) + 1
ENERGY_LAST_GROUP = _NEIGHBOUR_CLASSES << ENERGY_BITS
_ENERGY_LEVELS = len(_ENERGY_EDGES) + 1
ENERGY_CONTEXTS = 2 * _NEIGHBOUR_CLASSES * _ENERGY_LEVELS
CONTEXT_OF_KEY = (
    np.arange(2 * _NEIGHBOUR_CLASSES, dtype=np.int32)[:, None] * _ENERGY_LEVELS
    + np.searchsorted(_ENERGY_EDGES, np.arange(1 << ENERGY_BITS), side="right").astype(np.int32)
).reshape(-1)


def first_energy_keys(neighbours: Values) -> EnergyKeys:
    """The keys (n,) before the first magnitude, from the neighbours' numbers of used groups."""
    classes = np.searchsorted(_NEIGHBOUR_EDGES, neighbours, side="right")
    return (classes << ENERGY_BITS).astype(np.int16)
