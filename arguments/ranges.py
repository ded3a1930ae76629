# SPDX-License-Identifier: Apache-2.0
"""Which values an option may have. Standard library only."""

import math
from dataclasses import dataclass
from typing import Any, Protocol


class Allowed(Protocol):
    """A set of values; its text follows the word "expected" in messages."""

    def holds(self, value: Any) -> bool:
        """Whether `value` is allowed."""
        ...


@dataclass(frozen=True)
class Range:
    """Finite numbers within bounds, and some `others`.

    `least` and `most` are included, `above` and `below` are not.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    others: tuple[int, ...] = ()
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether `value` is allowed; NaN and infinities are not."""
        if isinstance(value, float) and not math.isfinite(value):
            return False
        inside = self.least <= value <= self.most and self.above < value < self.below
        return value in self.others or inside

    def __str__(self) -> str:
        text = "a whole number" if self.whole else "a finite number"
        bounds = [
            *([f"greater than {self.above}"] if math.isfinite(self.above) else []),
            *([f"less than {self.below}"] if math.isfinite(self.below) else []),
        ]
        if math.isfinite(self.least) and math.isfinite(self.most):
            bounds = [f"from {self.least} to {self.most}"]
        elif math.isfinite(self.least):
            bounds = [f"of at least {self.least}"]
        text = " ".join([text, " and ".join(bounds)]).strip()
        return ", ".join([*map(str, self.others), f"or {text}" if self.others else text])


@dataclass(frozen=True)
class OneOf:
    """One of a few texts."""

    texts: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Whether `value` is allowed."""
        return value in self.texts

    def __str__(self) -> str:
        return " or ".join(self.texts)


def fault_of(option: str, value: Any, allowed: Allowed) -> str | None:
    """The error message for `value` of the option called `option`; None if it is allowed."""
    if allowed.holds(value):
        return None
    return f"--{option} {value}: expected {allowed}"
