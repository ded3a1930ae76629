# SPDX-License-Identifier: Apache-2.0
"""Sensitivities: what small errors of each parameter do to the images of the training views."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor

from gaussian_compression.rounds import MOST_PSNR
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.sh_utils import C0

PullBack = Callable[[Camera, Tensor, RawParameters, RawParameters, Tensor], Tensor]
"""(camera, image gradient, raw, out, background) -> image: see Backend.pull_back."""


Draw = Callable[[Camera, RawParameters], Tensor]
"""(camera, raw) -> image (3,H,W) in 0..1: see Backend.draw."""

LEAST_ERROR = 10 ** (-MOST_PSNR / 10)
"""Mean squared error of images at MOST_PSNR."""

DIMMING = 1 / 16
"""Pixels up to 16 times as bright as white are then below the limit of 1."""
_NEAREST = 0.2
"""World units: the rasteriser leaves out what is nearer."""
_MARGIN = 1.3
"""Half widths of the image: what lies farther beside it reaches into it at its edge at most."""
_SHAPE = ("xyz", "opacity", "scaling", "rotation")
_COLOUR = ("features_dc", "features_rest")


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
    pixel_sizes: Tensor
    """(N,) the smallest width of a pixel at the Gaussian's centre in any view, world units; 0 where
    no view has it in its frustum."""

    def raised(self, factors: Mapping[str, float]) -> "RenderSensitivity":
        """The same with the sensitivities of the attributes named multiplied by their factors."""
        per_parameter = self.per_parameter
        raised = {name: getattr(per_parameter, name) * by for name, by in factors.items()}
        return replace(self, per_parameter=per_parameter._replace(**raised))


def render_sensitivity(
    raw: RawParameters,
    views: Sequence[Camera],
    pull_back: PullBack,
    background: Tensor,
    seed: int,
    on_view: Callable[[], None],
) -> RenderSensitivity:
    """The diagonal of the images' Gauss-Newton matrix, summed over all pixels of `views`.

    Estimated by one random sign for each pixel: the square of a sum of derivatives with random
    signs is the sum of their squares, on average (Hutchinson 1989). At least one view.

    Images and colours are limited (to 0..1, from 0), and a derivative at a limit is 0 although the
    next step may leave it. A limit never enlarges a difference: the derivatives without limits are
    an upper bound of what a step does, and these are taken. `dimmed` takes the images' limit away,
    `grey` that of the colours.
    """
    total, gradients = raw.map(torch.zeros_like), raw.map(torch.empty_like)
    dark, even = dimmed(raw), grey(raw)
    generator = torch.Generator().manual_seed(seed)
    decibels, absolute = [], []
    for view in views:
        shape = view.image_u8.shape
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.float32) * 2 - 1
        signs = signs.to(raw.xyz.device)
        image = pull_back(view, signs, dark, gradients, background * DIMMING)
        image = (image / DIMMING).clamp_(0, 1)
        difference = image - view.image_u8.to(image.device).float() / 255
        error = max(float(difference.square().mean(dtype=torch.float64)), LEAST_ERROR)
        share = 1 / (error * difference.numel() * len(views))
        _add_squares(total, gradients, _SHAPE, share / DIMMING**2)
        pull_back(view, signs, even, gradients, torch.zeros_like(background))
        _add_squares(total, gradients, _COLOUR, share)
        decibels.append(-10 * math.log10(error))
        absolute.append(float(difference.abs().mean(dtype=torch.float64)))
        on_view()
    return RenderSensitivity(
        _alike_in_colour(total),
        mean(decibels),
        mean(absolute),
        smallest_pixels(raw.xyz, views),
    )


def dimmed(raw: RawParameters) -> RawParameters:
    """The model whose colours are DIMMING times those of `raw`, negative ones included."""
    return raw._replace(
        features_dc=raw.features_dc * DIMMING - (1 - DIMMING) * 0.5 / C0,
        features_rest=raw.features_rest * DIMMING,
    )


def grey(raw: RawParameters) -> RawParameters:
    """The model of the same shapes and opacities in a medium grey, at no limit of its colours."""
    return raw._replace(
        features_dc=torch.zeros_like(raw.features_dc),
        features_rest=torch.zeros_like(raw.features_rest),
    )


def _add_squares(
    total: RawParameters, gradients: RawParameters, names: Sequence[str], weight: float
) -> None:
    for name in names:
        gradient = getattr(gradients, name)
        getattr(total, name).addcmul_(gradient, gradient, value=weight)


def _alike_in_colour(total: RawParameters) -> RawParameters:
    """The mean of red, green and blue for each: without limits all three have the same weights."""

    def alike(colours: Tensor) -> Tensor:
        return colours.mean(dim=2, keepdim=True).expand_as(colours).contiguous()

    return total._replace(
        features_dc=alike(total.features_dc), features_rest=alike(total.features_rest)
    )


def smallest_pixels(xyz: Tensor, views: Sequence[Camera]) -> Tensor:
    """See RenderSensitivity.pixel_sizes."""
    smallest = torch.full_like(xyz[:, 0], math.inf)
    for view in views:
        x, y, _, depth = (xyz @ view.full_proj_transform[:3] + view.full_proj_transform[3]).unbind(
            1
        )
        inside = (depth > _NEAREST) & (torch.maximum(x.abs(), y.abs()) < _MARGIN * depth)
        focal_x = view.image_width / (2 * math.tan(view.FoVx / 2))
        focal_y = view.image_height / (2 * math.tan(view.FoVy / 2))
        width = torch.where(inside, depth / max(focal_x, focal_y), math.inf)
        smallest = torch.minimum(smallest, width)
    return smallest.masked_fill_(smallest.isinf(), 0)


def added_error(
    before: RawParameters,
    after: RawParameters,
    views: Sequence[Camera],
    draw: Draw,
    on_view: Callable[[], None],
) -> float:
    """Squared difference of their images, as a part of the squared error of `before`: views' mean.

    What RenderSensitivity foretells for small changes, measured. At least one view.
    """
    added = []
    for view in views:
        image = draw(view, before).clone()  # drawing the next may write over it
        photograph = view.image_u8.to(image.device).float() / 255
        error = (image - photograph).square().mean(dtype=torch.float64)
        change = (draw(view, after) - image).square().mean(dtype=torch.float64)
        added.append(float(change) / max(float(error), LEAST_ERROR))
        on_view()
    return mean(added)
