# SPDX-License-Identifier: Apache-2.0
"""Positions far from the origin of their coordinates, where float32 is coarse. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_formats.scene import NO_ORIGIN, Origin
from splat_formats.splats import FloatArray

_SAMPLE = 1 << 14  # Gaussians that are examined
# A position needs steps of at most this fraction of the Gaussian's size, which is the middle one of
# its three (the thickness of a flat one does not matter). Those of compressed files are about twice
# as wide.
_NEEDED_STEP = 1 / 16
_TOLERATED_SHARE = 1e-3


@dataclass(frozen=True, eq=False)
class Placed:
    """Positions in float32 relative to an origin."""

    xyz: FloatArray
    origin: Origin
    notice: str | None
    """One sentence on positions that float32 cannot hold as they are."""


def place(xyz: npt.NDArray[np.floating], scaling: FloatArray) -> Placed:
    """Positions (N, 3) in float32. From doubles an origin is subtracted if the sizes of the
    Gaussians, exp(`scaling`), require it; values already rounded to float32 stay unchanged."""
    share = coarse_share(xyz, scaling)
    if share <= _TOLERATED_SHARE:
        return Placed(_to_float32(xyz), NO_ORIGIN, None)
    if _are_float32(xyz):
        return Placed(_to_float32(xyz), NO_ORIGIN, _already_coarse(share))
    origin = _middle(xyz)
    relative = xyz - np.array(origin)
    left = coarse_share(relative, scaling)
    if left > share / 2:
        return Placed(_to_float32(xyz), NO_ORIGIN, _too_wide(share))
    return Placed(_to_float32(relative), origin, _moved(origin))


def relative_to(xyz: npt.NDArray[np.floating], origin: Origin) -> FloatArray:
    """Positions (N, 3) in float32 relative to an origin."""
    return _to_float32(xyz if origin == NO_ORIGIN else xyz - np.array(origin))


def coarse_share(xyz: npt.NDArray[np.floating], scaling: FloatArray) -> float:
    """The fraction of the Gaussians for whose size float32 is too coarse at their positions."""
    rows = slice(None, None, max(1, len(xyz) // _SAMPLE))
    positions, sizes = xyz[rows], scaling[rows]
    usable = np.isfinite(positions).all(axis=1) & np.isfinite(sizes).all(axis=1)
    if not usable.any():
        return 0.0
    largest = np.abs(_to_float32(positions[usable])).max(axis=1)
    middle = np.sort(sizes[usable], axis=1)[:, 1].astype(np.float64)
    needed = _NEEDED_STEP * np.exp(np.clip(middle, -80, 80))
    return float((np.spacing(largest) > needed).mean())


def _middle(xyz: npt.NDArray[np.floating]) -> Origin:
    """The median of each axis, rounded to a short number that is exact in any text."""
    finite = xyz[np.isfinite(xyz).all(axis=1)]
    rows = finite[:: max(1, len(finite) // _SAMPLE)]
    low, middle, high = np.quantile(rows, [0.05, 0.5, 0.95], axis=0)
    unit = 2.0 ** np.floor(np.log2(max(float((high - low).max()), 2.0**-20)))
    rounded = np.rint(middle / unit) * unit
    return float(rounded[0]), float(rounded[1]), float(rounded[2])


def _are_float32(xyz: npt.NDArray[np.floating]) -> bool:
    """Whether the positions were rounded to float32 before, whatever their type is now."""
    rows = xyz[:: max(1, len(xyz) // _SAMPLE)]
    return bool((_to_float32(rows) == rows)[np.isfinite(rows)].all())


def _to_float32(values: npt.NDArray[np.floating]) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def _already_coarse(share: float) -> str:
    return (
        f"positions lie so far from 0 that float32 is too coarse for the sizes of "
        f"{100 * share:.3g} % of the Gaussians: detail is lost already; export the model "
        "relative to an origin nearby"
    )


def _too_wide(share: float) -> str:
    return (
        f"positions spread so widely that float32 is too coarse for the sizes of "
        f"{100 * share:.3g} % of the Gaussians, wherever the origin lies"
    )


def _moved(origin: Origin) -> str:
    numbers = ", ".join(f"{x:.12g}" for x in origin)
    return (
        f"positions lie too far from 0 for float32: they are kept relative to ({numbers}), which "
        "compressed files store and decoding adds again"
    )
