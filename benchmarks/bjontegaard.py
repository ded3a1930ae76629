# SPDX-License-Identifier: Apache-2.0
"""Rate against quality: Bjontegaard's mean difference of rates, and rates between measured points.

The logarithm of the rate is interpolated as a function of quality (Bjontegaard, VCEG-M33, 2001), by
the monotone piecewise cubic of Fritsch and Butland 1984, as in VCEG-AI11 and JVET's common test
conditions: it has no values beyond those of neighbouring points. NumPy only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from utils.errors import InputError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RatePoint:
    """A measured pair. `rate` is positive: bytes, or Gaussians."""

    rate: float
    quality: float
    """The higher the better."""


def best_points(points: Iterable[RatePoint]) -> list[RatePoint]:
    """The points that no other one equals or surpasses at the same rate or less, by rising rate.

    Measured curves are not monotone: fine-tuning can make a smaller model the better one. A user
    would choose none of the points that are left out, and only without them is the rate a function
    of the quality.
    """
    best: list[RatePoint] = []
    for point in sorted(points, key=lambda point: (point.rate, -point.quality)):
        if not (point.rate > 0 and math.isfinite(point.rate) and math.isfinite(point.quality)):
            raise InputError(
                "expected a positive rate and a finite quality, got "
                f"{point.rate:g} and {point.quality:g}"
            )
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


class RateCurve:
    """The rate as a function of the quality, between the best of the points given."""

    def __init__(self, points: Iterable[RatePoint]) -> None:
        """InputError if fewer than two points are left (see best_points)."""
        best = best_points(points)
        if len(best) < 2:
            raise InputError(
                "expected at least two points of which one has the smaller rate and the other the "
                f"better quality, got {len(best)}"
            )
        self._quality = np.array([point.quality for point in best])
        self._log_rate = np.log([point.rate for point in best])
        self._slopes = _monotone_slopes(self._quality, self._log_rate)

    @property
    def lowest(self) -> float:
        """The quality of the point with the smallest rate."""
        return float(self._quality[0])

    @property
    def highest(self) -> float:
        """The quality of the point with the greatest rate."""
        return float(self._quality[-1])

    def rate(self, quality: float) -> float | None:
        """The rate at this quality; None outside the measured range."""
        if not self.lowest <= quality <= self.highest:
            return None
        index, t, width = self._place(quality)
        values, slopes = self._log_rate[index : index + 2], self._slopes[index : index + 2]
        weights = np.array([1 - t * t * (3 - 2 * t), t * t * (3 - 2 * t)])
        tangents = np.array([t * (1 - t) ** 2, t * t * (t - 1)])
        return math.exp(float(values @ weights + width * (slopes @ tangents)))

    def log_rate_integral(self, low: float, high: float) -> float:
        """The integral of ln(rate) over qualities from `low` to `high`, both in the range."""
        return self._integral_from_lowest(high) - self._integral_from_lowest(low)

    def _place(self, quality: float) -> tuple[int, float, float]:
        """The interval that contains the quality, the place in it from 0 to 1, and its width."""
        index = int(np.searchsorted(self._quality, quality, side="right")) - 1
        index = min(max(index, 0), len(self._quality) - 2)
        width = float(self._quality[index + 1] - self._quality[index])
        return index, (quality - float(self._quality[index])) / width, width

    def _integral_from_lowest(self, quality: float) -> float:
        last, t, _ = self._place(quality)
        # The places where the integral of each interval ends: 1, and t in the last one.
        ends = np.where(np.arange(last + 1) < last, 1.0, t)
        squares, cubes, fourths = ends**2, ends**3, ends**4
        widths = np.diff(self._quality)[: last + 1]
        y, slopes = self._log_rate, self._slopes
        rising = cubes - fourths / 2
        whole = (ends - rising) * y[: last + 1] + rising * y[1 : last + 2]
        bent = (squares / 2 - 2 * cubes / 3 + fourths / 4) * slopes[: last + 1]
        bent += (fourths / 4 - cubes / 3) * slopes[1 : last + 2]
        return float((widths * (whole + widths * bent)).sum())


@dataclass(frozen=True)
class RateDifference:
    """How much less (negative) or more rate a curve needs than another at equal quality."""

    percent: float
    low: float
    high: float
    """The qualities between which it was averaged."""


def rate_difference(reference: RateCurve, curve: RateCurve) -> RateDifference:
    """The mean difference of ln(rate) over the qualities that both curves contain, as percentage.

    InputError if they have no interval of quality in common.
    """
    low, high = max(reference.lowest, curve.lowest), min(reference.highest, curve.highest)
    if low >= high:
        raise InputError(
            f"the curves do not overlap: {reference.lowest:.4g} to {reference.highest:.4g}, "
            f"and {curve.lowest:.4g} to {curve.highest:.4g}"
        )
    difference = curve.log_rate_integral(low, high) - reference.log_rate_integral(low, high)
    return RateDifference(100 * math.expm1(difference / (high - low)), low, high)


def _monotone_slopes(x: Array, y: Array) -> Array:
    """Derivatives at the points of a monotone piecewise cubic Hermite interpolation.

    Inside, the weighted harmonic mean of both neighbouring slopes (Fritsch and Butland 1984), 0 at
    an extremum; at the ends, that of the parabola through three points, limited to stay monotone
    (Moler 2004, section 3.6).
    """
    widths, slopes = np.diff(x), np.diff(y) / np.diff(x)
    if len(slopes) == 1:
        return np.repeat(slopes, 2)
    found = np.zeros_like(x)
    before, after = slopes[:-1], slopes[1:]
    same = before * after > 0
    first, second = 2 * widths[1:] + widths[:-1], widths[1:] + 2 * widths[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (first + second) / (first / before + second / after)
    found[1:-1] = np.where(same, means, 0)
    found[0] = _end_slope(widths[0], widths[1], slopes[0], slopes[1])
    found[-1] = _end_slope(widths[-1], widths[-2], slopes[-1], slopes[-2])
    return found


def _end_slope(width: float, next_width: float, slope: float, next_slope: float) -> float:
    parabola = ((2 * width + next_width) * slope - width * next_slope) / (width + next_width)
    if parabola * slope <= 0:
        return 0.0
    if slope * next_slope <= 0 and abs(parabola) > 3 * abs(slope):
        return 3 * slope
    return parabola
