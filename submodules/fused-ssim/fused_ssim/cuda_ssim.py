# SPDX-License-Identifier: Apache-2.0
"""The kernels of ssim.cu on a CUDA device; the package checks arguments and chooses."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._cuda import Arguments, KernelRunner, kernels_for, pointer

_TILE_WIDTH, _TILE_HEIGHT = 32, 16  # of ssim.cu


class _SsimArguments(Arguments):
    """Mirror of `SsimArguments` in ssim.cu."""

    _fields_ = (
        ("image", pointer),
        ("target", pointer),
        ("target_bytes", pointer),
        ("slopes", pointer),
        ("gradient", pointer),
        ("sums", pointer),
        ("means", pointer),
        ("planes", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("margin", ctypes.c_int32),
        ("l1_scale", ctypes.c_float),
        ("ssim_scale", ctypes.c_float),
        ("inverse_values", ctypes.c_double),
        ("inverse_windows", ctypes.c_double),
    )


def kernels_on(device: torch.device) -> KernelRunner:
    """The kernels of ssim.cu."""
    return kernels_for("ssim", device.index)


def l1_ssim(
    kernels: KernelRunner,
    image: Tensor,
    target: Tensor,
    weights: tuple[float, float],
    margin: int,
    gradient: Tensor | None,
) -> Tensor:
    """(mean absolute difference, mean SSIM), float64 (2,) on the device; nothing waits for it.

    `image` and `target` (..., H, W) are contiguous, the target float32 or uint8. `gradient` gets
    the derivatives of the sum of both means, each times its weight.
    """
    height, width = image.shape[-2:]
    planes = image.numel() // (height * width)
    blocks = planes * -(-height // _TILE_HEIGHT) * -(-width // _TILE_WIDTH)
    windows = planes * (height - 2 * margin) * (width - 2 * margin)
    in_bytes = target.dtype == torch.uint8
    means = image.new_empty(2, dtype=torch.float64)
    arguments = _SsimArguments(
        image=image,
        target=None if in_bytes else target,
        target_bytes=target if in_bytes else None,
        slopes=None if gradient is None else image.new_empty((3, *image.shape)),
        gradient=gradient,
        sums=image.new_empty((blocks, 2), dtype=torch.float64),
        means=means,
        planes=planes,
        blocks=blocks,
        height=height,
        width=width,
        margin=margin,
        l1_scale=weights[0] / image.numel(),
        ssim_scale=weights[1] / windows,
        inverse_values=1.0 / image.numel(),
        inverse_windows=1.0 / windows,
    )
    kernels.launch("ssim_compare", blocks, arguments)
    kernels.launch("ssim_means", 1, arguments)
    if gradient is not None:
        kernels.launch("ssim_gradient", blocks, arguments)
    return means
