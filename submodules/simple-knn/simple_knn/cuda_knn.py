# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours on a CUDA device, by the kernels of knn.cu."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._cuda import Arguments, KernelRunner, kernels_for, pointer

_LEAF_POINTS = 8  # at most


class _KnnArguments(Arguments):
    """Mirror of `KnnArguments` in knn.cu."""

    _fields_ = (
        ("positions", pointer),
        ("low", pointer),
        ("high", pointer),
        ("codes", pointer),
        ("order", pointer),
        ("boxes", pointer),
        ("means", pointer),
        ("count", ctypes.c_int64),
        ("leaves", ctypes.c_int64),
        ("level", ctypes.c_int64),
    )


def kernels_on(device: torch.device) -> KernelRunner:
    """The kernels of knn.cu."""
    return kernels_for("knn", device.index)


def mean_squared_distances(kernels: KernelRunner, positions: Tensor) -> Tensor:
    """See _C.distCUDA2; `positions` (N, 3) are finite and contiguous."""
    count, leaves = len(positions), 1
    means = positions.new_empty(count)
    if count == 0:
        return means
    while leaves * _LEAF_POINTS < count:
        leaves *= 2
    order = _order_along_curve(kernels, positions)
    values = {
        **dict.fromkeys(("low", "high", "codes")),
        "positions": positions[order],
        "order": order,
        "boxes": positions.new_empty((2 * leaves, 6)),
        "means": means,
        "count": count,
        "leaves": leaves,
    }
    kernels.launch_over("leaf_boxes", leaves, _KnnArguments(**values, level=leaves))
    level = leaves // 2
    while level > 0:
        kernels.launch_over("join_boxes", level, _KnnArguments(**values, level=level))
        level //= 2
    kernels.launch_over("mean_distances", count, _KnnArguments(**values, level=0))
    return means


def _order_along_curve(kernels: KernelRunner, positions: Tensor) -> Tensor:
    """Int64 (N,): the points' numbers, neighbours mostly near one another."""
    codes = torch.empty(len(positions), dtype=torch.int64, device=positions.device)
    low, high = torch.aminmax(positions, dim=0)
    arguments = _KnnArguments(
        **dict.fromkeys(("order", "boxes", "means")),
        positions=positions,
        low=low,
        high=high,
        codes=codes,
        count=len(positions),
        leaves=0,
        level=0,
    )
    kernels.launch_over("morton_codes", len(positions), arguments)
    return torch.sort(codes, stable=True).indices
