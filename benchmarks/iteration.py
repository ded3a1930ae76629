# SPDX-License-Identifier: Apache-2.0
"""Times one iteration of fine-tuning and of training, part by part, and its memory.

    python benchmarks/iteration.py --data DATA [--scene NAME] [--rounds 20] [--threads 2] [--json F]

The photograph is the scene's own render with noise. Wall and CPU milliseconds, minimum and median;
CPU time counts all threads; divided by their number it is the time on an idle machine. Below each
table: the part of the iteration spent in PyTorch's own operations, by its profiler, and in the
largest of them. Each scene and loop runs in its own process; its peak memory is given without the
memory used before the loop.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization.raw import release_buffers
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from arguments import OptimizationOptions
from benchmarks.timing import describe_machine, print_table, time_parts
from benchmarks.workloads import SCENES, Pose, Workload
from gaussian_compression.finetune import Finetuner
from gaussian_compression.grid_straight_through import on_fitted_grids, with_ordered_raw_axes
from gaussian_compression.quantize import initial_ranges
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import (
    CONSTANT_RATES,
    FinetuneSettings,
    GridSettings,
    QuantizationSettings,
)
from gaussian_compression.straight_through import straight_through
from gaussian_compression.trainable import FullPrecision, Trainable
from gaussian_compression.trainable import take_step as take_finetuning_step
from gaussian_renderer import render
from gaussian_renderer.backend import Backend, Differentiate, RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.cameras import Camera
from scene.densification import accumulate
from scene.gaussian_model import GaussianModel
from scene.optimizer import take_step
from scene.raw_parameters import RawParameters
from utils.files import write_json
from utils.image_utils import to_u8

CPU = torch.device("cpu")
EXTENT = 5.0  # of the cameras: scales learning rates, which do not change the time
NOISE = 0.05

Lap = Callable[[str], None]
Step = Callable[[Lap], None]


def camera_of(pose: Pose, photo: torch.Tensor) -> Camera:
    matrix = pose.world_to_camera.numpy()
    return Camera(
        resolution=(pose.width, pose.height),
        colmap_id=0,
        R=matrix[:3, :3].T,
        T=matrix[:3, 3],
        FoVx=2 * math.atan(pose.width / (2 * pose.focal_x)),
        FoVy=2 * math.atan(pose.height / (2 * pose.focal_y)),
        depth_params=None,
        image=None,
        invdepthmap=None,
        image_name="view.png",
        uid=0,
        image_u8=photo,
        data_device=photo.device,
    )


def photograph(load: Workload, model: GaussianModel) -> Camera:
    blank = torch.zeros((3, load.pose.height, load.pose.width), dtype=torch.uint8)
    camera = camera_of(load.pose, blank)
    with torch.no_grad():
        image = render(camera, model, RenderOptions(), torch.zeros(3))["render"]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return camera_of(load.pose, to_u8(image + NOISE * noise))


def finetuning_step(raw: RawParameters, camera: Camera, backend: Backend) -> Step:
    """The loop of gaussian_compression.finetune for version 1."""
    quantization = QuantizationSettings()
    ranges, raw = initial_ranges(raw), raw.map(torch.clone)
    model = straight_through(raw, ranges, FinetuneSettings(), quantization, backend)
    return optimizer_step(model, camera, backend)


def plain_finetuning_step(raw: RawParameters, camera: Camera, backend: Backend) -> Step:
    """The same in full precision, as the rounds of the preset compact are."""
    model = FullPrecision(raw.map(torch.clone), FinetuneSettings(), backend)
    return optimizer_step(model, camera, backend)


def grid_finetuning_step(raw: RawParameters, camera: Camera, backend: Backend) -> Step:
    """The same for version 2, with equal sensitivities, which do not change the work."""
    ordered = with_ordered_raw_axes(raw)
    settings = GridSettings(noise=1e-3 * raw.gaussian_count)
    ones = ordered.map(torch.ones_like)
    even = RenderSensitivity(ones, psnr=30.0, absolute_error=0.01, pixel_sizes=ones.opacity[:, 0])
    return optimizer_step(on_fitted_grids(ordered, even, settings, backend), camera, backend)


def differentiate_by(backend: Backend) -> Differentiate:
    return partial(backend.differentiate, background=torch.zeros(3), sh_degree=3, lambda_dssim=0.2)


def optimizer_step(model: Trainable, camera: Camera, backend: Backend) -> Step:
    differentiate = differentiate_by(backend)
    rates = Finetuner(differentiate, EXTENT, FinetuneSettings()).rates(CONSTANT_RATES, left=0.0)
    gradients = model.seen.map(torch.empty_like)

    def step(lap: Lap) -> None:
        differentiate(camera, model.seen, gradients)
        lap("render, loss, backward")
        take_finetuning_step(model, gradients, rates)
        lap("Adam, quantisation")

    return step


def training_step(raw: RawParameters, camera: Camera, backend: Backend) -> Step:
    """The loop of train.py while it densifies."""
    model = GaussianModel.from_raw(raw.map(lambda tensor: torch.nn.Parameter(tensor.clone())))
    model.operations = backend
    model.spatial_lr_scale = EXTENT
    differentiate = differentiate_by(backend)
    model.training_setup(OptimizationOptions())
    gradients = model.raw_parameters().map(torch.empty_like)

    def step(lap: Lap) -> None:
        view_loss = differentiate(camera, model.raw_parameters(), gradients)
        for parameter, gradient in zip(model.raw_parameters(), gradients, strict=True):
            parameter.grad = gradient
        lap("render, loss, backward")
        with torch.no_grad():
            accumulate(model, view_loss.screen_gradient, view_loss.radii)
        lap("densification statistics")
        take_step(model.trained_by, model.optimizer_type, view_loss.radii)
        lap("Adam")

    return step


STEPS = {
    "fine-tuning": plain_finetuning_step,
    "fine-tuning as published": finetuning_step,
    "fine-tuning on grids": grid_finetuning_step,
    "training": training_step,
}


def pytorch_share(step: Step, rounds: int) -> dict[str, Any]:
    """Share of the time in PyTorch's operations: all of them, and the largest, with its name."""

    def run(lap: Lap) -> None:
        step(lambda _: None)
        lap("whole")

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        elapsed = time_parts(run, rounds)
    whole = elapsed["whole"]["wall_median"] * (rounds + 1)
    operations = [e for e in profiler.key_averages() if e.key.startswith("aten::")]
    spent = {e.key: 1e-3 * e.self_cpu_time_total for e in operations}
    largest = max(spent, key=lambda name: spent[name])
    return {
        "all": sum(spent.values()) / whole,
        "largest": spent[largest] / whole,
        "largest_name": largest,
    }


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(load: Workload, loop: str, rounds: int) -> dict[str, Any]:
    raw = RawParameters(**load.parameters)
    camera = photograph(load, GaussianModel.from_raw(raw))
    release_buffers()  # of the photograph's render: only the loop's own count
    before = resident_bytes()
    step = STEPS[loop](raw, camera, backend_for(CPU, RenderOptions()))
    timings = time_parts(step, rounds)
    peak = peak_bytes() - before  # includes the loop's copy of the parameters
    whole = {key: sum(row[key] for row in timings.values()) for key in next(iter(timings.values()))}
    return {
        "milliseconds": {**timings, "whole iteration": whole},
        "peak_bytes": peak,
        "pytorch": pytorch_share(step, rounds),
    }


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with test_garden.npz etc.")
    parser.add_argument("--scene", choices=[*SCENES], action="append", help="default: all")
    parser.add_argument("--loop", choices=[*STEPS], help="this loop only, in this process")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run_alone(options: argparse.Namespace, scene: str, loop: str) -> dict[str, Any]:
    """`measure` in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        arguments = {
            "--data": options.data,
            "--scene": scene,
            "--loop": loop,
            "--rounds": options.rounds,
            "--threads": options.threads,
            "--json": result,
        }
        flat = [str(part) for pair in arguments.items() for part in pair]
        subprocess.run([sys.executable, __file__, *flat], check=True)
        return json.loads(result.read_text())


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    report: dict[str, Any]
    if options.loop is not None:
        (scene,) = options.scene
        load = SCENES[scene](options.data)
        report = measure(load, options.loop, options.rounds)
        print_figures(f"{load.title(scene)}, {options.loop}", report)
    else:
        print(describe_machine())
        names = options.scene or SCENES
        report = {name: {loop: run_alone(options, name, loop) for loop in STEPS} for name in names}
        report["machine"] = describe_machine()
    if options.json is not None:
        write_json(options.json, report)


def print_figures(title: str, figures: dict[str, Any]) -> None:
    print_table(title, figures["milliseconds"])
    share = figures["pytorch"]
    print(
        f"\nPyTorch's operations: {share['all']:.1%} of the iteration, the largest "
        f"{share['largest']:.1%} ({share['largest_name']}); peak memory above that before the "
        f"loop: {figures['peak_bytes'] * 1e-6:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
