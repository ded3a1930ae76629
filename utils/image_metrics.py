# SPDX-License-Identifier: Apache-2.0
"""The one place where a render is scored against its photo, for every script and report."""

import math

import torch
from torch import Tensor

from utils.errors import InputError
from utils.loss_utils import fast_ssim


@torch.no_grad()
def score_images(render_u8: Tensor, gt_u8: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM of an 8-bit render against its photo, both uint8 (3, H, W).

    PSNR is over all pixels and channels, and infinite for equal images.
    """
    for name, image in (("render", render_u8), ("photo", gt_u8)):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise InputError(
                f"the {name} must be uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}"
            )
    if render_u8.shape != gt_u8.shape:
        raise InputError(
            f"the render has {_size(render_u8)} pixels, the photo {_size(gt_u8)}: "
            "expected the same size"
        )
    difference = render_u8.to(torch.int32) - gt_u8.to(torch.int32)
    squared_error = int((difference * difference).sum()) / difference.numel()
    psnr = 10 * math.log10(255**2 / squared_error) if squared_error > 0 else math.inf
    ssim = fast_ssim(render_u8.to(torch.float32) / 255.0, gt_u8.to(torch.float32) / 255.0)
    return psnr, float(ssim)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
