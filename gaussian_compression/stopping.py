# SPDX-License-Identifier: Apache-2.0
"""The stopping rule: when pruning ends, and which round's model is stored."""

from dataclasses import dataclass

from gaussian_compression.rounds import Round, psnr_of
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
        drop = guard_drop(rounds[0], done)
        if drop <= rule.max_psnr_drop:
            satisfied, broken = done.number, 0
            continue
        broken += 1
        if broken == rule.patience:
            return Verdict(
                satisfied,
                f"{broken} round{'s in a row' if broken > 1 else ''} lost more than "
                f"{rule.max_psnr_drop:g} dB on the guard views, the last one {drop:.3f} dB",
            )
    if len(rounds) > rule.max_rounds:
        return Verdict(satisfied, f"all {rule.max_rounds} rounds of --max_rounds are done")
    return None


def guard_drop(zero: Round, done: Round) -> float:
    """dB that `done` lost on the guard views against round 0."""
    return psnr_of(zero.guard) - psnr_of(done.guard)
