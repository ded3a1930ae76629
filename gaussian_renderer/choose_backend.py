# SPDX-License-Identifier: Apache-2.0
"""Chooses the backend of a run; no other code does."""

from __future__ import annotations

import logging

import torch

from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import Backend, RenderOptions
from gaussian_renderer.cpu_backend import CpuBackend, cpu_kernels

logger = logging.getLogger(__name__)


def backend_for(device: torch.device, options: RenderOptions) -> Backend:
    """The fastest backend for the device that the installed packages and the options allow."""
    in_python = options.convert_SHs_python or options.compute_cov3D_python
    if device.type != "cpu" or in_python:
        return AutogradBackend(options)
    kernels = cpu_kernels()
    if kernels is None:
        logger.warning(
            "The CPU kernels are not complete, so PyTorch's slower operations are used: "
            "pip install submodules/diff-gaussian-rasterization submodules/fused-ssim"
        )
        return AutogradBackend(options)
    return CpuBackend(options, kernels)
