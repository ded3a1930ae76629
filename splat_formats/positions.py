# SPDX-License-Identifier: Apache-2.0
"""Positions far from the origin of their coordinates, where float32 is coarse. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_formats.scene import NO_ORIGIN, Origin
from splat_formats.splats import FloatArray

_SAMPLE = 1 << 14  # Gaussians that decide
# What a Gaussian's position needs: steps of this part of its size, the mean over its axes that the
# grids of positions use too (design_grids.py), whose own steps are about twice as wide.
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
    """Positions (N, 3) in float32. Of doubles, an origin is taken out where the sizes of the
    Gaussians, exp(`scaling`), need it; float32 comes out as it is, with a notice at most."""
    share = coarse_share(xyz, scaling)
    if xyz.dtype == np.float32:
        notice = _already_coarse(share) if share > _TOLERATED_SHARE else None
        return Placed(xyz.astype(np.float32, copy=False), NO_ORIGIN, notice)
    if share <= _TOLERATED_SHARE:
        return Placed(_to_float32(xyz), NO_ORIGIN, None)
    origin = _middle(xyz)
    relative = xyz - np.array(origin)
    left = coarse_share(relative, scaling)
    if left > share / 2:  # the model is too wide for float32, wherever its origin lies
        return Placed(_to_float32(xyz), NO_ORIGIN, _already_coarse(share))
    return Placed(_to_float32(relative), origin, _moved(origin))


def coarse_share(xyz: npt.NDArray[np.floating], scaling: FloatArray) -> float:
    """The part of the Gaussians for whose size float32 is too coarse at their positions."""
    rows = slice(None, None, max(1, len(xyz) // _SAMPLE))
    positions, sizes = xyz[rows], scaling[rows]
    usable = np.isfinite(positions).all(axis=1) & np.isfinite(sizes).all(axis=1)
    if not usable.any():
        return 0.0
    largest = np.abs(_to_float32(positions[usable])).max(axis=1)
    logs = np.sort(sizes[usable].astype(np.float64), axis=1) @ np.array([0.4, 0.3, 0.3])
    needed = _NEEDED_STEP * np.exp(np.clip(logs, -80, 80))
    return float((np.spacing(largest) > needed).mean())


def _middle(xyz: npt.NDArray[np.floating]) -> Origin:
    """About the median of each axis: a short number, so that it is exact in any text."""
    finite = xyz[np.isfinite(xyz).all(axis=1)]
    rows = finite[:: max(1, len(finite) // _SAMPLE)]
    low, middle, high = np.quantile(rows, [0.05, 0.5, 0.95], axis=0)
    unit = 2.0 ** np.floor(np.log2(max(float((high - low).max()), 2.0**-20)))
    rounded = np.rint(middle / unit) * unit
    return float(rounded[0]), float(rounded[1]), float(rounded[2])


def _to_float32(values: npt.NDArray[np.floating]) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def _already_coarse(share: float) -> str:
    return (
        f"positions lie so far from 0 that float32 is too coarse for the sizes of "
        f"{100 * share:.3g} % of the Gaussians: detail is lost already; export the model "
        "relative to an origin nearby"
    )


def _moved(origin: Origin) -> str:
    numbers = ", ".join(f"{x:.12g}" for x in origin)
    return (
        f"positions lie too far from 0 for float32: they are kept relative to ({numbers}), which "
        "compressed files store and decoding adds again"
    )
