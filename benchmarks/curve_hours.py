# SPDX-License-Identifier: Apache-2.0
"""How long the files that rate_distortion.py has to make will take."""

import shutil
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import compress
from benchmarks.curve_rows import Row
from benchmarks.curve_runs import RULE, Task, Variant, Workshop
from benchmarks.curve_scenes import ROOT, CurveScene, copy_model
from gaussian_compression.report import read_report, report_path
from gaussian_compression.settings import CompressionSettings, check_settings

ASSUMED_ROUNDS = 16
"""Of a run that the stopping rule ends."""
TIMED_ITERATIONS = 60


@dataclass(frozen=True)
class Pace:
    """Seconds for each iteration of fine-tuning, with everything else that a run does."""

    cpu: float
    wall: float


def settings_of(flags: Sequence[str]) -> CompressionSettings:
    """The settings that these flags of compress.py mean; ends the program where one is unknown."""
    parser, *_ = compress.build_parser()
    settings = compress.settings_of(parser.parse_args(list(flags)))
    check_settings(settings)
    return settings


def iterations_to_do(tasks: Sequence[Task], separate: bool) -> int:
    """Iterations of fine-tuning for the tasks of one curve."""
    total, shared = 0, 0
    for task in tasks:
        settings = settings_of(task.flags)
        rounds = min(settings.stopping.max_rounds, task.point.rounds or ASSUMED_ROUNDS)
        trajectory = settings.trajectory
        before = trajectory.warmup_iterations + rounds * trajectory.finetune_iterations
        if separate or (task.point.rounds is None and task.point != RULE):
            total += before
        else:
            shared = max(shared, before)
        total += settings.final_iterations
    return total + shared


def pace_of_rows(rows: Iterable[Row], scene: str, variant: str) -> Pace | None:
    """The pace of the variant's rows on this scene, or else of all rows on it; None without any."""
    of_scene = [row for row in rows if row.scene == scene]
    chosen = [row for row in of_scene if row.variant == variant] or of_scene
    if not chosen:
        return None
    return Pace(
        statistics.median(row.cpu_seconds / row.iterations for row in chosen),
        statistics.median(row.wall_seconds / row.iterations for row in chosen),
    )


def timed_pace(scene: CurveScene, variant: Variant, shop: Workshop) -> Pace:
    """The pace of a short run on this scene."""
    folder = shop.work / "runs" / f"timed_{scene.name}"
    if folder.exists():
        shutil.rmtree(folder)
    copy_model(scene, folder)
    short = ("--max_rounds", "0", "--warmup_iterations", str(TIMED_ITERATIONS))
    flags = (*scene.loading, "-m", str(folder), *variant.flags, *short, "--final_iterations", "1")
    log = shop.work / "logs" / f"timed_{scene.name}.log"
    shop.run((sys.executable, str(ROOT / "compress.py"), *flags), log)
    done = read_report(report_path(folder)).rounds[0]
    shutil.rmtree(folder)
    return Pace(done.cpu_seconds / done.iterations, done.wall_seconds / done.iterations)


def announcement(tasks: Sequence[Task], rows: Sequence[Row], shop: Workshop) -> str:
    """How many files, and about how many hours; runs compress.py for a short time if needed."""
    cpu = wall = 0.0
    timed: dict[str, Pace] = {}
    curves = 0
    for _, curve in groupby(tasks, key=lambda task: task.label):
        group = list(curve)
        scene, variant = group[0].scene, group[0].variant
        pace = pace_of_rows(rows, scene.name, variant.name) or timed.get(scene.name)
        if pace is None:
            pace = timed[scene.name] = timed_pace(scene, variant, shop)
        iterations = iterations_to_do(group, shop.separate)
        cpu, wall, curves = cpu + iterations * pace.cpu, wall + iterations * pace.wall, curves + 1
    return (
        f"{len(tasks)} files on {curves} curves: about {hours(cpu)} of CPU time, and "
        f"{hours(wall)} on a machine as busy as when it was timed"
    )


def hours(seconds: float) -> str:
    """As text, in minutes where these are few."""
    if seconds < 90:
        return "a minute or less"
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
