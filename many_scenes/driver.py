# SPDX-License-Identifier: Apache-2.0
"""Gives the scenes to the workers, tries again what failed, and knows the state of each."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from many_scenes.records import FAILED, Record, is_finished, read_record, scene_folder, write_record
from many_scenes.runners import Ended, Runner
from many_scenes.scene_list import ListedScene
from many_scenes.worker import Task
from utils.errors import InputError

_SECONDS = 0.5
"""Between two looks at the workers."""


class Driver:
    """One run over the list."""

    def __init__(
        self, scenes: Sequence[ListedScene], output: Path, runner: Runner, retries: int
    ) -> None:
        self._scenes = {scene.name: scene for scene in scenes}
        self._output, self._runner, self._retries = output, runner, retries
        self._running: set[str] = set()
        self._tries: Counter[str] = Counter()

    def run(self, show: Callable[[Sequence[Record], set[str]], None]) -> tuple[Record, ...]:
        """Does what is left; the records at the end.

        `show` gets all records and the names of the running scenes, again and again.
        """
        waiting = deque(name for name in self._scenes if not is_finished(self._record(name)))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._runner.places:
                    self._start(waiting.popleft())
                for end in self._runner.ended():
                    if self._failed(end) and self._tries[end.name] <= self._retries:
                        waiting.append(end.name)
                show(self.records(), self._running)
                time.sleep(_SECONDS)
        finally:
            self._runner.close()
        return self.records()

    def records(self) -> tuple[Record, ...]:
        """The records in the order of the list."""
        return tuple(map(self._record, self._scenes))

    def _start(self, name: str) -> None:
        self._runner.start(Task(self._scenes[name], str(self._output), self._runner.threads))
        self._running.add(name)
        self._tries[name] += 1

    def _failed(self, end: Ended) -> bool:
        """Whether the worker's scene is not finished; the reason is then in its record."""
        self._running.remove(end.name)
        record = self._record(end.name)
        if is_finished(record):
            return False
        if record.state != FAILED:  # the worker itself ended early
            message = end.message or "the worker ended early"
            record = replace(record, state=FAILED, message=message)
            write_record(scene_folder(self._output, end.name), record)
        return True

    def _record(self, name: str) -> Record:
        scene = self._scenes[name]
        try:
            return read_record(scene_folder(self._output, name), scene)
        except InputError as error:
            return Record(scene, state=FAILED, message=str(error))
