# SPDX-License-Identifier: Apache-2.0
"""Runs compress.py for the points of rate-distortion curves, and makes rows of its reports."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.curve_rows import Key, Row
from benchmarks.curve_scenes import ROOT, CurveScene, Run, copy_model
from gaussian_compression.report import CompressionReport, read_report, report_path
from gaussian_compression.rounds import Round, StageTime
from utils.errors import InputError

ROUNDS_STAGE = "rounds"
"""The stage in the report whose time, of a run that continued, lacks the rounds done before."""


@dataclass(frozen=True)
class Variant:
    """A way to compress: a preset and flags of compress.py."""

    name: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One file of a curve, by the flags of compress.py that lead to it."""

    name: str
    flags: tuple[str, ...]
    rounds: int | None = None
    """If it is the file after exactly this number of rounds."""


def after_rounds(number: int) -> Point:
    """The file after exactly this number of rounds."""
    flags = ("--max_psnr_drop", "100", "--max_rounds", str(number))
    return Point(f"rounds={number}", flags, number)


RULE = Point("rule", ())
"""The file that the stopping rule chooses, as users get it."""


@dataclass(frozen=True)
class Task:
    """One file to make."""

    scene: CurveScene
    variant: Variant
    seed: int
    point: Point

    @property
    def key(self) -> Key:
        """That of its row."""
        return self.scene.name, self.variant.name, self.seed, self.point.name

    @property
    def flags(self) -> tuple[str, ...]:
        """Of compress.py, without data set, model and seed."""
        return (*self.variant.flags, *self.point.flags)

    @property
    def label(self) -> str:
        """For messages and names of files."""
        return "_".join((self.scene.name, self.variant.name, f"seed{self.seed}"))


def plan(
    scenes: Sequence[CurveScene],
    variants: Sequence[Variant],
    seeds: Sequence[int],
    points: Sequence[Point],
) -> list[Task]:
    """All tasks, each curve in one piece, with numbers of rounds rising.

    The rule comes first: its run does the rounds that the next ones continue from.
    """
    ordered = sorted(points, key=lambda point: (point != RULE, point.rounds or 0))
    return [
        Task(scene, variant, seed, point)
        for scene in scenes
        for variant in variants
        for seed in seeds
        for point in ordered
    ]


def missing_tasks(tasks: Sequence[Task], rows: Mapping[Key, Row]) -> list[Task]:
    """The tasks without a row. InputError if a row with the same names has other flags."""
    for task in tasks:
        row = rows.get(task.key)
        if row is not None and row.flags != shlex.join(task.flags):
            raise InputError(
                f"variant {task.variant.name}, point {task.point.name}: the table has them with "
                f"the flags {row.flags!r}, got {shlex.join(task.flags)!r}: choose another name"
            )
    return [task for task in tasks if task.key not in rows]


def run_command(command: Sequence[str], log: Path) -> str:
    """Runs it with all output in the log file; returns its standard output. See Run."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        end = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=ROOT, check=False
        )
        file.write(end.stdout)
    if end.returncode:
        text = log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in re.split(r"[\r\n]+", text) if line.startswith("error")]
        reason = lines[-1] if lines else f"exit status {end.returncode}"
        raise InputError(f"{Path(command[1]).name}: {reason} (messages: {log})")
    return end.stdout


@dataclass(frozen=True)
class Workshop:
    """Where curves are measured, and with what."""

    work: Path
    run: Run
    machine: str
    separate: bool = False
    """Every file by a run of its own, from the start."""

    def folder(self, task: Task, commit: str) -> Path:
        """The copy of the model in which the task is done.

        Tasks of one curve share the rounds, so that each round is done once: compress.py continues
        from them. A point that may change the rounds has its own copy; so has the rule if others
        have begun, because its times are those of all rounds found. Rounds made by other code are
        not continued.
        """
        shared = self.work / "runs" / f"{task.label}_{commit}"
        alone = shared.with_name(f"{shared.name}_{task.point.name}")
        if self.separate or (task.point.rounds is None and task.point != RULE):
            return alone
        if task.point == RULE and shared.exists() and not (shared / BEGUN_BY_RULE).exists():
            return alone
        return shared

    def do(self, task: Task) -> Row:
        """Makes the file, measures it, and returns its row."""
        commit = current_commit()
        folder = self.folder(task, commit)
        if not folder.exists():
            copy_model(task.scene, folder)
            if task.point == RULE:
                (folder / BEGUN_BY_RULE).touch()
        loading = (*task.scene.loading, "-m", str(folder))
        log = self.work / "logs" / f"{task.label}.log"
        flags = (*task.flags, "--seed", str(task.seed), "--keep_rounds")
        self.run((sys.executable, str(ROOT / "compress.py"), *loading, *flags), log)
        measure = (sys.executable, str(ROOT / "benchmarks" / "view_measures.py"), *loading)
        measures = json.loads(self.run(measure, log).strip().splitlines()[-1])
        report = read_report(report_path(folder))
        return row_of(task, report, measures, commit, self.machine)


BEGUN_BY_RULE = ".begun_by_rule"


def row_of(
    task: Task, report: CompressionReport, measures: Mapping[str, Any], commit: str, machine: str
) -> Row:
    """The row of a compression; `measures`: see view_measures.py."""
    start, after, rounds = report.start, report.compressed, report.rounds
    shipped = report.stopping.shipped_round if report.stopping else None
    done = [one for one in rounds if task.point.rounds is None or one.number <= task.point.rounds]
    times: list[Round | StageTime] = [
        *done,
        *(stage for stage in report.stages if stage.stage != ROUNDS_STAGE),
    ]
    before_final = rounds[shipped] if shipped is not None else None
    return Row(
        scene=task.scene.name,
        variant=task.variant.name,
        seed=task.seed,
        point=task.point.name,
        flags=shlex.join(task.flags),
        commit=commit,
        machine=machine,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        start_bytes=start.bytes,
        start_gaussians=start.gaussians,
        start_guard_psnr=start.guard.psnr,
        start_guard_ssim=start.guard.ssim,
        start_test_psnr=start.test.psnr,
        start_test_ssim=start.test.ssim,
        bytes=after.bytes,
        gaussians=after.gaussians,
        round=shipped,
        iterations=done[-1].iterations + int(report.settings["final_iterations"]),
        unpruned_guard_psnr=rounds[0].guard.psnr,
        round_guard_psnr=before_final.guard.psnr if before_final else None,
        guard_psnr=after.guard.psnr,
        guard_ssim=after.guard.ssim,
        guard_ms_ssim=measures["guard"]["MS-SSIM"],
        guard_flip=measures["guard"]["FLIP"],
        test_psnr=after.test.psnr,
        test_ssim=after.test.ssim,
        test_ms_ssim=measures["test"]["MS-SSIM"],
        test_flip=measures["test"]["FLIP"],
        cpu_seconds=round(sum(part.cpu_seconds for part in times), 1),
        wall_seconds=round(sum(part.wall_seconds for part in times), 1),
    )


def current_commit() -> str:
    """The commit of this working tree, with `+changes` if code in it differs."""
    commit = _git("rev-parse", "--short=10", "HEAD").strip()
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!*.md")
    return f"{commit}+changes" if changed.strip() else commit


def _git(*arguments: str) -> str:
    end = subprocess.run(
        ("git", "-C", str(ROOT), *arguments), capture_output=True, text=True, check=False
    )
    if end.returncode:
        raise InputError(f"git {arguments[0]}: {end.stderr.strip()}: rows need the commit")
    return end.stdout
