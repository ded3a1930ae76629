# SPDX-License-Identifier: Apache-2.0
"""The order in which training uses the views."""

import random
from collections.abc import Sequence

from scene.cameras import Camera, announce
from scene.photo_cache import AHEAD


class ViewQueue:
    """Views in random order, each once per pass over the data. Draws from Python's `random`."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._cameras = list(cameras)
        self._left: list[int] = []
        self._are_cached = any(getattr(camera, "is_cached", False) for camera in self._cameras)

    def draw(self) -> Camera:
        """The next view."""
        if not self._left:
            self._left = list(range(len(self._cameras)))
        camera = self._cameras[self._left.pop(random.randrange(len(self._left)))]
        if self._are_cached:
            announce([camera, *(self._cameras[index] for index in self._upcoming(AHEAD))])
        return camera

    def _upcoming(self, count: int) -> list[int]:
        """The next views of this pass, if no other code draws from `random` meanwhile."""
        copied = random.Random()
        copied.setstate(random.getstate())
        left = list(self._left)
        return [left.pop(copied.randrange(len(left))) for _ in range(min(count, len(left)))]

    def left(self) -> tuple[int, ...]:
        """Indices, in the list of cameras, of the views not yet drawn in this pass."""
        return tuple(self._left)

    def resume(self, left: Sequence[int]) -> None:
        """Continue a pass with these views left; indices beyond the cameras are dropped."""
        self._left = [index for index in left if index < len(self._cameras)]
