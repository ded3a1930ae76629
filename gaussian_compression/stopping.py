# SPDX-License-Identifier: Apache-2.0
"""The stopping rule: when pruning ends, and which round's model is stored."""

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
        drop = drop_of(rounds[0].guard, done.guard)
        if drop.keeps_to(rule):
            satisfied, broken = done.number, 0
            continue
        broken += 1
        if broken == rule.patience:
            return Verdict(
                satisfied,
                f"{broken} round{'s in a row' if broken > 1 else ''} lost more than "
                f"{limits(rule)} on the guard views, the last one {drop}",
            )
    if len(rounds) > rule.max_rounds:
        return Verdict(satisfied, f"all {rule.max_rounds} rounds of --max_rounds are done")
    return None


@dataclass(frozen=True)
class Drop:
    """What a model lost on the guard views against round 0."""

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


def limits(rule: StoppingRule) -> str:
    """The limits of the rule as text."""
    if rule.max_ssim_drop is None:
        return f"{rule.max_psnr_drop:g} dB"
    return f"{rule.max_psnr_drop:g} dB or {rule.max_ssim_drop:g} in SSIM"
