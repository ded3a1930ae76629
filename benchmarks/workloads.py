# SPDX-License-Identifier: Apache-2.0
"""The scenes that the benchmarks draw, made from the real data in one folder (`--data DIR`).

garden    gsplat's profiling points with random shapes: small Gaussians of all opacities
million   garden's points repeated to a million with jitter, smaller as they are denser, 1600x1060
snowmiku  a trained model from its first view, at half and at full resolution
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_formats.ply import read_ply

CROP, NEAREST = 2.0, 0.2  # of garden's points: half the side of the cube, depth in the view
SMALLEST, LARGEST = 1e-4, 0.02  # scales
JITTER = 0.01  # standard deviation


@dataclass(frozen=True)
class Pose:
    """One view. `world_to_camera` (4, 4) for column vectors; focal lengths in pixels."""

    width: int
    height: int
    focal_x: float
    focal_y: float
    world_to_camera: Tensor

    def enlarged(self, width: int, height: int) -> Pose:
        """The same view in another number of pixels."""
        across, down = width / self.width, height / self.height
        focals = self.focal_x * across, self.focal_y * down
        return Pose(width, height, *focals, self.world_to_camera)


@dataclass(frozen=True)
class Workload:
    """Raw parameters by name, as `RawGaussians` has them, and the view to draw."""

    parameters: dict[str, Tensor]
    pose: Pose

    @property
    def count(self) -> int:
        return len(self.parameters["xyz"])

    def title(self, name: str) -> str:
        return f"{name}: {self.count} Gaussians, {self.pose.width}x{self.pose.height}"


def garden(data: Path) -> Workload:
    points, pose = _garden_points(data)
    return Workload(_random_shapes(points, torch.Generator().manual_seed(42)), pose)


def million(data: Path) -> Workload:
    points, pose = _garden_points(data)
    random = torch.Generator().manual_seed(42)
    copies = points[torch.arange(1_000_000) % len(points)]
    jittered = copies + JITTER * torch.randn(copies.shape, generator=random)
    parameters = _random_shapes(jittered, random)
    # The Gaussians cover as much of the view as those of garden.
    parameters["scaling"] += 0.5 * math.log(len(points) / len(copies))
    return Workload(parameters, pose.enlarged(1600, 1060))


def _garden_points(data: Path) -> tuple[Tensor, Pose]:
    """The points in the crop and in front of the first camera, and its view."""
    with np.load(data / "test_garden.npz") as file:
        points = torch.from_numpy(file["means3d"])
        world_to_camera = torch.from_numpy(file["viewmats"][0])
        intrinsics = file["Ks"][0]
        width, height = int(file["width"]), int(file["height"])
    points = points[(points.abs() <= CROP).all(1)]
    depth = (points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3])[:, 2]
    focals = float(intrinsics[0, 0]), float(intrinsics[1, 1])
    pose = Pose(width, height, *focals, world_to_camera)
    return points[depth > NEAREST].contiguous(), pose


def _random_shapes(points: Tensor, random: torch.Generator) -> dict[str, Tensor]:
    count = len(points)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random)

    return {
        "xyz": points,
        "features_dc": uniform(count, 1, 3),
        "features_rest": 0.1 * torch.randn((count, 15, 3), generator=random),
        "opacity": torch.logit(uniform(count, 1), eps=1e-4),
        "scaling": torch.log(SMALLEST + (LARGEST - SMALLEST) * uniform(count, 3)),
        "rotation": torch.randn((count, 4), generator=random),
    }


def snowmiku(data: Path, divisor: int) -> Workload:
    folder = data / "snowmiku_model"
    splats = read_ply(folder / "point_cloud" / "iteration_12000" / "point_cloud.ply")
    names = ("xyz", "features_dc", "features_rest", "opacity", "scaling", "rotation")
    parameters = {name: torch.from_numpy(getattr(splats, name)) for name in names}
    camera = json.loads((folder / "cameras.json").read_text())[0]
    camera_to_world = torch.eye(4, dtype=torch.float64)
    camera_to_world[:3, :3] = torch.tensor(camera["rotation"])
    camera_to_world[:3, 3] = torch.tensor(camera["position"])
    world_to_camera = torch.linalg.inv(camera_to_world).float()
    size = camera["width"] // divisor, camera["height"] // divisor
    focals = camera["fx"] / divisor, camera["fy"] / divisor
    return Workload(parameters, Pose(*size, *focals, world_to_camera))


SCENES: dict[str, Callable[[Path], Workload]] = {
    "garden": garden,
    "snowmiku-half": partial(snowmiku, divisor=2),
    "snowmiku": partial(snowmiku, divisor=1),
    "million": million,
}


def settings_of(module: ModuleType, pose: Pose, device: str = "cpu") -> Any:
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
