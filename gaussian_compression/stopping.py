# SPDX-License-Identifier: Apache-2.0
"""The stopping rule: when pruning ends, and which round's model is stored.

The start model was trained on the guard views. Fine-tuning without them takes this advantage over
unseen views away, the more, the longer it lasts, and this is no loss by pruning: so losses are
against what the unpruned model would have after as many iterations (unpruned_course.py). The guard
views still keep a part of the advantage, `StoppingRule.guard_memory`, and pruning takes it away: so
they lose more than unseen views, as training views do even more. The loss of unseen views is what
remains:

    unseen = guard - memory / (1 - memory) * (training - guard), where training > guard

This is a straight line through the losses of training views (memory 1) and guard views, at memory
0. docs/guard.md compares it with other predictions.
"""

from dataclasses import dataclass

from gaussian_compression.rounds import MEASURES, UNITS, Quality, Round, value_of
from gaussian_compression.settings import StoppingRule
from gaussian_compression.unpruned_course import unpruned


@dataclass(frozen=True)
class Verdict:
    """Which round's model to store, and why."""

    ship: int
    reason: str


def judge(rounds: list[Round], rule: StoppingRule) -> Verdict | None:
    """The stopping rule applied to the rounds so far; losses are against the unpruned model.

    The model to store is the last one that satisfied the rule. None: continue.
    """
    satisfied, broken = 0, 0
    for done in rounds[1 : rule.max_rounds + 1]:
        drop = predicted_drop(rounds[0], done, rule.guard_memory)
        if drop.keeps_to(rule):
            satisfied, broken = done.number, 0
            continue
        broken += 1
        if broken == rule.patience:
            return Verdict(
                satisfied,
                f"{broken} round{'s in a row' if broken > 1 else ''} lost more than "
                f"{limits(rule)} {loss_meant(rule)}, the last one {drop}",
            )
    if len(rounds) > rule.max_rounds:
        return Verdict(satisfied, f"all {rule.max_rounds} rounds of --max_rounds are done")
    return None


@dataclass(frozen=True)
class Drop:
    """What a model lost on some views against round 0."""

    psnr: float
    """dB"""
    ssim: float
    ms_ssim: float | None = None
    """None: not measured."""

    def keeps_to(self, rule: StoppingRule) -> bool:
        """Whether all limits are kept; ValueError if one is for what was not measured."""
        return not self.beyond(limits_of(rule))

    def beyond(self, most: "Limits") -> list[str]:
        """The measures that lost more than `most`, as names in MEASURES."""
        found = []
        for measure in MEASURES:
            limit, lost = getattr(most, measure), getattr(self, measure)
            if limit is None:
                continue
            if lost is None:
                raise ValueError(f"{measure} was not measured")
            if lost > limit:
                found.append(measure)
        return found

    def measured(self) -> list[float]:
        """Its values, in the order of MEASURES."""
        return [self.psnr, self.ssim, *([] if self.ms_ssim is None else [self.ms_ssim])]

    def __str__(self) -> str:
        pairs = zip(MEASURES, self.measured(), strict=False)
        return in_words([loss_text(*pair) for pair in pairs], "and")


@dataclass(frozen=True)
class Limits:
    """The greatest losses that are allowed; None: no limit."""

    psnr: float | None
    """dB"""
    ssim: float | None
    ms_ssim: float | None


def limits_of(rule: StoppingRule) -> Limits:
    """The limits that the user gave."""
    return Limits(rule.max_psnr_drop, rule.max_ssim_drop, rule.max_ms_ssim_drop)


def loss_text(measure: str, lost: float) -> str:
    """A loss, or another value, of a name in MEASURES, for people."""
    return f"{lost:.{3 if measure == 'psnr' else 4}f} {UNITS[measure]}"


