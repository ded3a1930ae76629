# SPDX-License-Identifier: Apache-2.0
"""Settings that make a run fit into a given time on this machine.

Such a choice depends on measured times. It is recorded beside the rounds, so that a run that was
interrupted continues with the same choice.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gaussian_compression.checkpoints import BUDGET_NAME
from gaussian_compression.plan import Plan
from gaussian_compression.settings import CompressionSettings
from utils.errors import InputError
from utils.files import write_json
from utils.json_values import from_json, read_json

_PART = 0.9
"""Of the time that is planned; the rest is a reserve for what is not planned."""
_FRACTIONS = (0.1, 0.15, 0.2, 0.3)
"""Parts of the Gaussians that a round removes, if less leaves too few iterations for each."""
_ENOUGH = 0.3
"""Of the iterations: with fewer, rounds become larger and fewer instead."""
_LEAST = 0.01
_BISECTIONS = 20

PlanOf = Callable[[CompressionSettings], Plan]


def settings_within(
    settings: CompressionSettings, seconds: float, plan_of: PlanOf
) -> CompressionSettings:
    """The settings with fewer iterations and rounds, so that the plan takes at most `seconds`.

    Iterations are at most those of `settings`. InputError if even the shortest run takes longer.
    """
    least = settings.trajectory.prune_fraction
    fractions = [least, *(fraction for fraction in _FRACTIONS if fraction > least)]
    for fraction in fractions:
        fitting = _longest_within(settings, fraction, _PART * seconds, plan_of)
        if fitting is not None and (fitting[0] >= _ENOUGH or fraction == fractions[-1]):
            return fitting[1]
    shortest = plan_of(_scaled(settings, fractions[-1], _LEAST, plan_of)).seconds() / _PART
    raise InputError(
        f"--budget_minutes {settings.budget_minutes:g}: {max(seconds, 0):.2g} s are left after "
        f"loading the scene, expected at least {shortest:.2g} s on this machine for this model"
    )


def _longest_within(
    settings: CompressionSettings, fraction: float, seconds: float, plan_of: PlanOf
) -> tuple[float, CompressionSettings] | None:
    """The greatest factor of the iterations that fits, with its settings."""

    def fits(factor: float) -> bool:
        return plan_of(_scaled(settings, fraction, factor, plan_of)).seconds() <= seconds

    if fits(1.0):
        return 1.0, _scaled(settings, fraction, 1.0, plan_of)
    if not fits(_LEAST):
        return None
    low, high = _LEAST, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, _scaled(settings, fraction, low, plan_of)


def _scaled(
    settings: CompressionSettings, fraction: float, factor: float, plan_of: PlanOf
) -> CompressionSettings:
    trajectory, stopping = settings.trajectory, settings.stopping
    trajectory = replace(
        trajectory,
        prune_fraction=fraction,
        warmup_iterations=int(factor * trajectory.warmup_iterations),
        finetune_iterations=int(factor * trajectory.finetune_iterations),
    )
    final = int(factor * settings.final_iterations)
    scaled = replace(settings, trajectory=trajectory, final_iterations=final)
    if stopping.has_target:
        return scaled
    return replace(scaled, stopping=replace(stopping, max_rounds=plan_of(scaled).rounds))


def chosen_settings(
    settings: CompressionSettings, rounds_folder: Path, seconds: float, plan_of: PlanOf
) -> CompressionSettings:
    """The recorded choice if there is one for these settings, else a new one, which is recorded."""
    path, given = rounds_folder / BUDGET_NAME, json.loads(json.dumps(settings.to_json()))
    recorded = _recorded(path)
    if recorded is not None and recorded.given == given:
        return _with_choice(settings, recorded.choice)
    chosen = settings_within(settings, seconds, plan_of)
    rounds_folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(_Record(given, _choice_of(chosen))))
    return chosen


@dataclass(frozen=True)
class _Choice:
    """What a budget decides."""

    prune_fraction: float
    warmup_iterations: int
    finetune_iterations: int
    final_iterations: int
    max_rounds: int


@dataclass(frozen=True)
class _Record:
    given: dict[str, Any]
    """The settings before the choice."""
    choice: _Choice


def _recorded(path: Path) -> _Record | None:
    if not path.exists():
        return None
    try:
        return from_json(_Record, read_json(path))
    except (ValueError, InputError) as error:
        raise InputError(
            f"{path}: expected the choice of an earlier run for --budget_minutes, but cannot read "
            f"it ({error}): start again with --restart"
        ) from error


def _choice_of(settings: CompressionSettings) -> _Choice:
    trajectory = settings.trajectory
    return _Choice(
        trajectory.prune_fraction,
        trajectory.warmup_iterations,
        trajectory.finetune_iterations,
        settings.final_iterations,
        settings.stopping.max_rounds,
    )


def _with_choice(settings: CompressionSettings, choice: _Choice) -> CompressionSettings:
    trajectory = replace(
        settings.trajectory,
        prune_fraction=choice.prune_fraction,
        warmup_iterations=choice.warmup_iterations,
        finetune_iterations=choice.finetune_iterations,
    )
    stopping = replace(settings.stopping, max_rounds=choice.max_rounds)
    final = choice.final_iterations
    return replace(settings, trajectory=trajectory, stopping=stopping, final_iterations=final)


def choice_line(settings: CompressionSettings) -> str:
    """The choice in one line."""
    trajectory = settings.trajectory
    return (
        f"--budget_minutes {settings.budget_minutes:g}: {trajectory.warmup_iterations} iterations "
        f"of fine-tuning, at most {settings.stopping.max_rounds} rounds of "
        f"{trajectory.finetune_iterations} that remove {100 * trajectory.prune_fraction:g} % each, "
        f"{settings.final_iterations} at the end"
    )
