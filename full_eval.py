# SPDX-License-Identifier: Apache-2.0
"""Train, render and measure the scenes of Mip-NeRF 360, Tanks and Temples and Deep Blending.

    python full_eval.py -m360 DIR -tat DIR -db DIR [--output_path eval] [--compress]

Each scene's model goes to a folder of its name in the output folder. What an earlier run finished
is not done again; scenes that are not there are named and skipped.
"""

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from full_evaluation.scenes import SCENES, BenchmarkScene, all_scenes
from full_evaluation.steps import (
    EvaluationOptions,
    compress,
    compressed_iteration,
    has_renders,
    is_scored,
    read_record,
    render,
    run_script,
    train,
)
from full_evaluation.table import Line, lines_of, table_text, with_means
from utils.cli import fail, os_error_text, run
from utils.errors import InputError
from utils.files import write_text

# Of train.py with --use_expcomp: the settings of the published evaluation.
_EXPOSURE = (
    *("--exposure_lr_init", "0.001", "--exposure_lr_final", "0.0001"),
    *("--exposure_lr_delay_steps", "5000", "--exposure_lr_delay_mult", "0.001"),
    "--train_test_exp",
)


class Failures:
    """The scenes with a failed step: reported at once, left out from then on, listed at the end."""

    def __init__(self) -> None:
        self.scenes: list[str] = []

    def attempt(
        self,
        scenes: Sequence[BenchmarkScene],
        what: str,
        step: Callable[[BenchmarkScene], bool],
    ) -> None:
        """Does the step for all scenes without a failure. `step` is False if it was done before."""
        for scene in scenes:
            if scene.name in self.scenes:
                continue
            print(f"{scene.name}: {what}", flush=True)
            try:
                if not step(scene):
                    print(f"{scene.name}: {what}: done before, skipped", flush=True)
            except (InputError, OSError) as error:
                self.note(scene, os_error_text(error) if isinstance(error, OSError) else str(error))

    def note(self, scene: BenchmarkScene, reason: str) -> None:
        """Records a failure and prints its reason."""
        print(f"error: {scene.name}: {reason}", file=sys.stderr)
        self.scenes.append(scene.name)


def main() -> None:
    """Reads the command line, does all steps and prints the table."""
    args = build_parser().parse_args()
    options = options_of(args)
    scenes = chosen_scenes(args)
    failures = Failures()
    if not args.skip_training:
        failures.attempt(scenes, "training", lambda scene: train(scene, options))
        write_timing(args.output_path, scenes)
    if args.compress:
        failures.attempt(scenes, "compressing", lambda scene: compress(scene, options))
    if not args.skip_rendering:
        failures.attempt(scenes, "rendering", lambda scene: render_all(scene, options))
    if not args.skip_metrics:
        measure(scenes, failures)
    lines = with_means(readable_lines(scenes, failures))
    if lines:
        print(table_text(lines))
    if failures.scenes:
        fail(f"{len(failures.scenes)} of {len(scenes)} scenes failed: {', '.join(failures.scenes)}")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    for name, short in (("mipnerf360", "m360"), ("tanksandtemples", "tat"), ("deepblending", "db")):
        add(f"--{name}", f"-{short}", type=Path, metavar="DIR",
            help=f"folder with the scenes {', '.join(SCENES[name])}")  # fmt: skip
    add("--output_path", "-o", type=Path, default=Path("eval"), help="default: ./eval")
    add("--skip_training", action="store_true", help="the models are in the output folder")
    add("--skip_rendering", action="store_true", help="the test images are there")
    add("--skip_metrics", action="store_true", help="do not score the test images")
    add("--use_depth", action="store_true", help="train.py -d depths2/")
    add("--use_expcomp", action="store_true", help="train.py and render.py --train_test_exp")
    add("--fast", action="store_true", help="train.py --optimizer_type sparse_adam")
    add("--aa", action="store_true", help="train.py and render.py --antialiasing")
    add("--compress", action="store_true", help="compress.py, and its model in the table")
    add("--iterations", type=int, default=30_000, help="of training (default: 30000)")
    add("--train_options", type=shlex.split, default=[], metavar="TEXT",
        help='more options of train.py, as in --train_options="-r 2"')  # fmt: skip
    add("--compress_options", type=shlex.split, default=[], metavar="TEXT",
        help='options of compress.py, as in --compress_options="--preset small"')  # fmt: skip
    return parser


