# SPDX-License-Identifier: Apache-2.0
"""Chooses the backend of a run; no other code does."""

from __future__ import annotations

import copyreg
import logging
from functools import cache
from typing import Any

import torch

from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import Backend, RenderOptions
from gaussian_renderer.cpu_backend import CpuBackend
from gaussian_renderer.cuda_backend import CudaBackend
from gaussian_renderer.kernel_backend import installed_kernels
from utils.errors import InputError

logger = logging.getLogger(__name__)

_INSTALL = "pip install submodules/diff-gaussian-rasterization submodules/fused-ssim"


@cache
def _backend_of_rank(device: torch.device, options: RenderOptions) -> Backend:
    """This rank's backend of calls that another rank sends (utils.ranks)."""
    return backend_for(device, options)


def _by_options(backend: Any) -> tuple:
    return _backend_of_rank, (torch.device("cpu"), backend.options)


for _kind in (AutogradBackend, CpuBackend):
    copyreg.pickle(_kind, _by_options)


def backend_for(device: torch.device, options: RenderOptions) -> Backend:
    """The fastest backend for the device that the installed packages and the options allow.

    This project's CUDA kernels are used only where the options ask for them (docs/gpu.md).
    InputError where they do and the device or the packages do not fit.
    """
    wants_cuda = options.rasterizer == "cuda"
    if wants_cuda and device.type != "cuda":
        raise InputError(f"--rasterizer cuda: expected a model on a GPU, but it is on {device}")
    in_python = options.convert_SHs_python or options.compute_cov3D_python
    if in_python or (device.type != "cpu" and not wants_cuda):
        return AutogradBackend(options)
    kernels = installed_kernels()
    if kernels is not None:
        return (CudaBackend if wants_cuda else CpuBackend)(options, kernels)
    if wants_cuda:
        raise InputError(f"--rasterizer cuda: the kernels are not complete: {_INSTALL}")
    logger.warning(
        "The CPU kernels are not complete, so PyTorch's slower operations are used: %s", _INSTALL
    )
    return AutogradBackend(options)
