# SPDX-License-Identifier: Apache-2.0
"""Scores a model against photographs; all evaluations use this loop.

Renders are rounded to 8 bits first, as `render.py` saves them, so the numbers are those that
`metrics.py` gives for the saved images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gaussian_renderer.backend import Backend
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from utils.image_metrics import mean_difference, score_images
from utils.image_utils import to_u8


@dataclass(frozen=True)
class ViewScore:
    """How well one view is reproduced."""

    image_name: str
    psnr: float
    """dB, over all pixels and channels."""
    ssim: float
    l1: float
    """Mean absolute difference; images in 0..1."""


@torch.no_grad()
def evaluate(
    cameras: Iterable[Camera], gaussians: GaussianModel, backend: Backend, background: Tensor
) -> list[ViewScore]:
    """Scores of every view in `cameras`, in order. `cameras` may be wrapped in a progress bar."""
    raw, degree = gaussians.raw_parameters(), gaussians.active_sh_degree
    scores = []
    for camera in cameras:
        image = to_u8(backend.draw(camera, raw, background, degree))
        truth = camera.image_u8.to(image.device)
        psnr, ssim = score_images(image, truth)
        l1 = mean_difference(image, truth)
        scores.append(ViewScore(camera.image_name, psnr, ssim, l1))
    return scores
