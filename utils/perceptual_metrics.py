# SPDX-License-Identifier: Apache-2.0
"""Measures of perceived differences between a render and its photo: MS-SSIM and FLIP.

They are reported beside PSNR and SSIM (`metrics.py --extra`), and never trained on.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import InputError
from utils.image_metrics import check_pair
from utils.loss_utils import C1, C2, SSIM_SIGMA, gaussian
from utils.optional_modules import load

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, from fine to coarse: Wang, Simoncelli and Bovik 2003, section 4."""
WINDOW = 11
LEAST_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""Pixels: the window must fit into the coarsest scale."""

Measure = Callable[[Tensor, Tensor], float | None]
"""Of a render and its photo, both uint8 (3, H, W); None where it cannot be computed."""


@torch.no_grad()
def ms_ssim(render_u8: Tensor, gt_u8: Tensor) -> float:
    """Multi-scale SSIM of an 8-bit render against its photo, both uint8 (3, H, W).

    Wang, Simoncelli and Bovik 2003: the window is only placed where it fits, and the next scale is
    the mean of 2x2 pixels. Of each colour channel alone, then their mean. InputError if a side has
    less than LEAST_SIDE pixels.
    """
    check_pair(render_u8, gt_u8)
    if min(render_u8.shape[1:]) < LEAST_SIDE:
        raise InputError(
            f"MS-SSIM needs images of at least {LEAST_SIDE} pixels on each side, got "
            f"{render_u8.shape[2]}x{render_u8.shape[1]}"
        )
    x, y = (image.to(torch.float64)[:, None] / 255 for image in (render_u8, gt_u8))
    product = torch.ones(3, dtype=torch.float64, device=x.device)
    last = len(SCALE_WEIGHTS) - 1
    for scale, weight in enumerate(SCALE_WEIGHTS):
        structure, whole = _ssim_maps(x, y)
        means = (whole if scale == last else structure).mean(dim=(1, 2, 3))
        # A negative mean, of images with opposite structure, has no real power.
        product *= means.clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return float(product.mean())


def _ssim_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast times structure, and the whole of SSIM, of (N, 1, H, W) in 0..1."""
    row = gaussian(WINDOW, SSIM_SIGMA).to(x)
    row = row / row.sum()  # their sum was 1 in single precision

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, row.view(1, 1, 1, -1)), row.view(1, 1, -1, 1))

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    structure = (2 * covariance + C2) / (variances + C2)
    return structure, structure * (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)


def extra_measures() -> dict[str, Measure | None]:
    """MS-SSIM and FLIP by name; FLIP is None without its package."""
    return {"MS-SSIM": _ms_ssim_if_large_enough, "FLIP": flip_measure()}


def _ms_ssim_if_large_enough(render_u8: Tensor, gt_u8: Tensor) -> float | None:
    large_enough = min(render_u8.shape[1:]) >= LEAST_SIDE
    return ms_ssim(render_u8, gt_u8) if large_enough else None


def flip_measure() -> Measure | None:
    """The mean of the LDR-FLIP error map, 0 for equal images; None without its package.

    Andersson et al. 2020, by NVIDIA's package `flip-evaluator`, for its default viewing distance
    of 67 pixels per degree.
    """
    package = load("flip_evaluator", instead="FLIP is left out")
    if package is None:
        return None

    def measure(render_u8: Tensor, gt_u8: Tensor) -> float:
        check_pair(render_u8, gt_u8)
        render, truth = (_rows_of_pixels(image) for image in (render_u8, gt_u8))
        return float(package.evaluate(truth, render, "LDR", applyMagma=False)[1])

    return measure


def _rows_of_pixels(image_u8: Tensor) -> np.ndarray:
    """(H, W, 3) float32 in 0..1."""
    return np.ascontiguousarray(image_u8.permute(1, 2, 0).cpu().numpy(), np.float32) / 255
