# SPDX-License-Identifier: Apache-2.0
"""Losses between images in 0..1: L1, L2 and SSIM.

SSIM is that of Wang et al. 2004 with an 11x11 Gaussian window of sigma 1.5 and zeros around the
image, as in pytorch-ssim, which the 3DGS literature uses.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.optional_modules import load, load_required, supported_devices

SSIM_SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def l1_loss(network_output: Tensor, gt: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (network_output - gt).abs().mean()


def l2_loss(network_output: Tensor, gt: Tensor) -> Tensor:
    """Mean squared difference."""
    return ((network_output - gt) ** 2).mean()


def gaussian(window_size: int, sigma: float) -> Tensor:
    """(window_size,) Gaussian weights around the middle, with sum 1."""
    middle = window_size // 2
    weights = [math.exp(-((i - middle) ** 2) / (2 * sigma**2)) for i in range(window_size)]
    return torch.tensor(weights) / sum(weights)


def create_window(window_size: int, channel: int) -> Tensor:
    """(channel, 1, window_size, window_size) Gaussian window for a depthwise convolution."""
    row = gaussian(window_size, SSIM_SIGMA)
    return torch.outer(row, row).expand(channel, 1, window_size, window_size).contiguous()


def ssim(img1: Tensor, img2: Tensor, window_size: int = 11, size_average: bool = True) -> Tensor:
    """Mean SSIM of images (C, H, W) or (N, C, H, W); (N,) means if not `size_average`."""
    batches = [image[None] if image.dim() == 3 else image for image in (img1, img2)]
    blur = _depthwise_blur(window_size, batches[0])
    x, y = batches
    # One convolution over all five maps: fewer passes over memory.
    mean_x, mean_y, xx, yy, xy = blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    covariance = xy - mean_x * mean_y
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    ssim_map = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x**2 + mean_y**2 + C1) * (variances + C2)
    )
    return ssim_map.mean() if size_average else ssim_map.mean(dim=(1, 2, 3))


def _depthwise_blur(window_size: int, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Convolution of (N, C, H, W) with the Gaussian window, as its two one-dimensional factors."""
    channels = like.shape[1]
    row = gaussian(window_size, SSIM_SIGMA).to(like)
    horizontal = row.expand(channels, 1, 1, window_size)
    vertical = horizontal.transpose(2, 3)
    half = window_size // 2

    def blur(images: Tensor) -> Tensor:
        rows = F.conv2d(images, horizontal, padding=(0, half), groups=channels)
        return F.conv2d(rows, vertical, padding=(half, 0), groups=channels)

    return blur


def fast_ssim(img1: Tensor, img2: Tensor) -> Tensor:
    """`ssim` by the package fused_ssim where it is installed for the images' device.

    The gradient flows to `img1` only.
    """
    fused = _fused_ssim(img1.device.type)
    if fused is None:
        return ssim(img1, img2.detach())
    batches = [image[None] if image.dim() == 3 else image for image in (img1, img2)]
    return fused(*batches)


def __getattr__(name: str) -> Any:
    """`FusedSSIMMap` is that of the package fused_ssim, which is loaded when it is asked for."""
    if name != "FusedSSIMMap":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_required("fused_ssim", name, "pip install submodules/fused-ssim").FusedSSIMMap


@functools.cache
def _fused_ssim(device_type: str) -> Callable[..., Tensor] | None:
    package = load("fused_ssim")
    if package is None or device_type not in supported_devices(package):
        return None
    return package.fused_ssim