def options_of(args: Namespace) -> EvaluationOptions:
    """What the flags mean for the scripts."""
    if args.iterations < 1:
        raise InputError(f"--iterations {args.iterations}: expected a whole number of at least 1")
    if args.compress_options and not args.compress:
        raise InputError("--compress_options: expected --compress too")
    antialiasing = ["--antialiasing"] if args.aa else []
    exposures = ["--train_test_exp"] if args.use_expcomp else []
    trained = [
        *antialiasing,
        *(["-d", "depths2/"] if args.use_depth else []),
        *(_EXPOSURE if args.use_expcomp else []),
        *(["--optimizer_type", "sparse_adam"] if args.fast else []),
    ]
    return EvaluationOptions(
        args.iterations,
        (*trained, *args.train_options),
        (*antialiasing, *exposures),
        tuple(args.compress_options),
    )


def chosen_scenes(args: Namespace) -> list[BenchmarkScene]:
    """The scenes that are there; the others are named. InputError if there are none."""
    needs_photographs = not (args.skip_training and args.skip_rendering) or args.compress
    given: dict[str, Path | None] = {name: vars(args)[name] for name in SCENES}
    if needs_photographs and not any(given.values()):
        raise InputError(
            "expected the folder of a data set: --mipnerf360, --tanksandtemples or --deepblending"
        )
    scenes = all_scenes(given, args.output_path)
    if any(given.values()):
        for name in (name for name, folder in given.items() if folder is None):
            print(f"--{name} is not given: its scenes are skipped")
        scenes = [scene for scene in scenes if scene.source is not None]
    present = []
    for scene in scenes:
        needed = scene.source if needs_photographs else scene.model
        if needed is not None and needed.is_dir():
            present.append(scene)
        else:
            print(f"{scene.name}: {needed} is not there, skipped")
    if not present:
        raise InputError("none of the scenes is there: expected folders of their names")
    return present


def readable_lines(scenes: Sequence[BenchmarkScene], failures: Failures) -> list[Line]:
    """The table's lines; a scene whose results cannot be read is a failure."""
    lines = []
    for scene in scenes:
        try:
            lines += lines_of([scene])
        except InputError as error:
            if scene.name not in failures.scenes:
                failures.note(scene, str(error))
    return lines


def write_timing(output: Path, scenes: Sequence[BenchmarkScene]) -> None:
    """timing.txt: the minutes of training of each data set, also those of earlier runs."""
    minutes = dict.fromkeys(SCENES, 0.0)
    for scene in scenes:
        try:
            step = read_record(scene.model).train
        except InputError:  # reported where the scene was to be trained
            continue
        if step is not None:
            minutes[scene.data_set] += step.minutes
    lines = [f"{name}: {value:.2f} minutes\n" for name, value in minutes.items()]
    write_text(output / "timing.txt", "".join(lines))


def render_all(scene: BenchmarkScene, options: EvaluationOptions) -> bool:
    """Renders the trained iterations, and the decoded one if there is one."""
    decoded = compressed_iteration(scene.model)
    rendered = 0
    for iteration in [*options.rendered(), *([] if decoded is None else [decoded])]:
        rendered += render(scene, iteration, options)
    return rendered > 0


def measure(scenes: Sequence[BenchmarkScene], failures: Failures) -> None:
    """One run of metrics.py for all scenes that it has not scored yet."""
    unscored = []
    for scene in scenes:
        if scene.name in failures.scenes:
            continue
        if not has_renders(scene.model):
            failures.note(scene, f"{scene.model / 'test'}: there are no rendered test images")
        elif is_scored(scene.model):
            print(f"{scene.name}: measuring: done before, skipped", flush=True)
        else:
            unscored.append(scene)
    if not unscored:
        return
    try:
        run_script("metrics.py", "-m", *(scene.model for scene in unscored))
    except InputError as error:
        for scene in unscored:
            if not is_scored(scene.model):
                failures.note(scene, str(error))


if __name__ == "__main__":
    run(main)
