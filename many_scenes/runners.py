# SPDX-License-Identifier: Apache-2.0
"""Where workers run: what all such places have in common, and processes of this machine."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from many_scenes.worker import ROOT, Task, line_of

_CORES_PER_WORKER = 4
"""Unless a number of workers is given: the kernels gain little from more threads."""
COMMAND = ("-m", "many_scenes.worker")
"""Python's arguments for a worker."""


@dataclass(frozen=True)
class Ended:
    """A worker that ended."""

    name: str
    """Of its scene."""
    message: str
    """What it printed on stderr, or why it could not run; empty if it ended well."""


class Runner(Protocol):
    """Runs several workers at a time."""

    @property
    def places(self) -> int:
        """How many workers run at a time."""
        ...

    @property
    def threads(self) -> int:
        """Of each worker."""
        ...

    def start(self, task: Task) -> None:
        """Starts a worker; there is a free place."""
        ...

    def ended(self) -> list[Ended]:
        """The workers that ended since the last call."""
        ...

    def close(self) -> None:
        """Ends all workers, and waits for them."""
        ...


def shares(cores: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many workers run at a time, and threads of each, so that they share the cores."""
    if workers is None:
        workers = cores // (threads or _CORES_PER_WORKER)
    workers = max(1, workers)
    return workers, threads or max(1, cores // workers)


def cores_here() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def text_of_end(status: int, errors: bytes) -> str:
    """Why a worker ended with this status; empty for 0."""
    if not status:
        return ""
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"the worker ended with status {status}"


class LocalRunner:
    """See Runner. Each worker is a process of this machine."""

    def __init__(self, workers: int | None, threads: int | None) -> None:
        self.places, self.threads = shares(cores_here(), workers, threads)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, task: Task) -> None:
        """See Runner."""
        process = subprocess.Popen(
            [sys.executable, *COMMAND], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(line_of(task))
        process.stdin.flush()
        self._running[task.scene.name] = process

    def ended(self) -> list[Ended]:
        """See Runner."""
        found = []
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[name]
                assert process.stdin is not None and process.stderr is not None
                with process.stdin, process.stderr:
                    errors = process.stderr.read()
                found.append(Ended(name, text_of_end(process.returncode, errors)))
        return found

    def close(self) -> None:
        """See Runner. A closed stdin ends a worker."""
        for process in self._running.values():
            assert process.stdin is not None and process.stderr is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdin = None  # communicate() would flush it
        for process in self._running.values():
            process.communicate()
        self._running.clear()
