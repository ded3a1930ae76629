# SPDX-License-Identifier: Apache-2.0
"""Compares predictions of unseen views' loss: `python benchmarks/guard_rules.py FILE.json ...`.

The files are those of guard.py. The true loss after a round: the test views' mean of the unpruned
twin minus that of the pruned model, both after the final fine-tuning. Each prediction only uses
guard and training views of the rounds. Prints Markdown tables; --plot writes a scatter as SVG.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))


State = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """The figures of one scene: the pruned model and the unpruned twin by round."""

    scene: str
    pruned: dict[int, State]
    twin: dict[int, State]
    """Round 0 is the model that both start from."""
    finals: dict[str, dict[int, State]]
    """By `pruned` and `unpruned`: after the final fine-tuning that followed a round."""

    def means(self, state: State, views: str, measure: str) -> float:
        """Over the views of a set."""
        return fmean(state["views"][views][measure])

    def true_loss(self, number: int, measure: str = "psnr") -> float:
        """On test views, after the final fine-tuning."""
        unpruned, pruned = (self.finals[name][number] for name in ("unpruned", "pruned"))
        return self.means(unpruned, "test", measure) - self.means(pruned, "test", measure)

    def loss(
        self, number: int, views: str, measure: str = "psnr", against: int | None = 0
    ) -> float:
        """In the rounds, against the twin after round `against` (None: after as many)."""
        twin = self.twin[number if against is None else against]
        return self.means(twin, views, measure) - self.means(self.pruned[number], views, measure)


def read(path: Path) -> Course:
    """A file of guard.py."""
    content = json.loads(path.read_text(encoding="utf-8"))
    by_kind: dict[tuple[str, str], dict[int, State]] = {}
    for state in content["states"]:
        by_kind.setdefault((state["model"], state["stage"]), {})[state["round"]] = state
    finals = {name: by_kind.get((name, "final"), {}) for name in ("pruned", "unpruned")}
    twin = by_kind["unpruned", "round"]
    return Course(content["scene"], by_kind.get(("pruned", "round"), {}), twin, finals)


def views_median(course: Course, number: int, measure: str) -> float:
    """The median of the guard views' losses against the twin."""
    before, after = (
        found["views"]["guard"][measure] for found in (course.twin[number], course.pruned[number])
    )
    return median(b - a for b, a in zip(before, after, strict=True))


def of_mean_error(course: Course, number: int) -> float:
    """The loss of the PSNR of the guard views' mean squared error, in dB."""
    errors = [
        fmean(10 ** (-psnr / 10) for psnr in state["views"]["guard"]["psnr"])
        for state in (course.pruned[number], course.twin[number])
    ]
    return float(10 * np.log10(errors[0] / errors[1]))


def trend(course: Course, number: int, measure: str) -> float:
    """The slope of the line through the guard views' losses, times the rounds after the first."""
    rounds = range(1, number + 1)
    losses = [course.loss(one, "guard", measure) for one in rounds]
    slope = np.polyfit(list(rounds), losses, 1)[0] if number > 1 else 0.0
    return float(slope) * (number - 1)


def extrapolated(course: Course, number: int, measure: str, memory: float) -> float:
    """The line from training views through guard views; see stopping.py."""
    guard, training = (course.loss(number, views, measure) for views in ("guard", "training"))
    return guard - memory / (1 - memory) * max(training - guard, 0)


Prediction = Callable[[Course, int], float]
MEMORY = 0.4

PREDICTIONS: dict[str, Prediction] = {
    "guard views against round 0 (the former rule)": lambda c, n: c.loss(n, "guard"),
    "guard views against the twin after one round": lambda c, n: c.loss(n, "guard", against=1),
    "guard views against the twin": lambda c, n: c.loss(n, "guard", against=None),
    "the same, median of the views": lambda c, n: views_median(c, n, "psnr"),
    "the same, of the mean squared error": of_mean_error,
    "trend of the guard views' loss from round 1 on": lambda c, n: trend(c, n, "psnr"),
    "extrapolated from training over guard views": lambda c, n: extrapolated(c, n, "psnr", MEMORY),
    "training views against round 0": lambda c, n: c.loss(n, "training"),
}
