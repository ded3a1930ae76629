# SPDX-License-Identifier: Apache-2.0
"""Times the rasteriser, forward and backward, compared with the time of its arithmetic alone.

    python benchmarks/rasterizer.py --data DATA [--scene NAME] [--threads 2] [--json F]
    python benchmarks/rasterizer.py --data DATA --module NAME [--device cuda]

Without --module: the direct path on raw parameters, stage by stage, and the path through autograd.
With it: any package with the API of diff_gaussian_rasterization, through autograd only.
FAST3DGS_ISA=v3 (or v2) in the environment times the code for older processors.

Wall and CPU milliseconds, minimum and median over the rounds; CPU time counts all threads; divided
by their number it is the time on an idle machine. The floor is the time of the arithmetic alone if
no vector instruction waits for its port: 54 cycles for a block of 4x4 pixels, 32 for a Gaussian in
a tile, 150 for a Gaussian, forward and backward together.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import Samples, Timings, describe_machine, print_table, time_parts
from benchmarks.workloads import SCENES, Pose, Workload, settings_of
from utils.files import write_json

CYCLES_PER_BLOCK, CYCLES_PER_ENTRY, CYCLES_PER_GAUSSIAN = 20 + 34, 12 + 20, 150
BLOCK_PIXELS = 16
FORWARD_STAGES = ("project", "sort", "blend")


def time_autograd(module: ModuleType, load: Workload, device: str, rounds: int) -> Timings:
    """Forward and backward through the API that all such packages share."""
    raw = {name: tensor.to(device) for name, tensor in load.parameters.items()}
    inputs = {
        "means3D": raw["xyz"],
        "opacities": torch.sigmoid(raw["opacity"]),
        "shs": torch.cat([raw["features_dc"], raw["features_rest"]], 1),
        "scales": raw["scaling"].exp(),
        "rotations": torch.nn.functional.normalize(raw["rotation"]),
    }
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    screen = torch.zeros_like(raw["xyz"], requires_grad=True)
    rasterizer = module.GaussianRasterizer(settings_of(module, load.pose, device))
    weights = image_weights(load.pose).to(device)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def run(lap: Callable[[str], None]) -> None:
        image = rasterizer(means2D=screen, **leaves)[0]
        wait()
        lap("forward")
        torch.autograd.grad(image, list(leaves.values()), weights)
        wait()
        lap("backward")

    return time_parts(run, rounds)


def image_weights(pose: Pose) -> Tensor:
    """A gradient of a loss that is a mean over the image."""
    random = torch.Generator().manual_seed(0)
    pixels = 3 * pose.height * pose.width
    return torch.rand((3, pose.height, pose.width), generator=random) / pixels


def time_direct(load: Workload, rounds: int, gigahertz: float) -> tuple[Timings, dict[str, float]]:
    """The direct path stage by stage, and the sizes of the view with the resulting floor."""
    import diff_gaussian_rasterization
    from diff_gaussian_rasterization import raw

    gaussians = raw.RawGaussians(**load.parameters)
    settings = settings_of(diff_gaussian_rasterization, load.pose)
    gradients = gaussians.empty_like()
    screen = torch.empty(load.count, 2)
    weights = image_weights(load.pose)
    stages: dict[str, Samples] = {}
    sizes: dict[str, float] = {}

    def run(lap: Callable[[str], None]) -> None:
        frame = raw.render(gaussians, settings, training=True)
        lap("forward")
        frame.backward(weights, gradients, screen=screen)
        lap("backward")
        for stage, (wall, cpu) in frame.stage_seconds().items():
            stages.setdefault(stage, Samples()).add(wall, cpu)
        sizes.update(frame.counts())

    timings = time_parts(run, rounds)
    sizes["floor_ms"] = floor_milliseconds(sizes, gigahertz)
    return {name: part.milliseconds() for name, part in stages.items()} | timings, sizes


def time_evaluation(load: Workload, rounds: int) -> Timings:
    """The forward pass alone, keeping nothing for a backward pass, stage by stage."""
    import diff_gaussian_rasterization
    from diff_gaussian_rasterization import raw

    gaussians = raw.RawGaussians(**load.parameters)
    settings = settings_of(diff_gaussian_rasterization, load.pose)
    stages: dict[str, Samples] = {}

    def run(lap: Callable[[str], None]) -> None:
        frame = raw.render(gaussians, settings, training=False)
        lap("whole")
        seconds = frame.stage_seconds()
        for stage in FORWARD_STAGES:
            stages.setdefault(stage, Samples()).add(*seconds[stage])

    timings = time_parts(run, rounds)
    return {name: part.milliseconds() for name, part in stages.items()} | timings


def floor_milliseconds(sizes: dict[str, float], gigahertz: float) -> float:
    """CPU time of the arithmetic alone, of one core."""
    cycles = (
        CYCLES_PER_BLOCK * sizes["blended_pixels"] / BLOCK_PIXELS
        + CYCLES_PER_ENTRY * sizes["tile_entries"]
        + CYCLES_PER_GAUSSIAN * sizes["drawn"]
    )
    return cycles / gigahertz * 1e-6


def with_total(timings: Timings) -> Timings:
    """Adds forward + backward: for minima a lower bound, for medians approximate."""
    total = {key: timings["forward"][key] + timings["backward"][key] for key in timings["forward"]}
    return {**timings, "forward + backward": total}


def report_direct(load: Workload, rounds: int, gigahertz: float) -> dict[str, Any]:
    """Prints and returns the figures of this project's own path."""
    from diff_gaussian_rasterization import native

    timings, sizes = time_direct(load, rounds, gigahertz)
    direct, evaluation = with_total(timings), time_evaluation(load, rounds)
    print_table(f"direct path, {native.instruction_set}", direct)
    print_table("forward only, nothing kept", evaluation)
    ratio = direct["forward + backward"]["cpu_min"] / sizes["floor_ms"]
    print(
        f"\n{sizes['drawn']} drawn, {sizes['tile_entries']} tile entries, "
        f"{sizes['blended_pixels'] / BLOCK_PIXELS:.0f} blocks of 4x4 pixels: floor "
        f"{sizes['floor_ms']:.1f} ms of CPU at {gigahertz} GHz, ratio {ratio:.2f}"
    )
    return {
        "instruction_set": native.instruction_set,
        "direct": direct,
        "evaluation": evaluation,
        "sizes": sizes,
        "ratio_to_floor": ratio,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with test_garden.npz etc.")
    parser.add_argument("--scene", choices=[*SCENES], action="append", help="default: all")
    parser.add_argument("--module", help="a package with the API of diff_gaussian_rasterization")
    parser.add_argument("--device", default="cpu", help="for --module")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--gigahertz", type=float, default=2.6, help="clock rate for the floor")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if not math.isfinite(options.gigahertz) or options.gigahertz <= 0:
        raise SystemExit("error: --gigahertz must be positive.")
    torch.set_num_threads(options.threads)
    module = importlib.import_module(options.module or "diff_gaussian_rasterization")
    report: dict[str, Any] = {"module": module.__name__, "machine": describe_machine()}
    for name in options.scene or SCENES:
        load = SCENES[name](options.data)
        print(f"\n## {load.title(name)}")
        report[name] = {"title": load.title(name)}
        if options.module is None:
            report[name] |= report_direct(load, options.rounds, options.gigahertz)
        autograd = time_autograd(module, load, options.device, options.rounds)
        report[name]["autograd"] = with_total(autograd)
        print_table("through autograd", report[name]["autograd"])
    if options.json is not None:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
