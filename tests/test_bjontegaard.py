# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from benchmarks.bjontegaard import RateCurve, RatePoint, best_points, rate_difference
from utils.errors import InputError

CURVE = [(1e5, 28.0), (2e5, 29.5), (5e5, 30.1), (9e5, 30.9), (2e6, 31.0)]


def curve(pairs: list[tuple[float, float]]) -> RateCurve:
    return RateCurve(RatePoint(*pair) for pair in pairs)


def percent(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    return rate_difference(curve(first), curve(second)).percent


def test_equal_halved_and_doubled_rates() -> None:
    assert percent(CURVE, CURVE) == 0
    assert percent(CURVE, [(rate / 2, quality) for rate, quality in CURVE]) == pytest.approx(-50)
    assert percent(CURVE, [(rate * 2, quality) for rate, quality in CURVE]) == pytest.approx(100)


def test_two_straight_lines_by_hand() -> None:
    # ln(rate) = quality and quality / 2, both from 2 to 4: the mean difference is -1.5.
    first = [(math.exp(q), q) for q in (1.0, 2.0, 3.0, 4.0)]
    second = [(math.exp(q / 2), q) for q in (2.0, 3.5, 6.0)]
    found = rate_difference(curve(first), curve(second))
    assert (found.low, found.high) == (2, 4)
    assert found.percent == pytest.approx(100 * (math.exp(-1.5) - 1))
    # Two points are a straight line, too.
    assert percent(first, [second[0], second[-1]]) == pytest.approx(100 * (math.exp(-1.5) - 1))


@pytest.mark.parametrize("seed", range(6))
def test_interpolation_is_that_of_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 9))
    quality = 28 + np.cumsum(generator.exponential(size=count))
    rate = np.exp(10 + np.cumsum(generator.exponential(size=count)))
    reference = PchipInterpolator(quality, np.log(rate))
    found = RateCurve(map(RatePoint, rate, quality))
    for at in np.linspace(quality[0], quality[-1], 23):
        assert found.rate(at) == pytest.approx(np.exp(reference(at)), rel=1e-9)
    low, high = np.sort(generator.uniform(quality[0], quality[-1], 2))
    expected = float(reference.integrate(low, high))
    assert found.log_rate_integral(low, high) == pytest.approx(expected, rel=1e-9)
    whole = float(reference.integrate(quality[0], quality[-1]))
    assert found.log_rate_integral(quality[0], quality[-1]) == pytest.approx(whole, rel=1e-9)


def test_measured_points_are_exact_and_nothing_is_extrapolated() -> None:
    found = curve(CURVE)
    for rate, quality in CURVE:
        assert found.rate(quality) == pytest.approx(rate)
    assert found.rate(27.99) is None and found.rate(31.01) is None and found.rate(math.nan) is None


def test_points_that_are_surpassed_are_left_out() -> None:
    # More bytes and less quality; equal quality for more bytes; the same bytes twice.
    added = [(3e5, 29.0), (4e5, 29.5), (5e5, 29.9), (5e6, 30.9)]
    assert [(p.rate, p.quality) for p in best_points(RatePoint(*p) for p in CURVE + added)] == CURVE
    assert percent(CURVE, CURVE + added) == 0


def test_curves_that_cannot_be_compared() -> None:
    for pairs in ([], CURVE[:1], [(1e5, 30.0), (2e5, 29.0)]):
        with pytest.raises(InputError, match="expected at least two points"):
            curve(pairs)
    above = [(rate, quality + 3) for rate, quality in CURVE]
    with pytest.raises(InputError, match=r"do not overlap: 28 to 31, and 31 to 34"):
        percent(CURVE, above)
    for pair in ((0.0, 30.0), (-1.0, 30.0), (1e5, math.nan), (1e5, math.inf), (math.inf, 30.0)):
        with pytest.raises(InputError, match="expected a positive rate and a finite quality"):
            curve([*CURVE, pair])
