# SPDX-License-Identifier: Apache-2.0
"""Photographs from the host's memory to a GPU, copied while the GPU draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class PhotoStream:
    """A stream of its own for photographs that are not on the device.

    They are copied from page-locked memory, which alone lets the device copy by itself, as the
    bytes they are stored in.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def start(self, photo: Tensor, device: torch.device) -> Callable[[], Tensor]:
        """Start copying a photograph to a CUDA device; the function returned gives the copy.

        Work that PyTorch's current stream gets after that call waits for the copy, the host does
        not. A photograph that is on the device is returned as it is.
        """
        if photo.device == device:
            return lambda: photo
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        with torch.cuda.stream(stream):
            copy = photo.pin_memory().to(device, non_blocking=True)

        def finish() -> Tensor:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            copy.record_stream(current)  # the allocator must not reuse its memory before
            return copy

        return finish
