# SPDX-License-Identifier: Apache-2.0
"""Times the rasteriser, forward and backward, on two scenes of about 100,000 Gaussians.

    python benchmarks/rasterizer.py --data DATA [--scene garden|snowmiku] [--threads 2] [--json F]
    python benchmarks/rasterizer.py --data DATA --module NAME [--device cuda]

Without --module: the direct path on raw parameters, stage by stage, and the path through autograd.
With it: any package with the API of diff_gaussian_rasterization, through autograd only.

Wall and CPU milliseconds, minimum and median over the rounds; CPU time counts all threads, and
divided by the threads says what a quiet machine would take. The floor is what the arithmetic alone
costs if every vector instruction finds its port free: 54 cycles for a block of 4x4 pixels, 32 for a
Gaussian in a tile, 150 for a Gaussian, forward and backward together.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_formats.ply import read_ply

CYCLES_PER_BLOCK, CYCLES_PER_ENTRY, CYCLES_PER_GAUSSIAN = 20 + 34, 12 + 20, 150
BLOCK_PIXELS = 16

Timings = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Pose:
    """One view. `world_to_camera` (4, 4) for column vectors; focal lengths in pixels."""

    width: int
    height: int
    focal_x: float
    focal_y: float
    world_to_camera: Tensor


@dataclass(frozen=True)
class Workload:
    """Raw parameters by name, as `RawGaussians` has them, and the view to draw."""

    parameters: dict[str, Tensor]
    pose: Pose


def garden(data: Path) -> Workload:
    """gsplat's profiling points with random shapes: small Gaussians, all opacities."""
    with np.load(data / "test_garden.npz") as file:
        points = torch.from_numpy(file["means3d"])
        world_to_camera = torch.from_numpy(file["viewmats"][0])
        intrinsics = file["Ks"][0]
        width, height = int(file["width"]), int(file["height"])
    points = points[(points.abs() <= 2).all(1)]
    depth = (points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3])[:, 2]
    points = points[depth > 0.2].contiguous()
    random = torch.Generator().manual_seed(42)
    count = len(points)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random)

    parameters = {
        "xyz": points,
        "features_dc": uniform(count, 1, 3),
        "features_rest": 0.1 * torch.randn((count, 15, 3), generator=random),
        "opacity": torch.logit(uniform(count, 1), eps=1e-4),
        "scaling": torch.log(1e-4 + (0.02 - 1e-4) * uniform(count, 3)),
        "rotation": torch.randn((count, 4), generator=random),
    }
    focals = float(intrinsics[0, 0]), float(intrinsics[1, 1])
    return Workload(parameters, Pose(width, height, *focals, world_to_camera))


def snowmiku(data: Path) -> Workload:
    """A trained model in the first of its views, at half resolution."""
    folder = data / "snowmiku_model"
    splats = read_ply(folder / "point_cloud" / "iteration_12000" / "point_cloud.ply")
    names = ("xyz", "features_dc", "features_rest", "opacity", "scaling", "rotation")
    parameters = {name: torch.from_numpy(getattr(splats, name)) for name in names}
    camera = json.loads((folder / "cameras.json").read_text())[0]
    camera_to_world = torch.eye(4, dtype=torch.float64)
    camera_to_world[:3, :3] = torch.tensor(camera["rotation"])
    camera_to_world[:3, 3] = torch.tensor(camera["position"])
    world_to_camera = torch.linalg.inv(camera_to_world).float()
    size = camera["width"] // 2, camera["height"] // 2
    return Workload(parameters, Pose(*size, camera["fx"] / 2, camera["fy"] / 2, world_to_camera))


SCENES = {"garden": garden, "snowmiku": snowmiku}


def settings_of(module: ModuleType, pose: Pose, device: str) -> Any:
    """The module's settings for the view, black background, SH degree 3."""
    view = pose.world_to_camera.T.contiguous()
    tan_x, tan_y = pose.width / (2 * pose.focal_x), pose.height / (2 * pose.focal_y)
    near, far = 0.01, 100.0
    projection = torch.zeros(4, 4)
    projection[0, 0], projection[1, 1] = 1 / tan_x, 1 / tan_y
    projection[2, 2], projection[3, 2] = far / (far - near), -far * near / (far - near)
    projection[2, 3] = 1.0
    kind = module.GaussianRasterizationSettings
    fields = {
        "image_height": pose.height,
        "image_width": pose.width,
        "tanfovx": tan_x,
        "tanfovy": tan_y,
        "bg": torch.zeros(3, device=device),
        "scale_modifier": 1.0,
        "viewmatrix": view.to(device),
        "projmatrix": (view @ projection).to(device),
        "sh_degree": 3,
        "campos": torch.linalg.inv(view)[3, :3].to(device),
        "prefiltered": False,
        "debug": False,
    }
    optional = {"antialiasing": False} if "antialiasing" in kind._fields else {}
    return kind(**fields, **optional)


