# SPDX-License-Identifier: Apache-2.0
"""Times Adam on a million Gaussians (59 floats each), compared with the speed of the memory.

    python benchmarks/adam.py [--gaussians 1000000] [--threads 2] [--rounds 10] [--json F]

The floor is measured in the same run: a loop, compiled here, that reads the same four streams and
writes the same three, with one addition for each, on as many threads.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from diff_gaussian_rasterization.adam import AdamState, adam_step, update_visible

from benchmarks.timing import describe_machine, print_table, time_parts
from utils.files import write_json

SHAPES = ((3,), (1, 3), (15, 3), (1,), (3,), (4,))
VISIBLE = 0.6  # part of the Gaussians in view, in runs of neighbours as after a sort along a curve
RUN = 64
STREAM = """
extern "C" void stream(float* __restrict__ p, const float* __restrict__ g, float* __restrict__ m,
                       float* __restrict__ v, long begin, long end) {
  for (long i = begin; i < end; ++i) {
    const float d = g[i];
    p[i] += d;
    m[i] += d;
    v[i] += d;
  }
}
"""


def compile_stream(folder: Path) -> Callable[..., None]:
    source, library = folder / "stream.cpp", folder / "stream.so"
    source.write_text(STREAM)
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o"]
    subprocess.run([*command, str(library)], check=True)
    function = ctypes.CDLL(str(library)).stream
    function.argtypes = [*(ctypes.c_void_p,) * 4, *(ctypes.c_long,) * 2]
    function.restype = None
    return function


def make_states(count: int) -> list[AdamState]:
    random = torch.Generator().manual_seed(0)

    def values(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.rand((count, *shape), generator=random)

    return [AdamState(*(values(shape) for _ in range(4)), 1e-3) for shape in SHAPES]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    states = make_states(options.gaussians)
    runs = torch.rand((options.gaussians + RUN - 1) // RUN) < VISIBLE
    visible = runs.repeat_interleave(RUN)[: options.gaussians].contiguous()
    parameters = [torch.nn.Parameter(state.parameter.clone()) for state in states]
    for parameter, state in zip(parameters, states, strict=True):
        parameter.grad = state.gradient
    peer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-15, fused=True)
    folder = tempfile.TemporaryDirectory()
    stream = compile_stream(Path(folder.name))
    threads = ThreadPoolExecutor(options.threads)

    def touch_memory() -> None:
        for state in states:
            size, addresses = state.parameter.numel(), [t.data_ptr() for t in state[:4]]
            cuts = [size * part // options.threads for part in range(options.threads + 1)]
            list(threads.map(lambda a, b, at=addresses: stream(*at, a, b), cuts, cuts[1:]))

    def run(lap: Callable[[str], None]) -> None:
        touch_memory()
        lap("memory alone (floor)")
        adam_step(states, 10)
        lap("dense")
        update_visible(states, visible)
        lap(f"sparse, {VISIBLE:.0%} visible")
        peer.step()
        lap("torch, fused")

    timings = time_parts(run, options.rounds)
    floats = sum(state.parameter.numel() for state in states)
    floor = timings["memory alone (floor)"]
    print_table(f"{options.gaussians} Gaussians; {describe_machine()}", timings)
    figures = {
        "gigabytes_per_second": 7 * 4 * floats / floor["wall_min"] * 1e-6,
        "dense_to_floor_wall": timings["dense"]["wall_min"] / floor["wall_min"],
        "dense_to_floor_cpu": timings["dense"]["cpu_min"] / floor["cpu_min"],
    }
    print("\n" + "\n".join(f"{name}: {value:.2f}" for name, value in figures.items()))
    if options.json is not None:
        report = {"machine": describe_machine(), "milliseconds": timings, **figures}
        write_json(options.json, report)


if __name__ == "__main__":
    main()
