# SPDX-License-Identifier: Apache-2.0
"""What a run will do and about how long it takes: the work of its stages, from measured times.

How many rounds the stopping rule allows is only known at the end. Until then, the rounds that lead
to a usual share of the Gaussians are planned.
"""

from dataclasses import dataclass

from gaussian_compression.ladder import step_count
from gaussian_compression.prune import count_after_round
from gaussian_compression.scores import SCORES
from gaussian_compression.settings import CompressionSettings
from gaussian_compression.validation_split import SAMPLE_EVERY

_USUAL_SHARE = 0.5
"""Of the Gaussians that the rule keeps, between 0.42 and 0.86 in docs/results.md."""
_BUDGET_SHARE = 0.2
"""With a limited time, rounds that lead further are not planned."""
_USUAL_BYTES = {True: 12.0, False: 40.0}
"""Per Gaussian, in a file with grids and in one of version 1 (docs/results.md)."""
_VIEW_PASSES = 3
"""Over the training views, for the grids of a file: sensitivities, and the effect of rounding."""
_MEASURING = 0.5
"""The time of measuring a view, as a part of that of an iteration."""


@dataclass(frozen=True)
class Costs:
    """The seconds of one iteration, by the number of Gaussians."""

    fixed: float
    per_gaussian: float

    def iteration(self, gaussians: int) -> float:
        """Seconds."""
        return self.fixed + self.per_gaussian * gaussians


@dataclass(frozen=True)
class ViewCounts:
    """The numbers of views."""

    training: int
    """Without the guard views."""
    guard: int
    test: int

    @property
    def in_rounds(self) -> int:
        """The number of views that a round is measured on."""
        return self.guard + len(range(0, self.training, SAMPLE_EVERY))


@dataclass(frozen=True)
class Plan:
    """The stages of a run."""

    settings: CompressionSettings
    counts: tuple[int, ...]
    """Gaussians after each round; the first is round 0."""
    views: ViewCounts
    costs: Costs
    ladder: tuple[int, ...] = ()
    """Gaussians of each step of the ladder."""

    @property
    def rounds(self) -> int:
        """Without round 0."""
        return len(self.counts) - 1

    def seconds(self) -> float:
        """Of the whole run."""
        return self.seconds_after(-1)

    def seconds_after(self, number: int) -> float:
        """What is left when this round is finished; -1: when none is."""
        rounds = sum(self.round_seconds(k) for k in range(number + 1, len(self.counts)))
        return rounds + self._last_seconds()

    def round_seconds(self, number: int) -> float:
        """One round, 0 for the unpruned one, with its measurements."""
        trajectory, views, count = self.settings.trajectory, self.views, self.counts[number]
        steps = trajectory.finetune_iterations if number else trajectory.warmup_iterations
        scores = self._score_passes if number else 0
        return self.costs.iteration(count) * (steps + scores + _MEASURING * views.in_rounds)

    @property
    def _score_passes(self) -> int:
        return SCORES[self.settings.trajectory.score].passes * self.views.training

    def _last_seconds(self) -> float:
        round_steps = self.settings.trajectory.finetune_iterations + self._score_passes
        ladder = sum(self._file_seconds(n) + round_steps * self.costs.iteration(n)
                     for n in self.ladder)  # fmt: skip
        return self._file_seconds(self.counts[-1]) + ladder

    def _file_seconds(self, count: int) -> float:
        """The final fine-tuning of a model of `count` Gaussians."""
        measured = 2 * _MEASURING * (self.views.guard + self.views.test)
        steps = self.settings.final_iterations + _VIEW_PASSES * self.views.training + measured
        return steps * self.costs.iteration(count)


def plan_of(settings: CompressionSettings, start: int, views: ViewCounts, costs: Costs) -> Plan:
    """The plan for a start model of `start` Gaussians."""
    ladder = tuple(step_count(part, start) for part in settings.ladder)
    least = min((planned_count(settings, start), *ladder))
    return Plan(settings, counts_down_to(least, start, settings), views, costs, ladder)


def planned_count(settings: CompressionSettings, start: int) -> int:
    """About how many Gaussians the rounds leave."""
    rule = settings.stopping
    if rule.target_gaussians is not None:
        return rule.target_gaussians
    if rule.target_bytes is not None:
        return round(rule.target_bytes / _USUAL_BYTES[settings.grids is not None])
    return round((_USUAL_SHARE if settings.budget_minutes is None else _BUDGET_SHARE) * start)


def counts_down_to(least: int, start: int, settings: CompressionSettings) -> tuple[int, ...]:
    """The numbers of Gaussians of the rounds, from `start` to the first with at most `least`."""
    counts = [start]
    while counts[-1] > least and len(counts) <= settings.stopping.max_rounds:
        fraction = settings.trajectory.prune_fraction
        following = count_after_round(counts[-1], fraction)
        if following == counts[-1]:
            break
        counts.append(following)
    return tuple(counts)


def plan_lines(plan: Plan) -> tuple[str, str]:
    """What the run will do, and how long it takes, in one line each."""
    trajectory, views = plan.settings.trajectory, plan.views
    rate = 1 / plan.costs.iteration(plan.counts[0])
    work = (
        f"{plan.counts[0]:,} Gaussians; {views.training} training views, {views.guard} guard views "
        f"and {views.test} test views; {trajectory.warmup_iterations} iterations of fine-tuning, "
        f"{_rounds_text(plan)} of {trajectory.finetune_iterations}, and "
        f"{plan.settings.final_iterations} at the end"
    )
    if plan.ladder:
        work += f"; the same for each of {len(plan.ladder)} files of the ladder"
    return work, f"this takes about {duration(plan.seconds())} ({rate:.3g} iterations per second)"


def _rounds_text(plan: Plan) -> str:
    rule, number = plan.settings.stopping, plan.rounds
    rounds = f"about {number} round{'' if number == 1 else 's'}"
    if rule.target_gaussians is not None:
        return f"{rounds}, down to {rule.target_gaussians:,} Gaussians,"
    if rule.target_mb is not None:
        return f"{rounds}, down to a file of {rule.target_mb:g} MB,"
    if rule.max_rounds <= number:
        return rounds.removeprefix("about ")
    views = "guard and training views" if rule.guard_memory else "the guard views"
    return f"{rounds}, at most {rule.max_rounds}, by the loss on {views},"


def duration(seconds: float) -> str:
    """A time as text, in a unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class TimeLeft:
    """The time left after each round, corrected by how long the rounds really took."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._planned, self._taken = plan, 0.0, 0.0

    def after(self, number: int, seconds: float) -> float:
        """Seconds left after round `number`, which took `seconds`."""
        known = min(number, self._plan.rounds)
        self._planned += self._plan.round_seconds(known)
        self._taken += seconds
        correction = self._taken / self._planned if self._planned else 1.0
        return self._plan.seconds_after(known) * correction
