# SPDX-License-Identifier: Apache-2.0
"""The backend that uses this project's CPU kernels."""

from __future__ import annotations

from gaussian_renderer.kernel_backend import KernelBackend


class CpuBackend(KernelBackend):
    """See Backend. All tensors are on the CPU."""
