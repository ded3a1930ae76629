# SPDX-License-Identifier: Apache-2.0
"""SSIM of every pixel, in PyTorch's operations: for code that weights pixels, or that calls the
compiled part of the CUDA package itself.

The constants C1 and C2 are given by the caller. Images are (N, C, H, W), float, of any device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_RADIUS = 5
_SIGMA = 1.5
_PADDINGS = ("same", "valid")


def fusedssim(
    C1: float, C2: float, img1: Tensor, img2: Tensor, train: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The map of SSIM, and its derivatives for the filtered `img1`, `img1`^2 and `img1` `img2`.

    All have the shape of the images. Without `train` the derivatives are empty.
    """
    _check(img1, img2)
    mean1, mean2 = _filtered(img1), _filtered(img2)
    variance1 = _filtered(img1 * img1) - mean1 * mean1
    variance2 = _filtered(img2 * img2) - mean2 * mean2
    covariance = _filtered(img1 * img2) - mean1 * mean2
    luminance = (2 * mean1 * mean2 + C1) / (mean1 * mean1 + mean2 * mean2 + C1)
    spread = variance1 + variance2 + C2
    contrast = (2 * covariance + C2) / spread
    ssim = luminance * contrast
    if not train:
        return ssim, *(img1.new_empty(0) for _ in range(3))  # type: ignore[return-value]
    for_square = -ssim / spread
    for_product = 2 * luminance / spread
    # The variances and the covariance contain the mean, too.
    of_luminance = 2 * (mean2 - luminance * mean1) / (mean1 * mean1 + mean2 * mean2 + C1)
    for_mean = contrast * of_luminance - 2 * mean1 * for_square - mean2 * for_product
    return ssim, for_mean, for_square, for_product


def fusedssim_backward(
    C1: float,
    C2: float,
    img1: Tensor,
    img2: Tensor,
    dL_dmap: Tensor,
    dm_dmu1: Tensor,
    dm_dsigma1_sq: Tensor,
    dm_dsigma12: Tensor,
) -> Tensor:
    """The derivative for `img1`, from that for the map and the derivatives `fusedssim` returned."""
    parts = (dm_dmu1, dm_dsigma1_sq, dm_dsigma12)
    for_mean, for_square, for_product = (_filtered(dL_dmap * part) for part in parts)
    return for_mean + 2 * img1 * for_square + img2 * for_product


class FusedSSIMMap(torch.autograd.Function):
    """`apply(C1, C2, img1, img2, padding="same", train=True)`: the map, with a gradient for img1.

    With padding "valid" the map has only the pixels whose window lies inside of the image.
    """

    @staticmethod
    def forward(
        ctx: Any,
        C1: float,
        C2: float,
        img1: Tensor,
        img2: Tensor,
        padding: str = "same",
        train: bool = True,
    ) -> Tensor:
        """The map."""
        if padding not in _PADDINGS:
            raise ValueError(f"padding must be one of {_PADDINGS}, not {padding!r}.")
        ssim, *derivatives = fusedssim(C1, C2, img1, img2, train)
        ctx.constants, ctx.padding, ctx.train = (C1, C2), padding, train
        ctx.save_for_backward(img1, img2, *derivatives)
        return ssim if padding == "same" else _inside(ssim).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dL_dmap: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative for img1."""
        if not ctx.train:
            raise RuntimeError("FusedSSIMMap has no gradient where train is False.")
        img1, img2, *derivatives = ctx.saved_tensors
        if ctx.padding == "valid":
            whole = torch.zeros_like(img1)
            _inside(whole).copy_(dL_dmap)
            dL_dmap = whole
        gradient = fusedssim_backward(
            *(ctx.constants[0], ctx.constants[1], img1, img2, dL_dmap),
            *(derivatives[0], derivatives[1], derivatives[2]),
        )
        return None, None, gradient, None, None, None


def _filtered(images: Tensor) -> Tensor:
    """The images convolved with the Gaussian window, zeros around them."""
    channels = images.shape[1]
    weights = [math.exp(-(k**2) / (2 * _SIGMA**2)) for k in range(-_RADIUS, _RADIUS + 1)]
    row = torch.tensor(weights, dtype=images.dtype, device=images.device) / sum(weights)
    horizontal = row.expand(channels, 1, 1, -1)
    rows = functional.conv2d(images, horizontal, padding=(0, _RADIUS), groups=channels)
    vertical = horizontal.transpose(2, 3)
    return functional.conv2d(rows, vertical, padding=(_RADIUS, 0), groups=channels)


def _inside(images: Tensor) -> Tensor:
    return images[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def _check(img1: Tensor, img2: Tensor) -> None:
    if img1.ndim != 4 or img1.numel() == 0 or img1.shape != img2.shape:
        raise ValueError(
            "img1 and img2 must have one shape (N, C, H, W) and not be empty, but their shapes "
            f"are {tuple(img1.shape)} and {tuple(img2.shape)}."
        )
