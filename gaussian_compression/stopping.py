# SPDX-License-Identifier: Apache-2.0
"""The stopping rule: when pruning ends, and which round's model is stored.

The start model was trained on the guard views. They keep a part of this advantage over unseen views
after the first fine-tuning, `StoppingRule.guard_memory`, and pruning takes it away: so they lose
more than unseen views, as training views do even more. The loss of unseen views is what remains:

    unseen = guard - memory / (1 - memory) * (training - guard), where training > guard

This is a straight line through the losses of training views (memory 1) and guard views, at memory
0. docs/guard.md compares it with other predictions.
"""

import math
from dataclasses import dataclass

from gaussian_compression.rounds import Quality, Round, psnr_of
from gaussian_compression.settings import StoppingRule


@dataclass(frozen=True)
class Verdict:
    """Which round's model to store, and why."""

    ship: int
    reason: str


def judge(rounds: list[Round], rule: StoppingRule) -> Verdict | None:
    """The stopping rule applied to the rounds so far; losses are against round 0.

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

    def keeps_to(self, rule: StoppingRule) -> bool:
        """Whether both limits are kept."""
        most_ssim = math.inf if rule.max_ssim_drop is None else rule.max_ssim_drop
        return self.psnr <= rule.max_psnr_drop and self.ssim <= most_ssim

    def __str__(self) -> str:
        return f"{self.psnr:.3f} dB and {self.ssim:.4f} in SSIM"


def drop_of(zero: Quality, done: Quality) -> Drop:
    """What `done` lost against `zero`; ValueError for no views."""
    if zero.ssim is None or done.ssim is None:
        raise ValueError("quality was measured on no views")
    return Drop(psnr_of(zero) - psnr_of(done), zero.ssim - done.ssim)


def predicted_drop(zero: Round, done: Round, memory: float) -> Drop:
    """The loss of unseen views by the rounds up to `done`; see the module.

    ValueError if it needs training views, and a round was not measured on them.
    """
    guard = drop_of(zero.guard, done.guard)
    if not memory:
        return guard
    training = _training_drop(zero, done)
    return Drop(
        _unseen(guard.psnr, training.psnr, memory), _unseen(guard.ssim, training.ssim, memory)
    )


def _unseen(guard: float, training: float, memory: float) -> float:
    return guard - memory / (1 - memory) * max(training - guard, 0.0)


def allowed_on_guard(zero: Round, done: Round, rule: StoppingRule) -> Drop:
    """The loss on guard views at which the predicted one reaches the limits, infinite without one.

    With the training views as they are after `done`. ValueError as for `predicted_drop`.
    """
    most = Drop(rule.max_psnr_drop, _or_infinite(rule.max_ssim_drop))
    if not rule.guard_memory:
        return most
    training, memory = _training_drop(zero, done), rule.guard_memory
    return Drop(
        most.psnr + memory * max(training.psnr - most.psnr, 0.0),
        most.ssim + memory * max(training.ssim - most.ssim, 0.0),
    )


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _training_drop(zero: Round, done: Round) -> Drop:
    if zero.training is None or done.training is None:
        raise ValueError("a round was not measured on training views")
    return drop_of(zero.training, done.training)


def limits(rule: StoppingRule) -> str:
    """The limits of the rule as text."""
    if rule.max_ssim_drop is None:
        return f"{rule.max_psnr_drop:g} dB"
    return f"{rule.max_psnr_drop:g} dB or {rule.max_ssim_drop:g} in SSIM"


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
