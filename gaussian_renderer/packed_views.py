# SPDX-License-Identifier: Apache-2.0
"""The numbers of a view as kernels read them: one small tensor per camera, packed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor

from scene.cameras import Camera

_BACKGROUND = 3  # numbers at the end


class _Source(NamedTuple):
    """What the numbers were computed from, to detect changes."""

    matrices: tuple[Tensor, ...]
    versions: tuple[int, ...]
    size_and_fields_of_view: tuple[float, ...]

    def same_as(self, other: _Source) -> bool:
        """Whether these are the same tensor objects, unchanged."""
        tensors = zip(self.matrices, other.matrices, strict=True)
        return self[1:] == other[1:] and all(mine is its for mine, its in tensors)


class _Packed(NamedTuple):
    numbers: Tensor
    source: _Source


class PackedViews:
    """The packed numbers of cameras, each kept as long as its camera exists."""

    def __init__(self, pack: Callable[[Camera], Tensor]) -> None:
        """`pack` returns a camera's numbers on the device, the last three for the background."""
        self._pack = pack
        self._packed: WeakKeyDictionary[Camera, _Packed] = WeakKeyDictionary()

    def __call__(self, camera: Camera, background: Tensor) -> Tensor:
        """The numbers of a view. Valid until the next call for this camera."""
        source = _source_of(camera)
        packed = self._packed.get(camera)
        if packed is None or not packed.source.same_as(source):
            packed = _Packed(self._pack(camera), source)
            self._packed[camera] = packed
        packed.numbers[-_BACKGROUND:].copy_(background)
        return packed.numbers


def _source_of(camera: Camera) -> _Source:
    matrices = camera.world_view_transform, camera.full_proj_transform, camera.camera_center
    versions = tuple(0 if tensor.is_inference() else tensor._version for tensor in matrices)
    numbers = camera.image_width, camera.image_height, camera.FoVx, camera.FoVy
    return _Source(matrices, versions, numbers)
