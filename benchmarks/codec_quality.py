# SPDX-License-Identifier: Apache-2.0
"""Quality of a model's renders: against test photographs, or against another model's renders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from arguments import ModelOptions, PipelineOptions
from gaussian_renderer import render
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import evaluate
from scene import Scene
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from splat_formats.splats import Splats
from utils.image_utils import to_u8

RING_VIEWS = 12
_RING_PIXELS = 512
_RING_FIELD = math.radians(40)
_RING_HEIGHT = math.radians(20)  # the angle by which the cameras point down
_CPU = torch.device("cpu")
_BLACK = torch.zeros(3)


@dataclass(frozen=True)
class Score:
    """Means over the views."""

    psnr: float
    """dB"""
    ssim: float


@dataclass(frozen=True)
class Views:
    """Cameras, each with its reference picture."""

    cameras: Sequence[Camera]
    are_photographs: bool
    """If not, the pictures are another model's renders, and PSNR compares two renders."""

    def score(self, splats: Splats) -> Score:
        """PSNR and SSIM of the model's renders, in 8 bits, against the pictures."""
        backend = backend_for(_BLACK.device, RenderOptions())
        scores = evaluate(self.cameras, _model(splats), backend, _BLACK)
        return Score(
            float(np.mean([score.psnr for score in scores])),
            float(np.mean([score.ssim for score in scores])),
        )


def photographs(source: Path, splats: Splats) -> Views:
    """The test views of a data set, every eighth, at half resolution."""
    options = ModelOptions(
        source_path=str(source), model_path="", eval=True, resolution=2, data_device="cpu"
    )
    scene = Scene(options, _model(splats), shuffle=False, splits=("test",))
    return Views(scene.getTestCameras(), are_photographs=True)


def ring(splats: Splats) -> Views:
    """A ring of cameras around a model without photographs; the pictures are its own renders."""
    low, high = np.quantile(splats.xyz, [0.01, 0.99], axis=0)
    centre, reach = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    distance = reach / math.sin(_RING_FIELD / 2)
    angles = 2 * math.pi * np.arange(RING_VIEWS) / RING_VIEWS
    cameras = [_on_ring(centre, distance, float(angle)) for angle in angles]
    model = _model(splats)
    with torch.no_grad():
        for camera in cameras:
            camera.image_u8 = to_u8(render(camera, model, PipelineOptions(), _BLACK)["render"])
    return Views(cameras, are_photographs=False)


def _on_ring(centre: np.ndarray, distance: float, angle: float) -> Camera:
    """A camera that points at the centre, slightly down (the world's y points down)."""
    across = math.cos(_RING_HEIGHT)
    backward = np.array(
        [across * math.sin(angle), -math.sin(_RING_HEIGHT), across * math.cos(angle)]
    )
    right = np.cross([0.0, 1.0, 0.0], -backward)
    right /= np.linalg.norm(right)
    down = np.cross(-backward, right)
    camera_to_world = np.stack([right, down, -backward], axis=1)
    position = centre + distance * backward
    blank = torch.zeros((3, _RING_PIXELS, _RING_PIXELS), dtype=torch.uint8)
    return Camera(
        resolution=(_RING_PIXELS, _RING_PIXELS),
        colmap_id=0,
        R=camera_to_world,
        T=-camera_to_world.T @ position,
        FoVx=_RING_FIELD,
        FoVy=_RING_FIELD,
        depth_params=None,
        image=None,
        invdepthmap=None,
        image_name=f"{math.degrees(angle):.0f} degrees",
        uid=0,
        image_u8=blank,
    )


def _model(splats: Splats) -> GaussianModel:
    return GaussianModel.from_splats(splats, device=_CPU)
