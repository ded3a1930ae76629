# SPDX-License-Identifier: Apache-2.0
"""Scores a model against photographs; all evaluations use this loop.

Renders are rounded to 8 bits first, as `render.py` saves them, so the numbers are those that
`metrics.py` gives for the saved images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from gaussian_renderer.backend import Backend
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters
from utils import ranks
from utils.image_metrics import mean_difference, score_images
from utils.image_utils import psnr, to_u8
from utils.loss_utils import l1_loss
from utils.perceptual_metrics import ms_ssim

T = TypeVar("T")


@dataclass(frozen=True)
class ViewScore:
    """How well one view is reproduced."""

    image_name: str
    psnr: float
    """dB, over all pixels and channels."""
    ssim: float
    l1: float
    """Mean absolute difference; images in 0..1."""
    ms_ssim: float | None = None
    """Multi-scale SSIM; None: not measured."""


@dataclass(frozen=True)
class DrawnView:
    """The part of a view that scores count."""

    image_name: str
    image: Tensor
    """(3,H,W) in 0..1, not rounded."""
    truth_u8: Tensor
    """(3,H,W) uint8, on the same device."""

    def score(self) -> ViewScore:
        """The render, rounded to 8 bits, against the photograph."""
        image = to_u8(self.image)
        psnr, ssim = score_images(image, self.truth_u8)
        return ViewScore(self.image_name, psnr, ssim, mean_difference(image, self.truth_u8))

    def all_scores(self) -> ViewScore:
        """The same with MS-SSIM; InputError for images that are too small for it."""
        return replace(self.score(), ms_ssim=ms_ssim(to_u8(self.image), self.truth_u8))

    def measured(self) -> tuple[ViewScore, tuple[float, float]]:
        """Both."""
        return self.score(), self.unrounded()

    def unrounded(self) -> tuple[float, float]:
        """L1, and the mean of the three channels' PSNR in dB, without rounding.

        These are the figures that Inria's training prints.
        """
        truth = self.truth_u8.to(torch.float32) / 255.0
        return float(l1_loss(self.image, truth)), float(psnr(self.image, truth).mean())


def draw_views(
    cameras: Iterable[Camera], gaussians: GaussianModel, backend: Backend, background: Tensor
) -> Iterator[DrawnView]:
    """Every view in `cameras`, in order, each valid until the next one."""
    raw, degree = gaussians.raw_parameters(), gaussians.active_sh_degree
    return _drawn(cameras, raw, degree, backend, background)


@torch.no_grad()
def _drawn(
    cameras: Iterable[Camera],
    raw: RawParameters,
    degree: int,
    backend: Backend,
    background: Tensor,
) -> Iterator[DrawnView]:
    for camera in cameras:
        image = backend.draw(camera, raw, background, degree)
        truth = camera.image_u8.to(image.device)
        yield DrawnView(camera.image_name, *(scored_part(t, camera) for t in (image, truth)))


def scored_part(image: Tensor, camera: Camera) -> Tensor:
    """The columns of `image` (3,H,W) that scores count, black where pixels do not count."""
    image = camera.counted(image)
    return image[..., camera.scored_from :].contiguous() if camera.scored_from else image


@torch.no_grad()
def evaluate(
    cameras: Iterable[Camera], gaussians: GaussianModel, backend: Backend, background: Tensor
) -> list[ViewScore]:
    """Scores of every view in `cameras`, in order. `cameras` may be wrapped in a progress bar."""
    return [view.score() for view in draw_views(cameras, gaussians, backend, background)]


def measured_on_ranks(
    cameras: Sequence[Camera],
    gaussians: GaussianModel,
    backend: Backend,
    background: Tensor,
    measure: Callable[[DrawnView], T],
    on_view: Callable[[], None] = lambda: None,
) -> list[T]:
    """What `measure`, a picklable function, gives for each view, in order.

    The ranks share the views; the result is that of one rank, as each view is measured by one.
    `on_view` is called after each of the views that this rank measures.
    """
    raw, degree = gaussians.raw_parameters(), gaussians.active_sh_degree
    here, views = ranks.Here(on_view), list(cameras)
    return ranks.in_order(
        ranks.everywhere(_share, views, raw, degree, backend, background, measure, here)
    )


def _share(
    cameras: Sequence[Camera],
    raw: RawParameters,
    degree: int,
    backend: Backend,
    background: Tensor,
    measure: Callable[[DrawnView], T],
    on_view: ranks.Here,
) -> list[T]:
    found = []
    for view in _drawn(ranks.my_share(cameras), raw, degree, backend, background):
        found.append(measure(view))
        on_view()
    return found
