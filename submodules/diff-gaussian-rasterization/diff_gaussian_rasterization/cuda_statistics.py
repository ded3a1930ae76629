# SPDX-License-Identifier: Apache-2.0
"""Sums over many views on a CUDA device; see statistics.py, which checks arguments and chooses."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._cuda import Arguments, KernelRunner, kernels_for, pointer


class _ViewStatistics(Arguments):
    """Mirror of `rasterizer::ViewStatistics`."""

    _fields_ = (
        ("radii", pointer),
        ("screen", pointer),
        ("count", ctypes.c_int64),
        ("screen_width", ctypes.c_int64),
        ("largest_radii", pointer),
        ("gradient_sums", pointer),
        ("visits", pointer),
    )


class _SumArguments(Arguments):
    """Mirror of `SumArguments` in statistics.cu."""

    _fields_ = (("total", pointer), ("part", pointer), ("count", ctypes.c_int64))


class _WeightedSigns(Arguments):
    """Mirror of `rasterizer::WeightedSigns`."""

    _fields_ = (
        ("gradients", pointer),
        ("values", pointer),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weights", pointer),
        ("weight_stride", ctypes.c_int64),
    )


def kernels_on(device: torch.device) -> KernelRunner:
    """The kernels of statistics.cu."""
    return kernels_for("statistics", device.index)


def add_view(
    kernels: KernelRunner,
    radii: Tensor,
    screen: Tensor,
    largest_radii: Tensor,
    gradient_sums: Tensor,
    visits: Tensor,
) -> None:
    """See statistics.add_view."""
    arguments = _ViewStatistics(
        radii=radii,
        screen=screen,
        count=len(radii),
        screen_width=screen.shape[1],
        largest_radii=largest_radii,
        gradient_sums=gradient_sums,
        visits=visits,
    )
    kernels.launch_over("add_view", len(radii), arguments)


def add_floats(kernels: KernelRunner, total: Tensor, part: Tensor) -> None:
    """Add `part` to `total`, in place."""
    arguments = _SumArguments(total=total, part=part, count=part.numel())
    kernels.launch_over("add_floats", part.numel(), arguments)


def add_signs(kernels: KernelRunner, gradients: Tensor, values: Tensor, weights: Tensor) -> None:
    """See statistics.add_signs."""
    rows = gradients.shape[0]
    arguments = _WeightedSigns(
        gradients=gradients,
        values=values,
        rows=rows,
        width=gradients.numel() // rows,
        weights=weights,
        weight_stride=0 if weights.numel() == 1 else 1,
    )
    kernels.launch_over("add_signs", gradients.numel(), arguments)
