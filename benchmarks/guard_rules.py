# SPDX-License-Identifier: Apache-2.0
"""Compares predictions of unseen views' loss: `python benchmarks/guard_rules.py FILE.json ...`.

The files are those of guard.py. The true loss after a round: the test views' mean of the unpruned
twin minus that of the pruned model, both after the final fine-tuning. Each prediction only uses
guard and training views of the rounds. Prints Markdown tables; --plot writes a scatter as SVG.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from gaussian_compression.html_report.frame import style_sheet
from gaussian_compression.html_report.markup import Html, element, joined
from gaussian_compression.html_report.plots import (
    HEIGHT,
    WIDTH,
    Axis,
    Point,
    Series,
    line_drawing,
    marker,
)
from gaussian_compression.presets import PRESETS
from gaussian_compression.rounds import Cycle, Quality, Round
from gaussian_compression.stopping import predicted_drop
from utils.cli import run
from utils.files import write_text

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
    cycles: tuple[State, ...]
    """The unpruned model after each cycle before round 0 ends."""

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
    cycles = tuple(by_kind.get(("unpruned", "cycle"), {}).values())
    return Course(content["scene"], by_kind.get(("pruned", "round"), {}), twin, finals, cycles)


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
    """The line from training views through guard views, against the twin after one round.

    The rule until 2026-12-01, when round 0 of compress.py ended with one round without pruning.
    """
    guard, training = (course.loss(number, views, measure, 1) for views in ("guard", "training"))
    return guard - memory / (1 - memory) * max(training - guard, 0)


def adopted(course: Course, number: int, memory: float) -> float:
    """What compress.py predicts, in dB."""
    zero = _as_round(course.twin[0], course.cycles)
    return predicted_drop(zero, _as_round(course.pruned[number]), memory).psnr


def _as_round(state: State, cycles: Sequence[State] = ()) -> Round:
    guard, training = _qualities(state)
    before = tuple(Cycle(cycle["iterations"], *_qualities(cycle)) for cycle in cycles)
    figures = (state["round"], state["gaussians"], state["iterations"], guard, 0.0, 0.0)
    return Round(*figures, training=training, cycles=before)


def _qualities(state: State) -> tuple[Quality, Quality]:
    guard, training = (state["views"][name] for name in ("guard", "training"))
    return (
        Quality(fmean(guard["psnr"]), fmean(guard["ssim"])),
        Quality(fmean(training["psnr"]), fmean(training["ssim"])),
    )


Prediction = Callable[[Course, int], float]
MEMORY = PRESETS["balanced"].stopping.guard_memory
FORMER = "guard views against round 0"
ADOPTED = "the rule: the line through training and guard views, against the unpruned course"
PREDICTIONS: dict[str, Prediction] = {
    FORMER: lambda course, number: course.loss(number, "guard"),
    "against the twin after one round": lambda course, number: course.loss(
        number, "guard", against=1
    ),
    "against the twin after as many": lambda course, number: course.loss(
        number, "guard", against=None
    ),
    "the same, median of the views": lambda course, number: views_median(course, number, "psnr"),
    "the same, of the mean squared error": of_mean_error,
    "trend from the first round on": lambda course, number: trend(course, number, "psnr"),
    "training views against the twin after one round": lambda course, number: course.loss(
        number, "training", against=1
    ),
    "the line through training and guard views, against the twin after one round": (
        lambda course, number: extrapolated(course, number, "psnr", MEMORY)
    ),
    ADOPTED: lambda course, number: adopted(course, number, MEMORY),
}
"""By name, all in dB; the first are the guard views' losses in some form."""


def at_limit(course: Course, prediction: Prediction, limit: float) -> tuple[float, float] | None:
    """The part of the Gaussians and the true loss where the prediction first reaches the limit.

    Between rounds, both are straight lines over the logarithm of the number of Gaussians; None
    where the limit is not reached while the true loss is known.
    """
    known = [0, *sorted(course.finals["pruned"].keys() & course.finals["unpruned"].keys())]
    true = [0.0, *(course.true_loss(number) for number in known[1:])]
    before, start = (0.0, 0.0), course.twin[0]["gaussians"]
    for number in sorted(course.pruned):
        after = (
            float(-np.log(course.pruned[number]["gaussians"] / start)),
            prediction(course, number),
        )
        if number > known[-1]:
            return None
        if after[1] >= limit:
            part = (limit - before[1]) / (after[1] - before[1])
            where = before[0] + part * (after[0] - before[0])
            pruned = [course.pruned[one]["gaussians"] for one in known[1:]]
            places = [0.0, *(float(-np.log(count / start)) for count in pruned)]
            return float(np.exp(-where)), float(np.interp(where, places, true))
        before = after
    return None


