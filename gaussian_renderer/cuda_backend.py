# SPDX-License-Identifier: Apache-2.0
"""The backend that uses this project's CUDA kernels, which no GPU has run yet (docs/gpu.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.kernel_backend import KernelBackend, Kernels
from gaussian_renderer.photo_stream import PhotoStream
from scene.cameras import Camera


class _Copy(NamedTuple):
    """A tensor's copy on the CPU."""

    source: Tensor
    version: int
    """Of the source when it was copied, to detect changes."""
    tensor: Tensor


class CudaBackend(KernelBackend):
    """See Backend. All tensors are on one CUDA device; photographs may be on the CPU.

    Memory is PyTorch's allocator's, launches are on PyTorch's current stream. The host waits for
    the device once a view, for the number of tile entries; the device has work meanwhile. A
    photograph on the CPU is copied while its view is drawn.
    """

    def __init__(self, options: RenderOptions, kernels: Kernels) -> None:
        super().__init__(options, kernels)
        self._background: _Copy | None = None
        self._photos = PhotoStream()

    def _on_host(self, background: Tensor) -> Tensor:
        """The background on the CPU; the host waits for it only where it has changed."""
        version = 0 if background.is_inference() else background._version
        copy = self._background
        if copy is None or copy.source is not background or copy.version != version:
            copy = self._background = _Copy(background, version, background.cpu())
        return copy.tensor

    def _photo(self, camera: Camera, device: torch.device) -> Callable[[], Tensor]:
        """See KernelBackend; the copy is started here."""
        return self._photos.start(camera.image_u8, device)
