# SPDX-License-Identifier: Apache-2.0
"""How much slower an iteration of training is beside other work, against its fair share.

    python benchmarks/busy.py [--others 3] [--threads 2] [--rounds 4]

Quiet and busy rounds alternate. The fair share: with T threads beside O other busy threads on C
processors, T / (T + O) of them, so that the iteration takes (T + O) / C times as long (at least as
long as without them).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_checks import made_up
from benchmarks.iteration import CPU, STEPS, Step, camera_of
from benchmarks.timing import describe_machine
from benchmarks.workloads import Pose
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for

COUNT, WIDTH, HEIGHT = 50_000, 640, 480


def training() -> Step:
    """An iteration of training of made-up Gaussians."""
    world_to_camera = torch.eye(4)
    world_to_camera[2, 3] = 5.0
    photo = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    camera = camera_of(Pose(WIDTH, HEIGHT, 500.0, 500.0, world_to_camera), photo)
    return STEPS["training"](made_up(COUNT, 3), camera, backend_for(CPU, RenderOptions()))


@contextmanager
def busy(others: int) -> Iterator[None]:
    """So many processes that never rest."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(others)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(step: Step, iterations: int) -> float:
    """Wall seconds of one iteration."""
    began = time.perf_counter()
    for _ in range(iterations):
        step(lambda name: None)
    return (time.perf_counter() - began) / iterations


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--others", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=40, help="of a round")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    step = training()
    seconds(step, 5)
    quiet, beside = [], []
    for _ in range(options.rounds):
        quiet.append(seconds(step, options.iterations))
        with busy(options.others):
            beside.append(seconds(step, options.iterations))
    processors = len(os.sched_getaffinity(0))
    fair = max(1.0, (options.threads + options.others) / processors)
    ratio = statistics.median(beside) / statistics.median(quiet)
    print(describe_machine())
    print(f"load before this began: {os.getloadavg()[2]:.1f}; {processors} processors")
    print(f"an iteration: {1e3 * statistics.median(quiet):.1f} ms, beside {options.others} others "
          f"{1e3 * statistics.median(beside):.1f} ms: {ratio:.2f} times as long; "
          f"{ratio / fair:.2f} times its fair share ({fair:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
