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
ENDING = ".dll" if os.name == "nt" else ".so"


def load_library() -> tuple[ctypes.CDLL, str]:
    """The library and the name of its instruction set ("x86-64-v4", ..., or "generic").

    Raises ImportError if there is none, if it does not load, or if this processor can run no build
    of the package.
    """
    built = {
        path.stem.removeprefix("_native_"): path
        for path in Path(__file__).parent.glob(f"_native_*{ENDING}")
    }
    if "generic" in built:
        return _loaded("generic", built), "generic"
    name = f"x86-64-v{_level(_loaded('x86-64-v2', built))}"
    return _loaded(name, built), name


def _loaded(name: str, built: dict[str, Path]) -> ctypes.CDLL:
    if name not in built:
        raise ImportError(f"{__package__} has no compiled library: install it with pip again.")
    try:
        return ctypes.CDLL(str(built[name]))
    except OSError as error:
        raise ImportError(
            f"{__package__} cannot load its compiled library ({error}): install it with pip again."
        ) from error


def _level(baseline: ctypes.CDLL) -> int:
    supported: int = baseline.cpu_level()
    if supported < 2:
        raise ImportError(f"{__package__} needs an x86-64-v2 processor (SSE4.2, since 2009).")
    forced = os.environ.get(VARIABLE)
    if forced is None:
        return supported
    if forced not in ("v2", "v3", "v4"):
        raise ImportError(f"{VARIABLE} must be v2, v3 or v4, not '{forced}'.")
    if int(forced[1]) > supported:
        raise ImportError(f"{VARIABLE}={forced}, but this processor supports only v{supported}.")
    return int(forced[1])
