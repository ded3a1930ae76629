# SPDX-License-Identifier: Apache-2.0
"""The numbers of a view as kernels read them: one small tensor a camera, packed once."""

from __future__ import annotations

import math
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from scene.cameras import Camera

_BACKGROUND = 3  # numbers at the end


class _Source(NamedTuple):
    """What the numbers were made from, to notice when it changes."""

    matrices: tuple[Tensor, ...]
    fields_of_view: tuple[float, float]
    versions: tuple[int, ...]

    def same_as(self, other: _Source) -> bool:
        """Whether these are the very same tensors, unchanged."""
        tensors = zip(self.matrices, other.matrices, strict=True)
        return self[1:] == other[1:] and all(mine is its for mine, its in tensors)


class _Packed(NamedTuple):
    numbers: Tensor
    source: _Source


class PackedViews:
    """Packed cameras of one device, each kept as long as its camera lives."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._packed: WeakKeyDictionary[Camera, _Packed] = WeakKeyDictionary()

    def __call__(self, camera: Camera, background: Tensor) -> Tensor:
        """(40,) float32: tangents of half the fields of view (x, y), world to camera (16), world to
        clip space (16), centre (3), background (3). Good until the next call for this camera.
        """
        source = _source_of(camera)
        packed = self._packed.get(camera)
        if packed is None or not packed.source.same_as(source):
            packed = _Packed(self._pack(source), source)
            self._packed[camera] = packed
        packed.numbers[-_BACKGROUND:].copy_(background)
        return packed.numbers

    def _pack(self, source: _Source) -> Tensor:
        tangents = torch.tensor([math.tan(angle * 0.5) for angle in source.fields_of_view])
        parts = (tangents, *source.matrices, torch.zeros(_BACKGROUND))
        return torch.cat([part.detach().flatten().float().to(self._device) for part in parts])


def _source_of(camera: Camera) -> _Source:
    matrices = camera.world_view_transform, camera.full_proj_transform, camera.camera_center
    versions = tuple(0 if tensor.is_inference() else tensor._version for tensor in matrices)
    return _Source(matrices, (camera.FoVx, camera.FoVy), versions)
