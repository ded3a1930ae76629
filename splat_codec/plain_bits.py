# SPDX-License-Identifier: Apache-2.0
"""Plain bits, which no model makes shorter: signs, and the low bits of integers. By NumPy.

Lists of bits stand eight to a byte, the highest first. `native.py` has the same functions compiled.
"""

import numpy as np
import numpy.typing as npt

from splat_codec.contexts import Values

Bits = npt.NDArray[np.uint8]


def apply_signs(values: npt.NDArray[np.int16], bits: Bits) -> None:
    """Turns values (n,) negative whose bit is 1; there is a bit for each that is not 0."""
    (rows,) = (values != 0).nonzero()
    negative = rows[np.unpackbits(bits, count=len(rows)).view(np.bool_)]
    values[negative] = -values.take(negative)


def take_bits(widths: Values, bit: int, bits: Bits, values: Values) -> None:
    """Sets bit `bit` of those values (n,) whose width is above it."""
    wide = np.flatnonzero(widths > bit)
    values[wide] |= np.unpackbits(bits, count=len(wide)).astype(np.int32) << bit


def give_bits(widths: Values, bit: int, values: Values) -> Bits:
    """The bits that take_bits takes."""
    return np.packbits(values[widths > bit] >> bit & 1)
