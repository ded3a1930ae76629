# SPDX-License-Identifier: Apache-2.0
"""The training loss, by the fastest code that is installed for the image's device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from utils.loss_utils import fast_ssim, l1_loss
from utils.optional_modules import load, supported_devices


def photometric_loss(image: Tensor, camera: Any, lambda_dssim: float) -> Tensor:
    """(1 - lambda) L1 + lambda (1 - SSIM) between `image` (3,H,W), in 0..1, and the photograph.

    Pixels that the camera's alpha mask excludes are black in both.
    """
    fused = _fused_l1_ssim(image.device.type)
    mask = getattr(camera, "alpha_mask", None)
    if fused is not None and mask is None:
        return fused(image, camera.image_u8.to(image.device), lambda_dssim)
    truth = camera.original_image.to(image.device)
    if mask is not None:
        mask = mask.to(image.device)
        image, truth = image * mask, truth * mask
    if fused is not None:
        return fused(image, truth, lambda_dssim)
    dissimilarity = 1 - fast_ssim(image, truth)
    return (1 - lambda_dssim) * l1_loss(image, truth) + lambda_dssim * dissimilarity


@cache
def _fused_l1_ssim(device: str) -> Callable[[Tensor, Tensor, float], Tensor] | None:
    """Both terms and their gradient in one pass, if the installed package has such a function."""
    package = load("fused_ssim")
    if package is None or device not in supported_devices(package):
        return None
    return getattr(package, "fused_l1_ssim", None)
