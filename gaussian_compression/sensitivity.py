# SPDX-License-Identifier: Apache-2.0
"""Sensitivities: what small errors of each parameter do to the images of the training views."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from scene.cameras import Camera
from scene.raw_parameters import RawParameters

PullBack = Callable[[Camera, Tensor, RawParameters, RawParameters], Tensor]
"""(camera, image gradient, raw, out) -> image: see ViewGradient.pull_back."""


LEAST_ERROR = (1 / 255) ** 2 / 12
"""Mean squared error of rounding a photograph to 8 bits: no view can be told to be better."""


@dataclass(frozen=True)
class RenderSensitivity:
    """What small errors of the parameters do to images."""

    per_parameter: RawParameters
    """For an error of 1 in each parameter: the squared error that it adds to an image, as a part of
    the one that is there, on average over the views. So it counts as it does in their mean PSNR."""
    psnr: float
    """dB against the photographs, of the model as it is, on average over the views."""
    absolute_error: float
    """Mean |image - photograph|, images in 0..1."""


def render_sensitivity(
    raw: RawParameters,
    views: Sequence[Camera],
    pull_back: PullBack,
    seed: int,
    on_view: Callable[[], None],
) -> RenderSensitivity:
    """The diagonal of the images' Gauss-Newton matrix, summed over all pixels of `views`.

    Estimated by one random sign for each pixel: the square of a sum of derivatives with random
    signs is the sum of their squares, on average (Hutchinson 1989). At least one view.
    """
    total, gradients = raw.map(torch.zeros_like), raw.map(torch.empty_like)
    generator = torch.Generator().manual_seed(seed)
    decibels, absolute = [], []
    for view in views:
        shape = view.image_u8.shape
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.float32) * 2 - 1
        image = pull_back(view, signs.to(raw.xyz.device), raw, gradients)
        difference = image - view.image_u8.to(image.device).float() / 255
        error = max(float(difference.square().mean(dtype=torch.float64)), LEAST_ERROR)
        share = 1 / (error * difference.numel() * len(views))
        for accumulated, gradient in zip(total, gradients, strict=True):
            accumulated.addcmul_(gradient, gradient, value=share)
        decibels.append(-10 * math.log10(error))
        absolute.append(float(difference.abs().mean(dtype=torch.float64)))
        on_view()
    return RenderSensitivity(total, mean(decibels), mean(absolute))
