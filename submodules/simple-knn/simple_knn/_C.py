# SPDX-License-Identifier: Apache-2.0
"""The function of the package, in the module from which callers of the CUDA original import it."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._native import load_library

__all__ = ["distCUDA2", "instruction_set", "supported_devices"]

supported_devices = ("cpu",)

_library, instruction_set = load_library()
_distances = _library.mean_squared_neighbour_distances
_distances.restype = ctypes.c_int
_distances.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int32]


def distCUDA2(points: Tensor) -> Tensor:
    """Mean squared distance of each point to its three nearest other points, float32 (N,).

    `points` is (N, 3), finite; float64 and half precision are rounded to float32. Points at the
    same place are neighbours at distance 0. With fewer than three others the mean is over all of
    them; the result for a single point is 0. Squares beyond float32 (distances above 1.8e19) are
    infinite. The result has no gradient.

    The name is the original's: nothing here needs CUDA. Points on a CUDA device are taken, too; no
    GPU has run these kernels yet.
    """
    points = _in_float32(points)
    _check(points)
    positions = points.detach().contiguous()
    if on_cuda(positions):
        from . import cuda_knn

        return cuda_knn.mean_squared_distances(cuda_knn.kernels_on(positions.device), positions)
    means = torch.empty(len(positions), dtype=torch.float32)
    status = _distances(
        positions.data_ptr(), len(positions), means.data_ptr(), torch.get_num_threads()
    )
    if status != 0:
        raise MemoryError(f"not enough memory for the search tree of {len(positions)} points.")
    return means


def on_cuda(tensor: Tensor) -> bool:
    """Whether the kernels for CUDA devices are those for this tensor."""
    return tensor.device.type == "cuda"


def _in_float32(points: Tensor) -> Tensor:
    """Points from NumPy are often float64."""
    return points.float() if points.is_floating_point() else points


def _check(points: Tensor) -> None:
    if points.device.type not in ("cpu", "cuda"):
        raise ValueError(f"points must be on the CPU, not on {points.device}.")
    if points.dtype != torch.float32:
        raise TypeError(f"points must be float32, not {points.dtype}.")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(
            f"points must have the shape (N, 3), but their shape is {tuple(points.shape)}."
        )
    if len(points) >= 2**32:
        raise ValueError(f"points must be fewer than 2^32, but there are {len(points)}.")
    finite = torch.isfinite(points).all(dim=1)
    if not finite.all():
        first = int(torch.nonzero(~finite)[0])
        raise ValueError(
            f"points must be finite, but {int((~finite).sum())} of {len(points)} are not: "
            f"the first is number {first}, {points[first].tolist()}."
        )