def summary(courses: Sequence[Course], limit: float) -> Iterator[str]:
    """A table: for each prediction and scene, what was lost where it shows the limit."""
    names = [course.scene for course in courses]
    yield f"| prediction | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for name, prediction in PREDICTIONS.items():
        cells = []
        for course in courses:
            found = at_limit(course, prediction, limit)
            cells.append("not reached" if found is None else
                         f"{found[1]:+.3f} dB at {100 * found[0]:.0f} %")  # fmt: skip
        yield f"| {name} | {' | '.join(cells)} |"


def rows(courses: Sequence[Course]) -> Iterator[str]:
    """A table of all rounds: losses in them, the adopted prediction, and the true losses."""
    yield (
        "| scene | round | kept | guard | guard, twin | training | test, twin | predicted | true | "
        "SSIM | FLIP |"
    )
    yield "|---" * 11 + "|"
    for course in courses:
        for number, state in sorted(course.pruned.items()):
            kept = state["gaussians"] / course.twin[0]["gaussians"]
            losses = [
                course.loss(number, "guard"),
                course.loss(number, "guard", against=None),
                course.loss(number, "training", against=1),
                course.loss(number, "test", against=None),
                PREDICTIONS[ADOPTED](course, number),
            ]
            cells = [f"{loss:+.3f}" for loss in losses]
            yield (
                f"| {course.scene} | {number} | {100 * kept:.0f} % | {' | '.join(cells)} | "
                f"{' | '.join(_true(course, number))} |"
            )


def _true(course: Course, number: int) -> Iterator[str]:
    """The true loss by PSNR, SSIM and FLIP, which is an error: its loss is negative."""
    known = all(number in finals for finals in course.finals.values())
    for measure, digits in (("psnr", 3), ("ssim", 4), ("FLIP", 4)):
        measured = known and measure in course.finals["pruned"][number]["views"]["test"]
        yield f"{course.true_loss(number, measure):+.{digits}f}" if measured else ""


def scatter(courses: Sequence[Course]) -> str:
    """The SVG file: predicted against true loss of the rounds with a final fine-tuning."""
    series = [Series("predicted = true", [Point(0.0, 0.0, ""), Point(0.5, 0.5, "")])]
    for name in (FORMER, ADOPTED):
        for course in courses:
            numbers = sorted(course.finals["pruned"].keys() & course.finals["unpruned"].keys())
            points = [
                Point(PREDICTIONS[name](course, one), course.true_loss(one), f"round {one}")
                for one in numbers
            ]
            series.append(Series(f"{course.scene}: {name}", points, line=False))
    drawing = line_drawing("Loss of unseen views", Axis("predicted loss, dB"),
                           Axis("true loss, dB"), series)  # fmt: skip
    names = [
        element("g", marker(index), element("text", one.name, x=20.0, y=12.0),
                transform=f"translate(40 {HEIGHT + 20 * index:g})")
        for index, one in enumerate(series)
    ]  # fmt: skip
    height = HEIGHT + 20 * (len(series) + 1)
    content = [
        element("style", Html(style_sheet())),
        element("rect", width="100%", height="100%", style="fill: var(--page)"),
        element("svg", drawing, width=WIDTH, height=HEIGHT),
        *names,
    ]
    whole = element("svg", joined(content), xmlns="http://www.w3.org/2000/svg", width=WIDTH,
                    height=height, viewBox=f"0 0 {WIDTH:g} {height:g}")  # fmt: skip
    return f"{whole}\n"


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="of guard.py")
    parser.add_argument("--limit", type=float, default=0.1, help="dB, --max_psnr_drop")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    args = parser.parse_args()
    courses = [read(path) for path in args.files]
    print("\n".join([*summary(courses, args.limit), "", *rows(courses)]))
    if args.plot is not None:
        write_text(args.plot, scatter(courses))


if __name__ == "__main__":
    run(main)
