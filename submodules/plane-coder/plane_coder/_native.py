# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled library of this package that fits the processor.

`FAST3DGS_ISA` (v2, v3 or v4) forces a lower x86-64 level than the processor has, to test it or to
compare machines bit by bit.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

VARIABLE = "FAST3DGS_ISA"


def load_library() -> tuple[ctypes.CDLL, str]:
    """The library and the name of its instruction set ("x86-64-v4", ..., or "generic").

    Raises ImportError if the package was not built, or if this processor can run no build of it.
    """
    built = {
        path.stem.removeprefix("_native_"): path
        for path in Path(__file__).parent.glob("_native_*.so")
    }
    if not built:
        raise ImportError(
            f"{__package__} has no compiled library: install it with pip (see README.md)."
        )
    if "generic" in built:
        return ctypes.CDLL(str(built["generic"])), "generic"
    name = f"x86-64-v{_level(built['x86-64-v2'])}"
    return ctypes.CDLL(str(built[name])), name


def _level(baseline: Path) -> int:
    supported: int = ctypes.CDLL(str(baseline)).cpu_level()
    if supported < 2:
        raise ImportError(f"{__package__} needs an x86-64-v2 processor (SSE4.2, since 2009).")
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return supported
    if wanted not in ("v2", "v3", "v4"):
        raise ImportError(f"{VARIABLE} must be v2, v3 or v4, not '{wanted}'.")
    if int(wanted[1]) > supported:
        raise ImportError(f"{VARIABLE}={wanted}, but this processor supports only v{supported}.")
    return int(wanted[1])
