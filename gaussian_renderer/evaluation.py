# SPDX-License-Identifier: Apache-2.0
"""Scores a model against photographs; all evaluations use this loop.

Renders are rounded to 8 bits first, as `render.py` saves them, so the numbers are those that
`metrics.py` gives for the saved images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaussian_renderer.backend import Backend
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters
from utils import ranks
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


def evaluate(
    cameras: Iterable[Camera], gaussians: GaussianModel, backend: Backend, background: Tensor
) -> list[ViewScore]:
    """Scores of every view in `cameras`, in order. `cameras` may be wrapped in a progress bar."""
    raw, degree = gaussians.raw_parameters(), gaussians.active_sh_degree
    return _scores(cameras, raw, degree, backend, background)


def evaluate_on_ranks(
    cameras: Sequence[Camera],
    gaussians: GaussianModel,
    backend: Backend,
    background: Tensor,
    on_view: Callable[[], None] = lambda: None,
) -> list[ViewScore]:
    """The same, by all ranks together: equal to those of one, as each view is scored by one.

    `on_view` is called after each of the views that this rank scores.
    """
    raw, degree = gaussians.raw_parameters(), gaussians.active_sh_degree
    here = ranks.Here(on_view)
    return ranks.in_order(
        ranks.everywhere(_share_of_scores, cameras, raw, degree, backend, background, here)
    )


def _share_of_scores(
    cameras: Sequence[Camera],
    raw: RawParameters,
    degree: int,
    backend: Backend,
    background: Tensor,
    on_view: ranks.Here,
) -> list[ViewScore]:
    scores = []
    for camera in ranks.my_share(cameras):
        scores += _scores([camera], raw, degree, backend, background)
        on_view()
    return scores


@torch.no_grad()
def _scores(
    cameras: Iterable[Camera],
    raw: RawParameters,
    degree: int,
    backend: Backend,
    background: Tensor,
) -> list[ViewScore]:
    scores = []
    for camera in cameras:
        image = to_u8(backend.draw(camera, raw, background, degree))
        truth = camera.image_u8.to(image.device)
        psnr, ssim = score_images(image, truth)
        l1 = mean_difference(image, truth)
        scores.append(ViewScore(camera.image_name, psnr, ssim, l1))
    return scores
