# SPDX-License-Identifier: Apache-2.0
"""Scores of Gaussians: what a round prunes by. Low scores go first (prune.py)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from gaussian_renderer.view_gradient import Differentiate
from scene.cameras import Camera
from scene.kernel_statistics import add_to
from scene.raw_parameters import RawParameters


def accumulate_gradients(
    raw: RawParameters,
    views: Iterable[Camera],
    differentiate: Differentiate,
    on_view: Callable[[], None],
) -> RawParameters:
    """Signed sum over `views` of the loss gradients, one tensor per raw tensor."""
    total, gradients = raw.map(torch.zeros_like), raw.map(torch.empty_like)
    for view in views:
        differentiate(view, raw, gradients)
        add_to(total, gradients)
        on_view()
    return total


def gradient_norm_scores(gradients: RawParameters) -> Tensor:
    """Scores (N,): the sum of the L2 norms of a Gaussian's six gradients (Fast-3DGS, COGS'25)."""
    norms = [gradient.flatten(1).norm(dim=1) for gradient in gradients if gradient.numel()]
    return torch.stack(norms).sum(dim=0)
