# SPDX-License-Identifier: Apache-2.0
"""Rate-distortion curves of compress.py: scenes x variants x seeds, as rows of a table.

    python benchmarks/rate_distortion.py --work DIR --scenes fox --variants compact fast3dgs
    python benchmarks/rate_distortion.py --summary --plot curves.svg

The first command makes the files that the table (docs/rate_distortion.csv) lacks, and adds a row
for each; it continues after a kill. The second one reads the table. See docs/compression.md.
"""

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import curve_hours, curve_plot, curve_tables
from benchmarks.curve_rows import GUARD, TEST, append_row, latest, read_rows
from benchmarks.curve_runs import (
    RULE,
    Point,
    Task,
    Variant,
    Workshop,
    after_rounds,
    current_commit,
    missing_tasks,
    plan,
    run_command,
)
from benchmarks.curve_scenes import ROOT, VALIDATION, chosen_scenes, known_scenes, prepare
from benchmarks.models import DATA
from benchmarks.timing import describe_machine
from utils.cli import fail, run
from utils.errors import InputError
from utils.files import write_text
from utils.folder_lock import locked

TABLE = ROOT / "docs" / "rate_distortion.csv"
ROUNDS = (0, 6, 12, 18, 24, 30, 36)
"""Of the default curve: with 5 % a round, 100, 74, 54, 40, 29, 21 and 16 % of the Gaussians."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@%-]*")


def main() -> None:
    args = build_parser().parse_args()
    if args.summary or args.plot:
        summarise(args)
        return
    if args.work is None:
        raise InputError("--work DIR is required: the folder for copies of models, and for logs")
    shop = Workshop(args.work.resolve(), run_command, describe_machine(), args.separate_runs)
    with locked(shop.work):
        measure(args, shop)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--csv", type=Path, default=TABLE, help="the table (default: docs/rate_distortion.csv)")
    runs = parser.add_argument_group("Measuring")
    add = runs.add_argument
    add("--work", type=Path, help="folder for copies of models, unfinished runs and logs")
    add("--data", type=Path, default=DATA, help="folder with the data sets and their models")
    add("--lego_model", type=Path, help="a trained model of the scene lego")
    add("--scenes", nargs="+", default=["fox"], help="snowmiku, fox, lego, sample; with "
        "-validation after the name, without the test views, to choose settings")  # fmt: skip
    add("--resolution", type=int, help="-r of compress.py; the scene is then called NAME-rN")
    add("--variants", nargs="+", default=["compact"], metavar="VARIANT", help="a preset, or "
        "NAME=FLAGS with flags of compress.py: slow='--prune_fraction 0.02'")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=[0, 1])
    add("--rounds", nargs="*", type=int, default=list(ROUNDS), metavar="N",
        help="files after exactly N rounds")  # fmt: skip
    add("--rule", action="store_true", help="the file that the stopping rule chooses, too")
    add("--points", nargs="+", default=[], metavar="NAME=FLAGS", help="files by other flags")
    add("--separate_runs", action="store_true", help="do not share rounds between files")
    add("--of_this_commit", action="store_true", help="rows of other commits do not count")
    add("--keep_models", action="store_true", help="keep the model folders of finished curves")
    add("--dry_run", action="store_true", help="only state what is to do and how long it takes")
    tables = parser.add_argument_group("Reading the table")
    add = tables.add_argument
    add("--summary", action="store_true", help="print Markdown tables")
    add("--plot", type=Path, metavar="OUT.svg", help="draw the curves")
    add("--measure", choices=tuple(curve_tables.MEASURES), default="psnr", help="of the plot")
    add("--reference", default="fast3dgs", help="the variant that rates are compared with")
    add("--no_loss", default=None, metavar="VARIANT", help="losses are counted from the best file "
        "of this variant, or from the start model (start). Default: start, but the reference on "
        "guard views, on which the start model was trained")  # fmt: skip
    add("--only", nargs="+", metavar="VARIANT", help="only these variants and the reference")
    add("--test_views", action="store_true", help="read the test views: once, at the end")
    return parser


def measure(args: argparse.Namespace, shop: Workshop) -> None:
    """Makes the files that the table lacks, and adds their rows."""
    known = known_scenes(
        args.data.resolve(), shop.work, args.lego_model and args.lego_model.resolve()
    )
    scenes = chosen_scenes(known, args.scenes, args.resolution)
    variants = [variant_of(text) for text in args.variants]
    points = [*map(after_rounds, dict.fromkeys(args.rounds)), *([RULE] if args.rule else []),
              *map(point_of, args.points)]  # fmt: skip
    _distinct("variants", [variant.name for variant in variants])
    _distinct("points", [point.name for point in points])
    tasks = plan(scenes, variants, list(dict.fromkeys(args.seeds)), points)
    for task in tasks:
        curve_hours.settings_of(task.flags)
    rows = latest(read_rows(args.csv))
    if args.of_this_commit:
        rows = [row for row in rows if row.commit == current_commit()]
    todo = missing_tasks(tasks, {row.key: row for row in rows})
    print(f"{len(tasks) - len(todo)} of {len(tasks)} files are in {args.csv}")
    if not todo:
        return
    for scene in dict.fromkeys(task.scene for task in todo):
        prepare(scene, shop.work, shop.run)
    print(f"To do: {curve_hours.announcement(todo, rows, shop)}", flush=True)
    if not args.dry_run:
        do_all(todo, args.csv, shop, keep_models=args.keep_models)


def do_all(todo: Sequence[Task], table: Path, shop: Workshop, *, keep_models: bool) -> None:
    """Does the tasks; one that fails ends its curve only, and the program with status 1."""
    failed: dict[str, str] = {}
    for number, task in enumerate(todo):
        if task.label in failed:
            continue
        try:
            row = shop.do(task)
        except InputError as error:
            failed[task.label] = str(error)
            print(f"[{number + 1}/{len(todo)}] {task.label} {task.point.name}: {error}", flush=True)
            continue
        append_row(table, row)
        guard = "" if row.guard_psnr is None else f", guard views {row.guard_psnr:.3f} dB"
        print(f"[{number + 1}/{len(todo)}] {task.label} {task.point.name}: {row.bytes:,} bytes, "
              f"{row.gaussians:,} Gaussians{guard}, {row.cpu_seconds / 60:.1f} CPU minutes",
              flush=True)  # fmt: skip
        later = [other for other in todo[number + 1 :] if other.label == task.label]
        if not later and not keep_models:
            for folder in (shop.work / "runs").glob(f"{task.label}_*"):
                shutil.rmtree(folder)
    if failed:
        fail(f"{len(failed)} curves are not complete: {'; '.join(failed)}")


def variant_of(text: str) -> Variant:
    """A preset, or a name with flags."""
    name, equals, flags = text.partition("=")
    words = shlex.split(flags) if equals else ["--preset", name]
    return Variant(_checked_name(name, text), tuple(words))


def point_of(text: str) -> Point:
    """A name with flags."""
    name, _, flags = text.partition("=")
    return Point(_checked_name(name, text), tuple(shlex.split(flags)))


def _checked_name(name: str, text: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"expected NAME=FLAGS with a name of letters, digits and . _ @ % -, got {text!r}"
        )
    return name


def _distinct(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"expected different names of {kind}, got {name} several times")


def summarise(args: argparse.Namespace) -> None:
    """Prints the tables and draws the plot."""
    rows = latest(read_rows(args.csv))
    if args.only:
        rows = [row for row in rows if row.variant in (*args.only, args.reference)]
    if args.test_views:
        rows = [row for row in rows if VALIDATION not in row.scene]
    if not rows:
        raise InputError(f"{args.csv} has no such rows")
    curves = curve_tables.Curves(tuple(rows), TEST if args.test_views else GUARD)
    if args.plot:
        write_text(args.plot, curve_plot.plot(curves, args.measure))
    if args.summary:
        print(summary(curves, args.reference, args.no_loss))


def summary(curves: curve_tables.Curves, reference: str, no_loss: str | None) -> str:
    """All tables as Markdown."""
    if reference not in curves.variants():
        raise InputError(f"no rows of the reference {reference}: {', '.join(curves.variants())}")

    def base(scene: str) -> str:
        return no_loss or (curve_tables.START if curves.unseen(scene) else reference)

    others = [variant for variant in curves.variants() if variant != reference]
    views = [f"{scene} {curves.views_of(scene)}" for scene in curves.scenes()]
    parts = [f"Views: {', '.join(views)}."]
    if others:
        rates = curve_tables.rate_columns(curves, reference)
        parts += [
            f"Bjontegaard rate against `{reference}`:",
            curve_tables.table(curves, others, rates),
        ]
    losses = curve_tables.loss_columns(curves, base)
    bases = [f"{scene} from `{base(scene)}`" for scene in curves.scenes()]
    parts += [f"Losses are counted: {', '.join(bases)}."]
    parts += [curve_tables.table(curves, curves.variants(), losses)]
    if any(row.point == RULE.name for row in curves.rows):
        chosen = curve_tables.rule_columns(curves)
        parts += ["The file that the stopping rule chooses:"]
        parts += [curve_tables.table(curves, curves.variants(), chosen)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    run(main)
