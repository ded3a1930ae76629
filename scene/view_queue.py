# SPDX-License-Identifier: Apache-2.0
"""The order in which training sees the views."""

import random
from collections.abc import Sequence

from scene.cameras import Camera


class ViewQueue:
    """Views in random order, each once per pass over the data. Draws from Python's `random`."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._cameras = list(cameras)
        self._left: list[Camera] = []

    def draw(self) -> Camera:
        """The next view."""
        if not self._left:
            self._left = list(self._cameras)
        return self._left.pop(random.randrange(len(self._left)))

    def names_left(self) -> list[str]:
        """Names of the views that this pass has still to draw."""
        return [camera.image_name for camera in self._left]

    def resume(self, names: Sequence[str]) -> None:
        """Go on with a pass of which `names` are left; names that no view has are dropped."""
        by_name = {camera.image_name: camera for camera in self._cameras}
        self._left = [by_name[name] for name in names if name in by_name]
