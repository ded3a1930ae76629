# SPDX-License-Identifier: Apache-2.0
"""The one loop that scores a model against photographs.

Renders are rounded to 8 bits first, as `render.py` saves them, so the numbers are those that
`metrics.py` gives for the saved images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaussian_renderer import render
from gaussian_renderer.direct import direct_rasterizer, draw_directly
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
    cameras: Iterable[Any], gaussians: GaussianModel, pipe: Any, background: Tensor
) -> list[ViewScore]:
    """Scores of every view in `cameras`, in order. Give a progress bar as `cameras` to see it."""
    draw = drawer(gaussians, pipe, background)
    scores = []
    for camera in cameras:
        image = to_u8(draw(camera))
        truth = camera.image_u8.to(image.device)
        psnr, ssim = score_images(image, truth)
        l1 = mean_difference(image, truth)
        scores.append(ViewScore(camera.image_name, psnr, ssim, l1))
    return scores


def drawer(gaussians: GaussianModel, pipe: Any, background: Tensor) -> Callable[[Any], Tensor]:
    """A function from camera to image (3,H,W) in 0..1: without autograd where that is installed."""
    raw = gaussians.raw_parameters()
    rasterizer = direct_rasterizer(raw.xyz.device, pipe)
    if rasterizer is None or raw.gaussian_count == 0:
        return lambda camera: render(camera, gaussians, pipe, background)["render"]
    degree = gaussians.active_sh_degree
    return lambda camera: (
        draw_directly(rasterizer, raw, camera, pipe, background, degree, training=False).image
    )
