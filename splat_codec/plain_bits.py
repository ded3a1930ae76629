# SPDX-License-Identifier: Apache-2.0
"""Bits stored without entropy coding: signs, and the low bits of integers. In NumPy.

Bits are packed eight to a byte, the highest first. `native.py` has the same functions compiled.
"""

import numpy as np
import numpy.typing as npt

from splat_codec.contexts import Values

Bits = npt.NDArray[np.uint8]


def apply_signs(values: npt.NDArray[np.int16], bits: Bits) -> None:
    """Negates the values (n,) whose bit is 1; there is a bit for each value other than 0."""
    (rows,) = (values != 0).nonzero()
    negative = rows[np.unpackbits(bits, count=len(rows)).view(np.bool_)]
    values[negative] = -values.take(negative)


def take_bits(widths: Values, bit: int, bits: Bits, values: Values) -> None:
    """Sets bit `bit` of those values (n,) whose width is greater than `bit`."""
    wide = np.flatnonzero(widths > bit)
    values[wide] |= np.unpackbits(bits, count=len(wide)).astype(np.int32) << bit


def give_bits(widths: Values, bit: int, values: Values) -> Bits:
    """Bit `bit` of the values whose width is greater: the `bits` argument of take_bits."""
    return np.packbits(values[widths > bit] >> bit & 1)
