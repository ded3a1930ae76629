# SPDX-License-Identifier: Apache-2.0
"""The published table of Fast-3DGS, measured: 13 scenes, two presets, with the differences.

    python benchmarks/paper_table.py --mipnerf360 DIR --tanksandtemples DIR --deepblending DIR

Each scene is trained for 30,000 iterations, or its model is taken from the folder of its name in
--models; it is compressed by each preset, and the test views are rendered and measured. Finished
steps are not done again. Scenes that are not there are named and skipped. OUT gets
paper_table.txt; the exit status is 1 if a scene failed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.paper_figures import COLUMNS, Measured, table_text
from full_evaluation import steps
from full_evaluation.scenes import SCENES, BenchmarkScene, all_scenes
from full_evaluation.steps import EvaluationOptions
from gaussian_compression.presets import PRESETS as ALL_PRESETS
from gaussian_compression.report import read_report, report_path
from gaussian_renderer.speed import read_figures
from scene import LATEST, find_iteration
from utils.cli import fail, os_error_text, run
from utils.errors import InputError
from utils.files import write_text
from utils.units import MEGABYTE

PRESETS = ("fast3dgs", "balanced")


def main() -> None:
    """Reads the command line, does all steps and prints the table."""
    args = build_parser().parse_args()
    scenes = present_scenes(args)
    measured: list[Measured] = []
    failed: list[str] = []
    for scene in scenes:
        try:
            measured += measure_scene(scene, args)
        except (InputError, OSError) as error:
            reason = os_error_text(error) if isinstance(error, OSError) else str(error)
            print(f"error: {scene.name}: {reason}", file=sys.stderr)
            failed.append(scene.name)
    if measured:
        text = f"{table_text(measured)}\n\nFPS: {'; '.join(devices(measured, args.out))}"
        write_text(args.out / "paper_table.txt", text + "\n")
        print(text)
    if failed:
        fail(f"{len(failed)} of {len(scenes)} scenes failed: {', '.join(failed)}")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    for name, scenes in SCENES.items():
        add(f"--{name}", type=Path, metavar="DIR", help=f"has the scenes {', '.join(scenes)}")
    add("--models", type=Path, metavar="DIR", help="trained models in folders of the scenes' names")
    add("--out", type=Path, default=Path("paper_table"), help="default: ./paper_table")
    add("--presets", nargs="+", default=PRESETS, choices=tuple(ALL_PRESETS), metavar="NAME",
        help="of compress.py")  # fmt: skip
    add("--iterations", type=int, default=30_000, help="of training (default: 30000)")
    for script in ("train", "compress"):
        add(f"--{script}_options", type=shlex.split, default=[], metavar="TEXT",
            help=f'more options of {script}.py, as in --{script}_options="-r 2"')  # fmt: skip
    return parser


def present_scenes(args: argparse.Namespace) -> list[BenchmarkScene]:
    """The scenes that are there; the others are named. InputError if there are none."""
    folders: dict[str, Path | None] = {name: vars(args)[name] for name in SCENES}
    present = []
    for scene in all_scenes(folders, args.models or args.out / "trained"):
        if scene.source is None:
            print(f"{scene.name}: --{scene.data_set} is not given, skipped")
        elif not scene.source.is_dir():
            print(f"{scene.name}: {scene.source} is not there, skipped")
        elif args.models is not None and not scene.model.is_dir():
            print(f"{scene.name}: {scene.model} is not there, skipped")
        else:
            present.append(scene)
    if not present:
        raise InputError(
            "none of the scenes is there: expected folders of their names in --mipnerf360, "
            "--tanksandtemples or --deepblending"
        )
    return present


def measure_scene(scene: BenchmarkScene, args: argparse.Namespace) -> Iterator[Measured]:
    """Trains, compresses, renders and measures one scene; its figures with each preset."""
    iteration = args.iterations
    if args.models is not None:
        iteration = find_iteration(scene.model, LATEST)
    else:
        print(f"{scene.name}: training", flush=True)
        steps.train(scene, EvaluationOptions(iteration, tuple(args.train_options)))
    ply = steps.model_file(scene.model, iteration)
    for preset in args.presets:
        print(f"{scene.name}: {preset}", flush=True)
        model = args.out / preset / scene.name
        compressed = BenchmarkScene(scene.data_set, scene.name, scene.images, scene.source, model)
        start = ("-i", scene.images, "--eval", "--start_ply", str(ply), "--preset", preset)
        steps.compress(compressed, EvaluationOptions(compress=(*start, *args.compress_options)))
        yield Measured(scene.data_set, scene.name, preset, tuple(figures_of(compressed)))


def figures_of(scene: BenchmarkScene) -> Iterator[float | None]:
    """The values of COLUMNS of a compressed model, rendered and scored if that is not done."""
    decoded = steps.compressed_iteration(scene.model)
    if decoded is None:
        raise InputError(f"{scene.model}: compress.py left no decoded model")
    steps.render(scene, decoded, EvaluationOptions())
    if not steps.is_scored(scene.model):
        steps.run_script("metrics.py", "-m", scene.model)
    method = f"ours_{decoded}"
    scores = steps.read_results(scene.model).get(method, {})
    yield from (scores.get(name) for name in COLUMNS[:3])
    report = read_report(report_path(scene.model))
    speed = read_figures(scene.model / "test" / method)
    step = steps.read_record(scene.model).compress
    yield report.compressed.gaussians
    yield None if speed is None else speed.fps
    yield report.compressed.bytes / MEGABYTE
    yield None if step is None else step.minutes


def devices(measured: Sequence[Measured], out: Path) -> list[str]:
    """What drew the views: each device once."""
    folders = [(out / one.preset / one.scene / "test").glob("ours_*") for one in measured]
    found = [read_figures(folder) for group in folders for folder in group]
    return list(dict.fromkeys(figures.device for figures in found if figures is not None))


if __name__ == "__main__":
    run(main)
