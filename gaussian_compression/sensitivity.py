# SPDX-License-Identifier: Apache-2.0
"""How much parameters matter: gradients of the loss, and of the images, over the training views."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


PullBack = Callable[[Camera, Tensor, RawParameters, RawParameters], Tensor]
"""(camera, image gradient, raw, out) -> image: see ViewGradient.pull_back."""


@dataclass(frozen=True)
class RenderSensitivity:
    """What small errors of the parameters do to images."""

    per_parameter: RawParameters
    """Mean squared error of the images (0..1) for an error of 1 in each parameter."""
    error: float
    """Mean squared error of the images against the photographs, as the model is."""


def render_sensitivity(
    raw: RawParameters,
    views: Sequence[Camera],
    pull_back: PullBack,
    seed: int,
    on_view: Callable[[], None],
) -> RenderSensitivity:
    """The diagonal of the images' Gauss-Newton matrix, summed over all pixels of `views`.

    Estimated by one random sign for each pixel: the square of a sum of derivatives with random
    signs is the sum of their squares, on average (Hutchinson 1989).
    """
    total, gradients = raw.map(torch.zeros_like), raw.map(torch.empty_like)
    generator = torch.Generator().manual_seed(seed)
    pixels, squared_error = 0, 0.0
    for view in views:
        shape = view.image_u8.shape
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.float32) * 2 - 1
        image = pull_back(view, signs.to(raw.xyz.device), raw, gradients)
        for accumulated, gradient in zip(total, gradients, strict=True):
            accumulated.addcmul_(gradient, gradient)
        truth = view.image_u8.to(image.device).float() / 255
        squared_error += float((image - truth).square().sum(dtype=torch.float64))
        pixels += image.numel()
        on_view()
    pixels = max(1, pixels)
    return RenderSensitivity(total.map(lambda t: t / pixels), squared_error / pixels)
