# SPDX-License-Identifier: Apache-2.0
"""Scores a render against its photo; every script and report uses these functions."""

import math

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError
from utils.loss_utils import fast_ssim


@torch.no_grad()
def score_images(render_u8: Tensor, gt_u8: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM of an 8-bit render against its photo, both uint8 (3, H, W).

    PSNR is over all pixels and channels, and infinite for equal images.
    """
    check_pair(render_u8, gt_u8)
    difference = _difference(render_u8, gt_u8)
    squared_error = int(np.square(difference, dtype=np.int32).sum(dtype=np.int64)) / difference.size
    psnr = 10 * math.log10(255**2 / squared_error) if squared_error > 0 else math.inf
    ssim = fast_ssim(_in_unit_range(render_u8), _in_unit_range(gt_u8))
    return psnr, float(ssim)


def check_pair(render_u8: Tensor, gt_u8: Tensor) -> None:
    """InputError unless both are uint8 (3, H, W), of one size."""
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


def mean_difference(render_u8: Tensor, gt_u8: Tensor) -> float:
    """Mean absolute difference, in 0..1, of uint8 images of one shape."""
    return float(np.abs(_difference(render_u8, gt_u8)).mean()) / 255


# NumPy on a CPU: PyTorch's threads wait for each other longer than they work on an image, and use
# the processor meanwhile: 20 ms of processor time were measured for what takes NumPy 0.5 ms.


def _in_unit_range(image_u8: Tensor) -> Tensor:
    if image_u8.device.type != "cpu":
        return image_u8.to(torch.float32) / 255.0
    return torch.from_numpy(np.divide(image_u8.numpy(), 255.0, dtype=np.float32))


def _difference(render_u8: Tensor, gt_u8: Tensor) -> np.ndarray:
    return np.subtract(render_u8.cpu().numpy(), gt_u8.cpu().numpy(), dtype=np.int16)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
