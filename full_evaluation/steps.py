# SPDX-License-Identifier: Apache-2.0
"""The scripts as programs, and which of their results are there already.

Each model folder has full_eval.json: which steps are done, with which options.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from full_evaluation.scenes import BenchmarkScene
from gaussian_compression.report import read_report, report_path
from utils.errors import InputError
from utils.files import write_json
from utils.json_values import MOST, from_json, read_json
from utils.model_files import last_checkpoint, model_file
from utils.programs import run_program

ROOT = Path(__file__).parents[1]
RECORD = "full_eval.json"
EARLY_ITERATION = 7_000
"""That train.py saves by default, beside the last one."""

_TRAIN = ("--disable_viewer", "--quiet", "--eval", "--test_iterations", "-1")


@dataclass(frozen=True)
class EvaluationOptions:
    """What all scenes have in common."""

    iterations: int = 30_000
    train: tuple[str, ...] = ()
    """More options of train.py."""
    render: tuple[str, ...] = ()
    """More options of render.py."""
    compress: tuple[str, ...] = ()
    """Options of compress.py."""

    def rendered(self) -> list[int]:
        """The trained iterations to render."""
        return sorted({min(EARLY_ITERATION, self.iterations), self.iterations})


@dataclass
class Step:
    """One script's work on a scene."""

    options: tuple[str, ...] = ()
    minutes: float = 0.0
    """Of all tries together."""
    done: bool = False


@dataclass
class Record:
    """The content of full_eval.json."""

    train: Step | None = None
    compress: Step | None = None
    rendered: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Iteration -> size and time of the PLY, and options: those that the images are of."""


def read_record(model: Path) -> Record:
    """The record of a model folder; an empty one where there is none."""
    path = model / RECORD
    try:
        found = from_json(Record, read_json(path))
        for step in (found.train, found.compress):
            if step is not None and (step.minutes is None or not step.minutes >= 0):
                raise ValueError(f"{step.minutes} minutes")
        return found
    except FileNotFoundError:
        return Record()
    except (ValueError, InputError) as error:
        raise InputError(f"{path}: expected a record of full_eval.py, got {error}") from error


def write_record(model: Path, record: Record) -> None:
    """Puts the record into the model folder."""
    write_json(model / RECORD, asdict(record))


def run_script(script: str, *arguments: str | Path) -> None:
    """Runs a script of this project to its end (see run_program). InputError if it fails."""
    status = run_program([sys.executable, str(ROOT / script), *map(str, arguments)])
    if status:
        raise InputError(f"{script} ended with status {status}; its message is above")


def train(scene: BenchmarkScene, options: EvaluationOptions) -> bool:
    """Trains the scene, or goes on from its last checkpoint; False if it was trained before.

    InputError if that was with other options.
    """
    model, record = scene.model, read_record(scene.model)
    given = ("--iterations", str(options.iterations), *options.train)
    wanted = ("-i", scene.images, *_TRAIN, *given)
    step = record.train
    if step is not None and step.options != wanted:
        raise InputError(
            f"{model} was trained with {' '.join(step.options)}, not with {' '.join(wanted)}: give "
            "another --output_path, or remove it"
        )
    if model_file(model, options.iterations).is_file() and (step is None or step.done):
        return False
    step = record.train = step or Step(wanted)
    resumed = last_checkpoint(model, options.iterations)
    _timed(
        scene, record, step, "train.py", *("-s", scene.source or "", "-m", model, *wanted),
        *(() if resumed is None else ("--start_checkpoint", resumed)),
    )  # fmt: skip
    return True


def compress(scene: BenchmarkScene, options: EvaluationOptions) -> bool:
    """Compresses the trained model; False if that is done."""
    model, record = scene.model, read_record(scene.model)
    wanted, step = options.compress, record.compress
    if step is not None and step.options != wanted:
        step = None  # compress.py replaces what it wrote
    if step is not None and step.done and compressed_iteration(model) is not None:
        return False
    step = record.compress = step or Step(wanted)
    _timed(scene, record, step, "compress.py", "-s", scene.source or "", "-m", model, *wanted)
    return True


def _timed(
    scene: BenchmarkScene, record: Record, step: Step, script: str, *arguments: str | Path
) -> None:
    """Runs the script, and records its time and whether it ended well."""
    began = time.monotonic()
    try:
        run_script(script, *arguments)
        step.done = True
    finally:
        step.minutes += (time.monotonic() - began) / 60
        if scene.model.is_dir():
            write_record(scene.model, record)


def render(scene: BenchmarkScene, iteration: int, options: EvaluationOptions) -> bool:
    """Renders the test views of an iteration; False if that is done."""
    model, record = scene.model, read_record(scene.model)
    ply = model_file(model, iteration)
    if not ply.is_file():
        raise InputError(f"{ply} is missing: iteration {iteration} cannot be rendered")
    stat = ply.stat()
    wanted = (stat.st_size, stat.st_mtime_ns, *options.render)
    images = model / "test" / f"ours_{iteration}" / "renders"
    if record.rendered.get(str(iteration)) == wanted and images.is_dir():
        return False
    run_script(
        *("render.py", "-s", scene.source or "", "-m", model, "--iteration", str(iteration)),
        *("--quiet", "--eval", "--skip_train", *options.render),
    )
    record.rendered[str(iteration)] = wanted
    write_record(model, record)
    return True


def is_scored(model: Path) -> bool:
    """Whether results.json has all methods in test/ and is newer than their images."""
    results, folders = model / "results.json", _methods(model)
    if not results.is_file() or not folders:
        return False
    try:
        known = read_results(model)
    except InputError:
        return False  # metrics.py writes it again
    written = results.stat().st_mtime_ns
    images = [path for folder in folders for path in (folder / "renders").glob("*")]
    return {folder.name for folder in folders} <= set(known) and all(
        path.stat().st_mtime_ns <= written for path in images
    )


def read_results(model: Path) -> dict[str, dict[str, float | None]]:
    """The scores in results.json by method, {} without the file. InputError if it is damaged."""
    path = model / "results.json"
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"{path}: expected the scores of metrics.py, got {error}") from error
    if isinstance(found, dict):
        found.pop("not_finite", None)  # earlier versions list there what they wrote as null
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise InputError(f"{path}: expected the scores of metrics.py by method")
    for method, scores in found.items():
        for name, value in scores.items():
            if not _is_score(value):
                raise InputError(
                    f"{path}: expected the scores of metrics.py, got {value!r:.40} as the {name} "
                    f"of {method}"
                )
    return found


def _is_score(value: Any) -> bool:
    """Whether it is a finite number, or None: not computed."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and abs(value) <= MOST)  # False for NaN


def has_renders(model: Path) -> bool:
    """Whether there are test images to be scored."""
    return bool(_methods(model))


def _methods(model: Path) -> Sequence[Path]:
    test = model / "test"
    return [path for path in test.iterdir() if path.is_dir()] if test.is_dir() else []


def compressed_iteration(model: Path) -> int | None:
    """The decoded iteration of a finished compression; None: there is none."""
    report = report_path(model)
    if not report.is_file():
        return None
    iteration = read_report(report).compressed.iteration
    return iteration if model_file(model, iteration).is_file() else None
