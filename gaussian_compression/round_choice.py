# SPDX-License-Identifier: Apache-2.0
"""When the rounds end, which one is stored, and which stay on disk, by rule, target and ladder."""

from collections.abc import Sequence
from pathlib import Path

from gaussian_compression.rounds import Round
from gaussian_compression.settings import StoppingRule
from gaussian_compression.size_target import rounds_near
from gaussian_compression.stopping import Verdict, judge
from gaussian_compression.targets import judge_target, passes, rounds_for
from utils.errors import InputError


def verdict_of(
    rounds: list[Round], following: int, rule: StoppingRule, ladder: Sequence[int]
) -> Verdict | None:
    """The round to store; None: another round follows.

    `following`: the number of Gaussians after one more round; `ladder`: those of the ladder's
    steps, from large to small.
    """
    if ladder and not passes(rounds, following, ladder[-1], rule):
        return None
    return judge_target(rounds, following, rule) if rule.has_target else judge(rounds, rule)


def check_measured(rounds: Sequence[Round], rule: StoppingRule, folder: Path) -> None:
    """InputError for rounds in `folder` without the figures that the rule needs."""
    needed = rule.guard_memory and not rule.has_target
    if needed and not all(done.training for done in rounds):
        raise InputError(
            f"{folder} holds rounds of an earlier version, which did not measure training views: "
            "expected these figures, which the stopping rule uses; start again with --restart"
        )
    needed = rule.max_ms_ssim_drop is not None and not rule.has_target
    if needed and any(done.guard.ms_ssim is None for done in rounds):
        raise InputError(
            f"{folder} holds rounds without MS-SSIM, which is only measured with "
            "--max_ms_ssim_drop: expected this figure; start again with --restart"
        )


def needed_rounds(rounds: list[Round], rule: StoppingRule, ladder: Sequence[int]) -> set[int]:
    """The rounds that stay on disk although they are not among the last ones."""
    counts = list(ladder)
    if rule.target_gaussians is not None:
        counts.append(rule.target_gaussians)
    needed = rounds_near(rounds, rule.target_bytes) | rounds_for(rounds, counts)
    chosen = None if rule.has_target else judge(rounds, rule)
    return needed if chosen is None else needed | {chosen.ship}
