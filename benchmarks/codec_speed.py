# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the codec on a million Gaussians: `python benchmarks/codec_speed.py`.

Encoding and decoding are measured inside one process each, and the two scripts from the start of
Python to its end. Times are the least of several; memory is the peak of the process. The model is
snowmiku, repeated with jitter, as a PLY in a temporary folder.

This program itself must use little memory: Linux counts the memory of the starting process in the
peak of the new one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from utils.files import write_json

ROOT = Path(__file__).parents[1]
TASKS = "benchmarks/codec_tasks.py"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Usage:
    """Seconds and bytes that a process used."""

    wall: float
    cpu: float
    peak_bytes: int


def run(*command: str | Path) -> tuple[Usage, str]:
    """Runs Python with its default threads: what it used for the command line, and its output."""
    environment = {k: v for k, v in os.environ.items() if k not in _THREAD_VARIABLES}
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=output, env=environment, cwd=ROOT
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        output.seek(0)
        usage = Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
        return usage, output.read()


def measure_speed(data: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds of wall and CPU time, and bytes of memory, of each step; prints them."""
    print(f"\n| {count:,} Gaussians, SH 3, quality high | wall, s | CPU, s | memory, x the PLY |\n"
          "|---|---|---|---|", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ply, file, out = (Path(folder) / name for name in ("model.ply", "model.f3dgs", "out"))
        run(TASKS, "make", data, str(count), ply)
        ply_bytes = ply.stat().st_size
        steps: dict[str, Usage] = {}
        for task in (("encode", ply, file), ("decode", file)):
            steps |= _task(task, rounds)
        commands = {
            "compress.py --training_free": ("--training_free", "--start_ply", ply, "-m", out),
            "decompress.py": (file, out / "back.ply"),
        }
        for name, flags in commands.items():
            steps[name] = _best([run(name.split()[0], *flags)[0] for _ in range(rounds)])
        for name, usage in steps.items():
            print(f"| {name} | {usage.wall:.2f} | {usage.cpu:.2f} | "
                  f"{usage.peak_bytes / ply_bytes:.2f} |", flush=True)  # fmt: skip
        return {
            "gaussians": count,
            "ply_bytes": ply_bytes,
            "file_bytes": file.stat().st_size,
            "steps": {name: asdict(usage) for name, usage in steps.items()},
        }


def _task(task: tuple[str | Path, ...], rounds: int) -> dict[str, Usage]:
    """The parts that a task times; the memory is that of one pass over all parts."""
    once, _ = run(TASKS, *task, "0")
    _, printed = run(TASKS, *task, str(rounds))
    return {
        name: Usage(row["wall_min"] / 1e3, row["cpu_min"] / 1e3, once.peak_bytes)
        for name, row in json.loads(printed).items()
    }


def _best(usages: list[Usage]) -> Usage:
    return Usage(
        min(usage.wall for usage in usages),
        min(usage.cpu for usage in usages),
        max(usage.peak_bytes for usage in usages),
    )


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the models")
    parser.add_argument("--count", type=int, default=1_000_000, help="number of Gaussians")
    parser.add_argument(
        "--rounds", type=int, default=5, help="repetitions, of which the best counts"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    figures = measure_speed(args.data.resolve(), args.count, args.rounds)
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