@dataclass
class Samples:
    """Seconds of each round."""

    wall: list[float]
    cpu: list[float]

    def milliseconds(self) -> dict[str, float]:
        return {
            "wall_min": 1e3 * min(self.wall),
            "wall_median": 1e3 * statistics.median(self.wall),
            "cpu_min": 1e3 * min(self.cpu),
            "cpu_median": 1e3 * statistics.median(self.cpu),
        }


def time_parts(run: Callable[[Callable[[str], None]], None], rounds: int) -> Timings:
    """Calls `run(lap)` one round more than counted; lap(name) ends the part of that name."""
    samples: dict[str, Samples] = {}
    for round_number in range(rounds + 1):
        last = time.perf_counter(), time.process_time()

        def lap(name: str, counted: bool = round_number > 0) -> None:
            nonlocal last
            now = time.perf_counter(), time.process_time()
            if counted:
                part = samples.setdefault(name, Samples([], []))
                part.wall.append(now[0] - last[0])
                part.cpu.append(now[1] - last[1])
            last = now

        run(lap)
    return {name: part.milliseconds() for name, part in samples.items()}


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
    """The direct path stage by stage, and the sizes of the view with the floor they give."""
    import diff_gaussian_rasterization
    from diff_gaussian_rasterization import raw

    gaussians = raw.RawGaussians(**load.parameters)
    settings = settings_of(diff_gaussian_rasterization, load.pose, "cpu")
    gradients = gaussians.empty_like()
    screen = torch.empty(len(gaussians.xyz), 2)
    weights = image_weights(load.pose)
    stages: dict[str, Samples] = {}
    sizes: dict[str, float] = {}

    def run(lap: Callable[[str], None]) -> None:
        frame = raw.render(gaussians, settings, training=True)
        lap("forward")
        frame.backward(weights, gradients, screen=screen)
        lap("backward")
        for stage, (wall, cpu) in frame.stage_seconds().items():
            part = stages.setdefault(stage, Samples([], []))
            part.wall.append(wall)
            part.cpu.append(cpu)
        sizes.update(frame.counts())

    timings = time_parts(run, rounds)
    sizes["floor_ms"] = floor_milliseconds(sizes, gigahertz)
    return {name: part.milliseconds() for name, part in stages.items()} | timings, sizes


def floor_milliseconds(sizes: dict[str, float], gigahertz: float) -> float:
    """CPU time of the arithmetic alone, of one core."""
    cycles = (
        CYCLES_PER_BLOCK * sizes["blended_pixels"] / BLOCK_PIXELS
        + CYCLES_PER_ENTRY * sizes["tile_entries"]
        + CYCLES_PER_GAUSSIAN * sizes["drawn"]
    )
    return cycles / gigahertz * 1e-6


def with_total(timings: Timings) -> Timings:
    """And the sum of forward and backward: of minima it is a bound, of medians about a median."""
    total = {key: timings["forward"][key] + timings["backward"][key] for key in timings["forward"]}
    return {**timings, "forward + backward": total}


def print_table(title: str, timings: Timings) -> None:
    print(f"\n{title}\n\n| ms | wall min | wall median | CPU min | CPU median |")
    print("|---|---|---|---|---|")
    for name, row in timings.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
    report: dict[str, Any] = {"module": module.__name__, "threads": options.threads}
    for name in options.scene or SCENES:
        load = SCENES[name](options.data)
        figures: dict[str, Any] = {"gaussians": len(load.parameters["xyz"])}
        print(
            f"\n## {name}: {figures['gaussians']} Gaussians, {load.pose.width}x{load.pose.height}"
        )
        if options.module is None:
            direct, sizes = time_direct(load, options.rounds, options.gigahertz)
            figures |= {"direct": with_total(direct), "sizes": sizes}
            print_table("direct path", figures["direct"])
            ratio = figures["direct"]["forward + backward"]["cpu_min"] / sizes["floor_ms"]
            print(
                f"\n{sizes['drawn']} drawn, {sizes['tile_entries']} tile entries, "
                f"{sizes['blended_pixels'] / BLOCK_PIXELS:.0f} blocks of 4x4 pixels: floor "
                f"{sizes['floor_ms']:.1f} ms of CPU at {options.gigahertz} GHz, ratio {ratio:.2f}"
            )
        autograd = time_autograd(module, load, options.device, options.rounds)
        figures["autograd"] = with_total(autograd)
        print_table("through autograd", figures["autograd"])
        report[name] = figures
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
