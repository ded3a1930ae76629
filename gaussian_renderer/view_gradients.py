# SPDX-License-Identifier: Apache-2.0
"""The mean gradients of several views, each differentiated by another rank (utils.ranks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from gaussian_renderer.backend import Differentiate, ViewLoss
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils import ranks

T = TypeVar("T")


def mean_gradients(
    views: Sequence[tuple[Differentiate, Camera]],
    raw: RawParameters,
    out: RawParameters,
    kept: Callable[[ViewLoss], T],
) -> list[T]:
    """What `kept`, a picklable function, keeps of each view's loss; the mean gradients go to `out`.

    At most one view for each rank. Sums are in the order of the views.
    """
    if len(views) == 1:
        differentiate, camera = views[0]
        return [kept(differentiate(camera, raw, out))]
    shares = [share for share in ranks.everywhere(_share, views, raw, kept) if share is not None]
    for target, gradient in zip(out, shares[0][1], strict=True):
        target.copy_(gradient)
    ranks.all_sum(out, (gradients for _, gradients in shares[1:]))
    for target in out:
        target.div_(len(views))
    return [found for found, _ in shares]


def whole(view_loss: ViewLoss) -> ViewLoss:
    """All of it."""
    return view_loss


def _share(
    views: Sequence[tuple[Differentiate, Camera]], raw: RawParameters, kept: Callable[[ViewLoss], T]
) -> tuple[T, RawParameters] | None:
    """For this rank's view, if it has one."""
    for differentiate, camera in ranks.my_share(views):
        gradients = raw.map(torch.empty_like)
        return kept(differentiate(camera, raw, gradients)), gradients
    return None
