# SPDX-License-Identifier: Apache-2.0
"""Wall and CPU time of the parts of a repeated piece of work, as tables and as JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from utils.machine import processor_name

Timings = dict[str, dict[str, float]]
"""Milliseconds of each part: wall_min, wall_median, cpu_min, cpu_median."""


@dataclass
class Samples:
    """Seconds of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: float, cpu: float) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)

    def milliseconds(self) -> dict[str, float]:
        return {
            "wall_min": 1e3 * min(self.wall),
            "wall_median": 1e3 * statistics.median(self.wall),
            "cpu_min": 1e3 * min(self.cpu),
            "cpu_median": 1e3 * statistics.median(self.cpu),
        }


def time_parts(run: Callable[[Callable[[str], None]], None], rounds: int) -> Timings:
    """Calls `run(lap)` for `rounds` rounds after one uncounted; lap(name) ends a part."""
    samples: dict[str, Samples] = {}
    for round_number in range(rounds + 1):
        last = time.perf_counter(), time.process_time()

        def lap(name: str, counted: bool = round_number > 0) -> None:
            nonlocal last
            now = time.perf_counter(), time.process_time()
            if counted:
                samples.setdefault(name, Samples()).add(now[0] - last[0], now[1] - last[1])
            last = now

        run(lap)
    return {name: part.milliseconds() for name, part in samples.items()}


def print_table(title: str, timings: Timings) -> None:
    print(f"\n{title}\n\n| ms | wall min | wall median | CPU min | CPU median |")
    print("|---|---|---|---|---|")
    for name, row in timings.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")


def describe_machine() -> str:
    """Processor, threads of PyTorch, and its version."""
    import torch  # here, because some benchmarks run without it

    return f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
