# SPDX-License-Identifier: Apache-2.0
"""How long the stages of a run take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from gaussian_compression.rounds import StageTime


class Clock:
    """Wall and CPU time since its creation, in seconds."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def wall_seconds(self) -> float:
        """Rounded to 10 ms, as is the CPU time."""
        return round(time.monotonic() - self._wall, 2)

    def cpu_seconds(self) -> float:
        """Of all threads."""
        return round(time.process_time() - self._cpu, 2)


class StageClock:
    """The times of the stages that have ended, in their order."""

    def __init__(self) -> None:
        self.times: list[StageTime] = []

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of the block."""
        clock = Clock()
        yield
        self.times.append(StageTime(stage, clock.wall_seconds(), clock.cpu_seconds()))
