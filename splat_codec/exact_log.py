# SPDX-License-Identifier: Apache-2.0
"""Base-2 logarithms of integers by integer operations: the same bits on every processor."""

import numpy as np
import numpy.typing as npt

Integers64 = npt.NDArray[np.int64]

LOG_BITS = 18
LOG_ONE = 1 << LOG_BITS
_TABLE_BITS = 12
_MANTISSA_BITS = 52
_REST_BITS = _MANTISSA_BITS - _TABLE_BITS


def log2_fixed(values: npt.ArrayLike) -> Integers64:
    """2^18 log2(values) of integers from 1 to 2^53 - 1, within two units; monotone."""
    # The float64 of such an integer is exact: its bits are exponent and mantissa.
    bits = np.asarray(values, np.float64).view(np.int64)
    entry = bits >> _REST_BITS & (1 << _TABLE_BITS) - 1
    rest = (bits & (1 << _REST_BITS) - 1) >> (_REST_BITS - LOG_BITS)
    low, high = _TABLE.take(entry), _TABLE.take(entry + 1)
    exponent = (bits >> _MANTISSA_BITS) - 1023
    return (exponent << LOG_BITS) + low + ((high - low) * rest >> LOG_BITS)


def _table() -> Integers64:
    """The logarithms of 1 + i / 2^12 for i from 0 to 2^12, bit by bit."""
    mantissa = (np.arange(1 << _TABLE_BITS, dtype=np.int64) << 18) + (1 << 30)
    logarithm = np.zeros(1 << _TABLE_BITS, np.int64)
    for _ in range(LOG_BITS):  # squaring doubles the logarithm: its next bit becomes the whole part
        mantissa = mantissa * mantissa >> 30
        bit = mantissa >> 31
        mantissa >>= bit
        logarithm = logarithm << 1 | bit
    return np.append(logarithm, LOG_ONE)


_TABLE = _table()
