# SPDX-License-Identifier: Apache-2.0
"""Histograms of a model's attributes before and after compression. NumPy only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaussian_compression.report import Histogram
from splat_codec.blocks import ROWS_AT_ONCE
from splat_formats.axes import with_ordered_axes
from splat_formats.differences import SH_DC, alpha_of
from splat_formats.outliers import sample
from splat_formats.splats import Splats

BINS = 48
MOST_GAUSSIANS = 100_000
"""Of a model of twice as many or more, every n-th is counted: the shapes are the same."""
_TAIL = 0.001
"""Part of the values on each side that may be outside: few, but far away, they would leave the
others only a few bins."""
_GAUSSIANS_FOR_LIMITS = 1 << 15
"""At least: _TAIL is then 33 of them."""
_LOG10_E = float(np.log10(np.e))

Values = npt.NDArray[np.floating]


@dataclass(frozen=True)
class _Measured:
    """What is counted of an attribute."""

    unit: str
    of: Callable[[Splats], Values]
    """An array with a row for each Gaussian."""


MEASURED = {
    "x": _Measured("world units", lambda splats: splats.xyz[:, 0]),
    "y": _Measured("world units", lambda splats: splats.xyz[:, 1]),
    "z": _Measured("world units", lambda splats: splats.xyz[:, 2]),
    "scaling": _Measured(
        "standard deviations of the three axes, log10 of world units",
        lambda splats: splats.scaling * np.float32(_LOG10_E),
    ),
    "rotation": _Measured(
        "angles in degrees, axes in the order of their lengths",
        lambda splats: _angles(splats),
    ),
    "opacity": _Measured("0 transparent, 1 opaque", alpha_of),
    "features_dc": _Measured(
        "red, green and blue of the mean colour, 0 to 1",
        lambda splats: splats.features_dc * np.float32(SH_DC) + np.float32(0.5),
    ),
    "features_rest": _Measured(
        "coefficients of degree 1 and higher", lambda splats: splats.features_rest
    ),
}


def attribute_histograms(start: Splats, compressed: Splats) -> dict[str, Histogram]:
    """The histograms by attribute; without those that neither model has."""
    every = max(1, max(start.count, compressed.count) // MOST_GAUSSIANS)
    models = [splats.rows(slice(None, None, every)) for splats in (start, compressed)]
    found = {}
    for name, measured in MEASURED.items():
        values = np.concatenate([_values(measured, splats) for splats in map(_sample, models)])
        if not np.isfinite(values).any():
            continue
        low, high = _limits(values)
        (before, before_outside), (after, after_outside) = (
            _counts(splats, measured, low, high) for splats in models
        )
        found[name] = Histogram(
            unit=measured.unit,
            low=low,
            high=high,
            start=before,
            compressed=after,
            start_outside=before_outside,
            compressed_outside=after_outside,
            every=every,
        )
    return found


def _sample(splats: Splats) -> Splats:
    """Some Gaussians, enough for the limits of the bins."""
    return splats.rows(sample(np.arange(splats.count), _GAUSSIANS_FOR_LIMITS))


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The quantiles of _TAIL on both sides (of up to 1000 values: both ends), and different."""
    values = values[np.isfinite(values)]
    low = float(np.quantile(values, _TAIL, method="lower"))
    high = float(np.quantile(values, 1 - _TAIL, method="higher"))
    size = max(abs(low), abs(high))
    if high - low > size * 1e-9:  # enough for bins with different limits
        return low, high
    room = size / 2 or 0.5
    return low - room, low + room


def _counts(
    splats: Splats, measured: _Measured, low: float, high: float
) -> tuple[tuple[int, ...], int]:
    """The values in each bin, and how many are in none."""
    counts, total = np.zeros(BINS, np.int64), 0
    for first in range(0, splats.count, ROWS_AT_ONCE):
        values = _values(measured, splats.rows(slice(first, first + ROWS_AT_ONCE)))
        counts += np.histogram(values, BINS, (low, high))[0]
        total += values.size
    return tuple(counts.tolist()), total - int(counts.sum())


def _values(measured: _Measured, splats: Splats) -> npt.NDArray[np.float64]:
    return measured.of(splats).ravel().astype(np.float64)


def _angles(splats: Splats) -> npt.NDArray[np.float64]:
    w = with_ordered_axes(splats).rotation[:, 0].astype(np.float64)
    return np.degrees(2 * np.arccos(np.clip(w, 0, 1)))
