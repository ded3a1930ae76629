# SPDX-License-Identifier: Apache-2.0
"""Sensitivities: how small errors of each parameter change the images of the training views."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor

from gaussian_compression.rounds import MOST_PSNR
from scene.cameras import Camera
from scene.exposure import with_scaled_exposure
from scene.raw_parameters import RawParameters
from utils import ranks
from utils.sh_utils import C0

PullBack = Callable[[Camera, Tensor, RawParameters, RawParameters, Tensor], Tensor]
"""(camera, image gradient, raw, out, background) -> image: see Backend.pull_back."""


Draw = Callable[[Camera, RawParameters], Tensor]
"""(camera, raw) -> image (3,H,W) in 0..1: see Backend.draw."""

LEAST_ERROR = 10 ** (-MOST_PSNR / 10)
"""Mean squared error of images at MOST_PSNR."""

DIMMING = 1 / 16
"""Factor of the colours: pixels up to 16 times as bright as white stay below the limit of 1."""
_NEAREST = 0.2
"""Depth in world units: the rasteriser leaves out nearer Gaussians."""
_MARGIN = 1.3
"""In half widths of the image: Gaussians farther from its centre reach only its edge."""
_SHAPE = ("xyz", "opacity", "scaling", "rotation")
_COLOUR = ("features_dc", "features_rest")


@dataclass(frozen=True)
class RenderSensitivity:
    """How small errors of the parameters change the images."""

    per_parameter: RawParameters
    """For an error of 1 in each parameter: the squared error that it adds to an image, as a
    fraction of the image's squared error without it, mean over the views. This fraction is what
    changes their mean PSNR."""
    psnr: float
    """dB against the photographs, of the present model, mean over the views."""
    absolute_error: float
    """Mean |image - photograph|, images in 0..1."""
    pixel_sizes: Tensor
    """(N,): the smallest width of a pixel at the Gaussian's centre in any view, world units; 0 for
    Gaussians in no view's frustum."""

    def raised(self, factors: Mapping[str, float]) -> "RenderSensitivity":
        """These sensitivities, with those of the named attributes multiplied by the factors."""
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

    Estimated with one random sign for each pixel: the square of a sum of derivatives with random
    signs is on average the sum of their squares (Hutchinson 1989). Needs at least one view.

    Images are limited to 0..1 and colours to at least 0. A derivative at a limit is 0, although a
    step of the parameter may leave the limit. As a limit never increases a difference, derivatives
    without limits give an upper bound of the change by a step, and these are used: `dimmed` avoids
    the limit of the images, `grey` that of the colours.
    """
    here = ranks.Here(on_view)
    shares = ranks.everywhere(
        _share_of_squares, raw, list(views), pull_back, background, seed, here
    )
    total = shares[0].total
    ranks.all_sum(total, (share.total for share in shares[1:]))
    return RenderSensitivity(
        _alike_in_colour(total),
        mean(ranks.in_order([share.decibels for share in shares])),
        mean(ranks.in_order([share.absolute for share in shares])),
        smallest_pixels(raw.xyz, views),
    )


@dataclass(frozen=True)
class _Squares:
    """What one rank finds on its views."""

    total: RawParameters
    decibels: list[float]
    absolute: list[float]


def _share_of_squares(
    raw: RawParameters,
    views: Sequence[Camera],
    pull_back: PullBack,
    background: Tensor,
    seed: int,
    on_view: ranks.Here,
) -> _Squares:
    """See render_sensitivity."""
    total, gradients = raw.map(torch.zeros_like), raw.map(torch.empty_like)
    dark, even = dimmed(raw), grey(raw)
    generator = torch.Generator().manual_seed(seed)
    decibels, absolute = [], []
    for index, view in enumerate(views):
        signs = random_signs(view, generator)
        if not ranks.is_mine(index):
            continue
        signs = view.counted(signs.to(raw.xyz.device))
        darkened = with_scaled_exposure(view, colours=1, offset=DIMMING)
        image = pull_back(darkened, signs, dark, gradients, background * DIMMING)
        image = (image / DIMMING).clamp_(0, 1)
        difference = view.counted(image - view.image_u8.to(image.device).float() / 255)
        error = max(float(difference.square().mean(dtype=torch.float64)), LEAST_ERROR)
        share = 1 / (error * difference.numel() * len(views))
        _add_squares(total, gradients, _SHAPE, share / DIMMING**2)
        scale = 1.0 if view.exposure is None else DIMMING  # an exposure may leave the limits
        darkened = with_scaled_exposure(view, colours=scale, offset=scale)
        pull_back(darkened, signs, even, gradients, torch.zeros_like(background))
        _add_squares(total, gradients, _COLOUR, share / scale**2)
        decibels.append(-10 * math.log10(error))
        absolute.append(float(difference.abs().mean(dtype=torch.float64)))
        on_view()
    return _Squares(total, decibels, absolute)


def random_signs(view: Camera, generator: torch.Generator) -> Tensor:
    """(3,H,W): 1 or -1 for each number of an image of the view, on the CPU."""
    shape = view.image_u8.shape
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.float32) * 2 - 1


def dimmed(raw: RawParameters) -> RawParameters:
    """The model with DIMMING times the colours of `raw`, also the negative ones."""
    return raw._replace(
        features_dc=raw.features_dc * DIMMING - (1 - DIMMING) * 0.5 / C0,
        features_rest=raw.features_rest * DIMMING,
    )


def grey(raw: RawParameters) -> RawParameters:
    """The model with the same shapes and opacities in medium grey, far from the colours' limits."""
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
    """The mean of red, green and blue for each: without limits, all three have the same weights."""

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
    """Squared difference of their images, as a fraction of the squared error of `before`.

    The mean over the views, of which there is at least one. RenderSensitivity predicts it for small
    changes.
    """
    here = ranks.Here(on_view)
    shares = ranks.everywhere(_share_of_errors, before, after, list(views), draw, here)
    return mean(ranks.in_order(shares))


def _share_of_errors(
    before: RawParameters,
    after: RawParameters,
    views: Sequence[Camera],
    draw: Draw,
    on_view: ranks.Here,
) -> list[float]:
    """See added_error: for each view of this rank."""
    added = []
    for view in ranks.my_share(views):
        image = draw(view, before).clone()  # the next drawing may overwrite it
        photograph = view.image_u8.to(image.device).float() / 255
        error = view.counted(image - photograph).square().mean(dtype=torch.float64)
        change = view.counted(draw(view, after) - image).square().mean(dtype=torch.float64)
        added.append(float(change) / max(float(error), LEAST_ERROR))
        on_view()
    return added
