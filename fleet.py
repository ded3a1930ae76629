# SPDX-License-Identifier: Apache-2.0
"""Train and compress many scenes: `python fleet.py scenes.yaml`.

The list names the scenes. Several are compressed at a time, on this machine or on a Ray cluster. A
scene that fails does not stop the others. After a kill at any moment, the same command continues
with the scenes that are not finished.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from arguments.ranges import Allowed, Range, fault_of
from many_scenes.driver import Driver
from many_scenes.figures import CSV_NAME, PAGE_NAME, write_figures
from many_scenes.live_table import LiveTable
from many_scenes.ray_runner import THIS_MACHINE, RayRunner
from many_scenes.records import DONE, Record
from many_scenes.runners import LocalRunner, Runner
from many_scenes.scene_list import read_scene_list
from utils.cli import fail, run
from utils.errors import InputError
from utils.folder_lock import locked


def main() -> None:
    """Reads the command line, does all scenes, and writes their figures."""
    args = build_parser().parse_args()
    check(args)
    scenes = read_scene_list(args.list)
    output = args.output_path or args.list.absolute().with_name(f"{args.list.stem}_fleet")
    output = output.absolute()
    with locked(output):
        driver = Driver(scenes, output, runner_of(args), args.retries)
        records = driver.run(LiveTable(sys.stdout, output).show)
        faults = write_figures(output, records)
    print(f"Figures: {output / CSV_NAME}\nPage: {output / PAGE_NAME}")
    report_failures(records, faults)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("list", type=Path, metavar="LIST", help="the list of scenes, .yaml, .json or .toml "
        "(docs/scale.md)")  # fmt: skip
    add("--output_path", "-o", type=Path, metavar="DIR",
        help="records, logs and figures (default: LIST_fleet beside the list)")  # fmt: skip
    add("--workers", type=int, help="scenes at a time (default: one for every 4 cores)")
    add("--threads", type=int, help="threads of each (default: the cores are shared evenly)")
    add("--retries", type=int, default=1, help="more tries for a scene that fails (default: 1)")
    add("--ray", nargs="?", const=THIS_MACHINE, metavar="ADDRESS", help="run on the Ray "
        "cluster at this address (auto: the one that is found); alone, start Ray here")  # fmt: skip
    add("--gpus_per_scene", type=float, help="GPUs that Ray gives to each scene (default: 0)")
    return parser


def check(args: Namespace) -> None:
    """InputError for values that are not allowed."""
    checks: list[tuple[str, Allowed]] = [
        ("workers", Range(least=1, whole=True)),
        ("threads", Range(least=1, whole=True)),
        ("retries", Range(least=0, whole=True)),
        ("gpus_per_scene", Range(least=0)),
    ]
    for name, allowed in checks:
        value = getattr(args, name)
        if value is not None and (fault := fault_of(name, value, allowed)):
            raise InputError(fault)
    if args.gpus_per_scene is not None and args.ray is None:
        raise InputError("--gpus_per_scene: expected --ray too, which assigns GPUs to scenes")


def runner_of(args: Namespace) -> Runner:
    """Where the workers run."""
    if args.ray is None:
        return LocalRunner(args.workers, args.threads)
    return RayRunner(args.ray, args.workers, args.threads, args.gpus_per_scene or 0)


def report_failures(records: Sequence[Record], faults: Sequence[str]) -> None:
    """Names the scenes that failed, and ends with status 1 if there are any."""
    failed = [record for record in records if record.state != DONE]
    for record in failed:
        print(f"error: {record.scene.name}: {record.message}", file=sys.stderr)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if failed:
        names = ", ".join(record.scene.name for record in failed)
        fail(f"{len(failed)} of {len(records)} scenes failed: {names}")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
