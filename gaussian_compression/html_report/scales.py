# SPDX-License-Identifier: Apache-2.0
"""From values to pixels: the ranges and ticks of a plot's axes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_TICKS = 5
_MARGIN = 0.05
"""Of the range, on both sides of the data."""


@dataclass(frozen=True)
class Scale:
    """Maps `low` to the pixel `start` and `high` to `end`; `log`: by logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """The place of `value`, which is positive if the scale is logarithmic."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        if self.log and len(ticks := _log_ticks(self.low, self.high)) > 2:
            return ticks
        step = _step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def scale_of(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Scale:
    """The scale that contains all values, which are positive if it is logarithmic."""
    found = list(values)
    low, high = (min(found), max(found)) if found else (1.0, 2.0)
    if log:
        room = max((high / low) ** _MARGIN, 1.1)
        return Scale(low / room, high * room, start, end, log=True)
    room = (high - low) * _MARGIN
    most = max(abs(low), abs(high))
    if room <= most * 1e-9:
        room = most / 2 or 0.5
    return Scale(low - room, high + room, start, end)


def tick_text(value: float) -> str:
    """A tick's number, without digits that rounding errors add; from a million on with a unit."""
    for factor, unit in ((1e9, "G"), (1e6, "M")):
        if factor <= abs(value) < 1e12:
            return signed(f"{value / factor:.6g} {unit}")
    if value and not 1e-4 <= abs(value) < 1e6:
        return signed(f"{value:.3g}")
    return signed(f"{value:,.6g}")


def signed(number: str) -> str:
    """The number with the typographic minus sign."""
    return number.replace("-", "−", 1) if number.startswith("-") else number


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of 10, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(decades) // (_TICKS + 1))
    factors = (1, 2, 5) if high / low <= 300 else (1,)
    ticks = [factor * 10.0**decade for decade in decades[::every] for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]  # few in a range less than a decade
