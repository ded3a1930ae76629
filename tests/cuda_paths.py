# SPDX-License-Identifier: Apache-2.0
"""The packages' CUDA path on CPU tensors, with emulated kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import fused_ssim
import simple_knn._C
import torch
from diff_gaussian_rasterization import (
    cuda_adam,
    cuda_grid_step,
    cuda_render,
    cuda_statistics,
    cuda_straight_through,
    native,
)
from emulated_kernels import emulated
from fused_ssim import cuda_ssim
from simple_knn import cuda_knn

RASTERIZER = "diff-gaussian-rasterization"
Result = TypeVar("Result")

_FILES = {
    cuda_adam: (RASTERIZER, "adam"),
    cuda_statistics: (RASTERIZER, "statistics"),
    cuda_straight_through: (RASTERIZER, "straight_through"),
    cuda_grid_step: (RASTERIZER, "grid_step"),
    cuda_ssim: ("fused-ssim", "ssim"),
    cuda_knn: ("simple-knn", "knn"),
}


@contextmanager
def cuda_path() -> Iterator[None]:
    """In this context the packages treat all tensors as if they were on a CUDA device."""
    with ExitStack() as stack:

        def replace(module: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(module, name, value))

        for module in (native, fused_ssim, simple_knn._C):
            replace(module, "on_cuda", lambda tensor: True)
        for module, (package, name) in _FILES.items():
            replace(module, "kernels_on", partial(_kernels, package, name))
        replace(cuda_render, "kernels_on", view_kernels)
        replace(native, "library", None)  # the compiled library for CPUs
        yield


def on_both_paths(function: Callable[[], Result]) -> tuple[Result, Result]:
    """What a function returns on the CPU path, and on the CUDA path."""
    expected = function()
    with cuda_path():
        return expected, function()


def _kernels(package: str, name: str, device: torch.device) -> Any:
    return emulated(package, name)


def view_kernels(device: torch.device | None = None, seed: int = 0) -> cuda_render.ViewKernels:
    names = cuda_render.ViewKernels._fields
    return cuda_render.ViewKernels(*(emulated(RASTERIZER, name, seed) for name in names))
