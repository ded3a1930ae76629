# SPDX-License-Identifier: Apache-2.0
"""The backend that uses this project's CUDA kernels, which no GPU has run yet (docs/gpu.md)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.kernel_backend import KernelBackend, Kernels


class _Copy(NamedTuple):
    """A tensor's copy on the CPU."""

    source: Tensor
    version: int
    """Of the source when it was copied, to detect changes."""
    tensor: Tensor


class CudaBackend(KernelBackend):
    """See Backend. All tensors are on one CUDA device; photographs may be on the CPU.

    Memory is PyTorch's allocator's, launches are on PyTorch's current stream. The host waits for
    the device once a view, for the number of tile entries.
    """

    def __init__(self, options: RenderOptions, kernels: Kernels) -> None:
        super().__init__(options, kernels)
        self._background: _Copy | None = None

    def _on_host(self, background: Tensor) -> Tensor:
        """The background on the CPU; the host waits for it only where it has changed."""
        version = 0 if background.is_inference() else background._version
        copy = self._background
        if copy is None or copy.source is not background or copy.version != version:
            copy = self._background = _Copy(background, version, background.cpu())
        return copy.tensor
