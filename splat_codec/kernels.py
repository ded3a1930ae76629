# SPDX-License-Identifier: Apache-2.0
"""The code for the codec's heavy work: compiled where it is installed, else NumPy.

Both give the same integers and the same bytes. `FAST3DGS_CODEC=numpy` selects NumPy in any case.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from splat_codec import plain_bits, rans, sh_rows
from splat_codec.contexts import EnergyKeys, Neighbour, Tokens, Values
from splat_codec.plain_bits import Bits
from splat_codec.rans import TokenDecoder, TokenEncoder
from splat_codec.sh_rows import Order, ShPlanes, ShRows

VARIABLE = "FAST3DGS_CODEC"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """The codec's inner loops; rans.py, sh_rows.py and plain_bits.py hold them in NumPy."""

    name: str
    decoder: Callable[..., TokenDecoder]
    encoder: Callable[..., TokenEncoder]
    neighbour_bins: Callable[[Tokens, Values, Neighbour, int], npt.NDArray[np.uint8]]
    add_energy: Callable[[EnergyKeys, Tokens], None]
    rows_to_planes: Callable[[ShRows, Order], ShPlanes]
    planes_to_rows: Callable[[ShPlanes, Order, ShRows], None]
    apply_signs: Callable[[npt.NDArray[np.int16], Bits], None]
    take_bits: Callable[[Values, int, Bits, Values], None]
    give_bits: Callable[[Values, int, Values], Bits]


PLAIN = Kernels(
    name="numpy",
    decoder=rans.PlainDecoder,
    encoder=rans.PlainEncoder,
    neighbour_bins=rans.neighbour_bins,
    add_energy=rans.add_energy,
    rows_to_planes=sh_rows.rows_to_planes,
    planes_to_rows=sh_rows.planes_to_rows,
    apply_signs=plain_bits.apply_signs,
    take_bits=plain_bits.take_bits,
    give_bits=plain_bits.give_bits,
)


def compiled() -> Kernels:
    """The compiled kernels.

    ImportError, OSError or AttributeError if they are not installed or do not load.
    """
    from splat_codec import native

    return Kernels(
        name="compiled",
        decoder=native.NativeDecoder,
        encoder=native.NativeEncoder,
        neighbour_bins=native.neighbour_bins,
        add_energy=native.add_energy,
        rows_to_planes=native.rows_to_planes,
        planes_to_rows=native.planes_to_rows,
        apply_signs=native.apply_signs,
        take_bits=native.take_bits,
        give_bits=native.give_bits,
    )


def chosen() -> Kernels:
    """The kernels that FAST3DGS_CODEC names; by default the compiled ones, NumPy's if these fail.

    Logs why an installed package does not load. ImportError if FAST3DGS_CODEC selects compiled
    code that does not load, or is neither `numpy` nor `compiled`.
    """
    selected = os.environ.get(VARIABLE)
    if selected not in (None, "numpy", "compiled"):
        raise ImportError(f"{VARIABLE} must be numpy or compiled, not '{selected}'.")
    if selected == "compiled":
        return compiled()
    if selected == "numpy" or find_spec("plane_coder") is None:
        return PLAIN
    try:
        return compiled()
    # No build for this processor, a damaged library, or one of another version.
    except (ImportError, OSError, AttributeError) as error:
        _log.warning(
            "The codec runs on NumPy, which is slower: the installed package plane_coder does not "
            "load (%s: %s).",
            type(error).__name__,
            error,
        )
        return PLAIN


best = chosen()
"""The kernels that the codec uses."""
