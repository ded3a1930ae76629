# SPDX-License-Identifier: Apache-2.0
"""Gives the scenes to the workers, tries again what failed, and knows the state of each."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from many_scenes.records import (
    FAILED,
    Record,
    is_finished,
    read_record,
    record_state,
    scene_folder,
    write_record,
)
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
        self._known: dict[str, Record] = {}
        """The records as last read."""
        self._states: dict[str, tuple[int, ...]] = {}
        """Of the files of these records."""

    def run(self, show: Callable[[Sequence[Record], set[str]], None]) -> tuple[Record, ...]:
        """Does what is left; the records at the end.

        `show` gets all records and the names of the running scenes, again and again.
        """
        waiting = deque(name for name in self._scenes if not is_finished(self._read(name)))
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
        return tuple(map(self._read, self._scenes))

    def records(self) -> tuple[Record, ...]:
        """The records in the order of the list; only those that workers change are looked at."""
        for name in self._running:
            if self._state(name) != self._states[name]:
                self._read(name)
        return tuple(self._known[name] for name in self._scenes)

    def _start(self, name: str) -> None:
        self._runner.start(Task(self._scenes[name], str(self._output), self._runner.threads))
        self._running.add(name)
        self._tries[name] += 1

    def _failed(self, end: Ended) -> bool:
        """Whether the worker's scene is not finished; the reason is then in its record."""
        self._running.remove(end.name)
        record = self._read(end.name)
        if is_finished(record):
            return False
        if record.state != FAILED:  # the worker itself ended early
            message = end.message or "the worker ended early"
            record = replace(record, state=FAILED, message=message)
            write_record(scene_folder(self._output, end.name), record)
            self._read(end.name)
        return True

    def _read(self, name: str) -> Record:
        scene = self._scenes[name]
        self._states[name] = self._state(name)  # before the record, which may change meanwhile
        try:
            record = read_record(scene_folder(self._output, name), scene)
        except InputError as error:
            record = Record(scene, state=FAILED, message=str(error))
        self._known[name] = record
        return record

    def _state(self, name: str) -> tuple[int, ...]:
        return record_state(scene_folder(self._output, name))
