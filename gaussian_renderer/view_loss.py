# SPDX-License-Identifier: Apache-2.0
"""What a view's loss has beside the photograph: an exposure, a mask, a map of inverse depths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussian_renderer.photometric import photometric_loss
from scene.cameras import Camera
from scene.exposure import exposed
from utils.errors import InputError


@dataclass(frozen=True)
class ImageLoss:
    """The loss of one render, and its derivatives."""

    loss: Tensor
    """With the depths' part, shape ()."""
    depth_loss: Tensor | None
    """The weighted part of the depths, shape ()."""
    image: Tensor
    """(3,H,W) in 0..1, as compared with the photograph."""
    image_gradient: Tensor
    """(3,H,W), with respect to the render."""
    depth_gradient: Tensor | None
    """(1,H,W)."""
    exposure_gradient: Tensor | None
    """(3,4)."""


def supervises_depth(camera: Camera, depth_weight: float) -> bool:
    """Whether the loss of the view has a part of depths."""
    return depth_weight > 0 and camera.invdepthmap is not None and camera.depth_reliable


def is_photometric(camera: Camera, depth_weight: float) -> bool:
    """Whether the loss of the view compares the plain render with the photograph only."""
    return (
        camera.exposure is None
        and not camera.is_masked
        and not supervises_depth(camera, depth_weight)
    )


def corrected(image: Tensor, camera: Camera) -> Tensor:
    """A render as it is compared with the photograph: exposed and limited to 0..1."""
    if camera.exposure is None:
        return image
    return exposed(image, camera.exposure.to(image.device)).clamp(0, 1)


def depth_loss(inverse_depth: Tensor | None, camera: Camera) -> Tensor:
    """Mean |inverse depth - map| over the pixels of the mask, a part of all pixels."""
    if inverse_depth is None:
        raise InputError("-d/--depths: the installed rasteriser computes no inverse depth")
    assert camera.invdepthmap is not None and camera.depth_mask is not None
    expected, mask = (t.to(inverse_depth.device) for t in (camera.invdepthmap, camera.depth_mask))
    return ((inverse_depth - expected) * mask).abs().mean()


def image_loss(
    image: Tensor,
    inverse_depth: Tensor | None,
    camera: Camera,
    lambda_dssim: float,
    depth_weight: float,
) -> ImageLoss:
    """The loss of a render (3,H,W), which is limited to 0..1 unless the camera has an exposure."""
    image = image.detach().requires_grad_()
    wanted, exposure, depth_part = [image], None, None
    if camera.exposure is not None:
        exposure = camera.exposure.detach().to(image.device).requires_grad_()
        wanted.append(exposure)
    with torch.enable_grad():
        shown = image if exposure is None else exposed(image, exposure).clamp(0, 1)
        loss = photometric_loss(shown, camera, lambda_dssim)
        if supervises_depth(camera, depth_weight):
            inverse_depth = None if inverse_depth is None else inverse_depth.detach()
            if inverse_depth is not None:
                wanted.append(inverse_depth.requires_grad_())
            depth_part = depth_weight * depth_loss(inverse_depth, camera)
            loss = loss + depth_part
    found = iter(torch.autograd.grad(loss, wanted))
    image_gradient = next(found)
    exposure_gradient = None if exposure is None else next(found)
    return ImageLoss(
        loss=loss.detach(),
        depth_loss=None if depth_part is None else depth_part.detach(),
        image=shown.detach(),
        image_gradient=image_gradient,
        depth_gradient=next(found, None),
        exposure_gradient=exposure_gradient,
    )


def exposed_gradient(image: Tensor, camera: Camera, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The image as it is compared, and the derivative of its sum with `gradient` by the render."""
    if camera.exposure is None:
        return image, gradient
    image = image.detach().requires_grad_()
    with torch.enable_grad():
        shown = corrected(image, camera)
    (pulled,) = torch.autograd.grad(shown, image, gradient)
    return shown.detach(), pulled