def in_words(texts: list[str], last: str) -> str:
    """A list in a sentence: `a, b and c`, where `last` is `and`."""
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def drop_of(zero: Quality, done: Quality) -> Drop:
    """What `done` lost against `zero`; ValueError for no views."""
    if zero.ssim is None or done.ssim is None:
        raise ValueError("quality was measured on no views")
    measured = zero.ms_ssim is not None and done.ms_ssim is not None
    measures = MEASURES if measured else MEASURES[:2]
    return Drop(*(value_of(zero, name) - value_of(done, name) for name in measures))


def least_quality(zero: Quality, most: Limits) -> Quality:
    """What a model has that loses as much as `most` against `zero`."""
    least = {
        measure: value_of(zero, measure) - getattr(most, measure)
        for measure in MEASURES
        if getattr(most, measure) is not None
    }
    return Quality(least.get("psnr"), least.get("ssim"), least.get("ms_ssim"))


def predicted_drop(zero: Round, done: Round, memory: float) -> Drop:
    """The loss of unseen views by the rounds up to `done`; see the module.

    ValueError if it needs training views, and a round was not measured on them.
    """
    if not memory:
        return drop_of(zero.guard, done.guard)
    guard = drop_of(unpruned(zero, done.iterations).guard, done.guard)
    training = _training_drop(zero, done)

    def unseen(on_guard: float, on_training: float) -> float:
        return on_guard - memory / (1 - memory) * max(on_training - on_guard, 0.0)

    both = zip(guard.measured(), training.measured(), strict=True)
    return Drop(*(unseen(*losses) for losses in both))


def allowed_on_guard(zero: Round, done: Round, rule: StoppingRule) -> Limits:
    """The losses on guard views, against round 0, at which the predicted ones reach the limits.

    With the training views as they are after `done`. ValueError as for `predicted_drop`.
    """
    most = limits_of(rule)
    if not rule.guard_memory:
        return most
    training = _training_drop(zero, done)
    forgotten = drop_of(zero.guard, unpruned(zero, done.iterations).guard)

    def on_guard(measure: str) -> float | None:
        limit, lost = getattr(most, measure), getattr(training, measure)
        if limit is None:
            return None
        if lost is None:
            raise ValueError(f"{measure} was not measured")
        pruned: float = limit + rule.guard_memory * max(lost - limit, 0.0)
        return pruned + float(getattr(forgotten, measure))

    return Limits(*(on_guard(measure) for measure in MEASURES))


def _training_drop(zero: Round, done: Round) -> Drop:
    course = unpruned(zero, done.iterations)
    if course.training is None or done.training is None:
        raise ValueError("a round was not measured on training views")
    return drop_of(course.training, done.training)


def limits(rule: StoppingRule) -> str:
    """The limits of the rule as text."""
    pairs = [(getattr(limits_of(rule), measure), UNITS[measure]) for measure in MEASURES]
    return in_words([f"{most:g} {unit}" for most, unit in pairs if most is not None], "or")


def loss_meant(rule: StoppingRule) -> str:
    """Which loss the limits are for, as text."""
    if rule.guard_memory:
        return "on unseen views, as predicted from guard and training views"
    return "on the guard views"


def round_line(rounds: list[Round], start_count: int, rule: StoppingRule) -> str:
    """The figures of the last of `rounds` as text; `start_count`: Gaussians of the start model."""
    done, zero = rounds[-1], rounds[0].guard.psnr
    line = (
        f"round {done.number}: {done.gaussians:,} Gaussians "
        f"({100 * done.gaussians / start_count:.1f} %)"
    )
    if done.guard.psnr is not None and zero is not None:
        line += f", guard {done.guard.psnr:.3f} dB ({done.guard.psnr - zero:+.3f})"
        if done.number and rule.guard_memory and done.training and rounds[0].training:
            drop = predicted_drop(rounds[0], done, rule.guard_memory)
            line += f", unseen views {-drop.psnr:+.3f} dB by prediction"
    return f"{line}, {done.wall_seconds:.0f} s"
