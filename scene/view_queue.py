# SPDX-License-Identifier: Apache-2.0
"""The order in which training uses the views."""

import random
from collections.abc import Sequence

from scene.cameras import Camera


class ViewQueue:
    """Views in random order, each once per pass over the data. Draws from Python's `random`."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._cameras = list(cameras)
        self._left: list[int] = []

    def draw(self) -> Camera:
        """The next view."""
        if not self._left:
            self._left = list(range(len(self._cameras)))
        return self._cameras[self._left.pop(random.randrange(len(self._left)))]

    def left(self) -> tuple[int, ...]:
        """Indices, in the list of cameras, of the views not yet drawn in this pass."""
        return tuple(self._left)

    def resume(self, left: Sequence[int]) -> None:
        """Continue a pass with these views left; indices beyond the cameras are dropped."""
        self._left = [index for index in left if index < len(self._cameras)]
