# SPDX-License-Identifier: Apache-2.0
"""Sums over many views, on a CPU by the package's own threads.

PyTorch could compute the same sums, but its threads would then busy-wait beside those of the
kernels, which costs more than the sums themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from . import native
from .native import address, checked, row_count


class _ViewStatistics(ctypes.Structure):
    """Mirror of `rasterizer::ViewStatistics`."""

    _fields_ = [
        ("radii", ctypes.c_void_p),
        ("screen", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("screen_width", ctypes.c_int64),
        ("largest_radii", ctypes.c_void_p),
        ("gradient_sums", ctypes.c_void_p),
        ("visits", ctypes.c_void_p),
    ]


class _WeightedSigns(ctypes.Structure):
    """Mirror of `rasterizer::WeightedSigns`."""

    _fields_ = [
        ("gradients", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("weight_stride", ctypes.c_int64),
    ]


native.library.statistics_add_signs.argtypes = [ctypes.POINTER(_WeightedSigns), ctypes.c_int32]
native.library.statistics_add_view.argtypes = [ctypes.POINTER(_ViewStatistics), ctypes.c_int32]
native.library.statistics_add_view.restype = None
native.library.statistics_add_floats.argtypes = [
    *(ctypes.c_void_p,) * 2,
    ctypes.c_int64,
    ctypes.c_int32,
]
native.library.statistics_add_floats.restype = None


def add_view(
    radii: torch.Tensor,
    screen: torch.Tensor,
    largest_radii: torch.Tensor,
    gradient_sums: torch.Tensor,
    visits: torch.Tensor,
) -> None:
    """Add one view to the last three: the greatest radius and, where visible, |screen| and 1.

    radii int32 (N,), 0 where not visible; screen (N, 2), or wider with the rest ignored;
    largest_radii (N,); gradient_sums and visits (N, 1). Float32, contiguous, on one device; else
    ValueError.
    """
    count = row_count("radii", radii)
    device = native.kernel_device(radii)
    kind = radii.dtype, radii.device, radii.dim()
    if kind != (torch.int32, device, 1) or not radii.is_contiguous():
        raise ValueError("radii must be a contiguous int32 tensor (N,) on the CPU or a GPU.")
    if screen.dim() != 2 or screen.shape[1] < 2:
        raise ValueError(f"screen must have the shape (N, 2), not {tuple(screen.shape)}.")
    checked("screen", screen, (count, None), written=True, device=device)
    checked("largest_radii", largest_radii, (count,), written=True, device=device)
    checked("gradient_sums", gradient_sums, (count, 1), written=True, device=device)
    checked("visits", visits, (count, 1), written=True, device=device)
    if native.on_cuda(radii):
        from . import cuda_statistics

        kernels = cuda_statistics.kernels_on(device)
        cuda_statistics.add_view(kernels, radii, screen, largest_radii, gradient_sums, visits)
        return
    statistics = _ViewStatistics(
        address(radii),
        address(screen),
        count,
        screen.shape[1],
        address(largest_radii),
        address(gradient_sums),
        address(visits),
    )
    native.library.statistics_add_view(statistics, torch.get_num_threads())


def add_to(totals: Sequence[torch.Tensor], parts: Sequence[torch.Tensor]) -> None:
    """Add each part to its total, in place. Float32, contiguous, on one device; else ValueError."""
    for total, part in zip(totals, parts, strict=True):
        device = native.kernel_device(total)
        checked("total", total, tuple(part.shape), written=True, device=device)
        checked("part", part, tuple(part.shape), written=True, device=device)
        if native.on_cuda(total):
            from . import cuda_statistics

            cuda_statistics.add_floats(cuda_statistics.kernels_on(device), total, part)
            continue
        threads = torch.get_num_threads()
        native.library.statistics_add_floats(address(total), address(part), part.numel(), threads)


def add_signs(gradients: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> None:
    """Add weight x sign(value) to the gradients, in place: a penalty on the magnitudes of values.

    `gradients` and `values` (N, ...); `weights` (1,), or (N,), one for each row. Float32,
    contiguous, on one device; else ValueError.
    """
    rows, device = gradients.shape[0], native.kernel_device(gradients)
    checked("gradients", gradients, tuple(gradients.shape), written=True, device=device)
    checked("values", values, tuple(gradients.shape), written=True, device=device)
    shape = (1 if weights.numel() == 1 else rows,)
    checked("weights", weights, shape, written=True, device=device)
    if not gradients.numel():
        return
    if native.on_cuda(gradients):
        from . import cuda_statistics

        cuda_statistics.add_signs(cuda_statistics.kernels_on(device), gradients, values, weights)
        return
    signs = _WeightedSigns(
        address(gradients),
        address(values),
        rows,
        gradients.numel() // rows,
        address(weights),
        0 if weights.numel() == 1 else 1,
    )
    native.check_status(native.library.statistics_add_signs(signs, torch.get_num_threads()))
