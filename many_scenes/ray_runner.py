# SPDX-License-Identifier: Apache-2.0
"""Workers as tasks of Ray: on a cluster, or on this machine.

All machines need the same paths: a shared file system with the data, the models and this project.
"""

import os
import time
from typing import Any

from many_scenes.runners import COMMAND, Ended, cores_here, shares, text_of_end
from many_scenes.worker import ROOT, Task, line_of
from utils.errors import InputError
from utils.optional_modules import load_required

THIS_MACHINE = "local"
"""The address that starts Ray on this machine."""
_END_SECONDS = 600
"""For workers to save and end."""


class RayRunner:
    """See Runner. A task needs `threads` CPUs and `gpus` GPUs, which Ray assigns."""

    def __init__(self, address: str, workers: int | None, threads: int | None, gpus: float) -> None:
        """InputError if Ray is missing or cannot be reached, or no machine is large enough."""
        self._ray: Any = load_required("ray", "--ray", "pip install ray")
        self._connect(address)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        largest = int(max(node.get("CPU", 0) for node in nodes))
        self.places, wanted = shares(
            int(sum(node.get("CPU", 0) for node in nodes)), workers, threads
        )
        self.threads = wanted if threads else max(1, min(wanted, largest))
        if not any(node.get("CPU", 0) >= self.threads and node.get("GPU", 0) >= gpus
                   for node in nodes):  # fmt: skip
            raise InputError(
                f"--threads {self.threads} and --gpus_per_scene {gpus:g}: no machine of the "
                "cluster has so many"
            )
        resources = {"num_cpus": self.threads, "num_gpus": gpus, "max_retries": 0}
        self._task = self._ray.remote(**resources)(_worker_task())
        self._running: dict[Any, str] = {}

    def _connect(self, address: str) -> None:
        # Our programs' output is in their logs, and nothing is sent to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address == THIS_MACHINE:
            options |= {"num_cpus": cores_here(), "include_dashboard": False}
        try:
            self._ray.init(address=address, **options)
        except (OSError, RuntimeError, ValueError) as error:  # what Ray raises for these
            raise InputError(f"--ray {address}: cannot be reached: {error}") from error

    def start(self, task: Task) -> None:
        """See Runner."""
        self._running[self._task.remote(str(ROOT), COMMAND, line_of(task))] = task.scene.name

    def ended(self) -> list[Ended]:
        """See Runner."""
        waiting = list(self._running)
        if not waiting:
            return []
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [self._result(reference, self._running.pop(reference)) for reference in ready]

    def _result(self, reference: Any, name: str) -> Ended:
        try:
            return Ended(name, text_of_end(*self._ray.get(reference)))
        except (self._ray.exceptions.RayError, OSError) as error:
            return Ended(name, f"Ray: {' '.join(str(error).split())}")

    def close(self) -> None:
        """See Runner."""
        for reference in self._running:
            self._ray.cancel(reference)
        deadline = time.monotonic() + _END_SECONDS
        while self._running and time.monotonic() < deadline:
            self.ended()
            time.sleep(0.1)
        self._ray.shutdown()


def _worker_task() -> Any:
    """The function that Ray runs: a worker's status and what it printed on stderr.

    Local, so that Ray sends its code: it needs no module of this project.
    """

    def work(root: str, command: tuple[str, ...], line: bytes) -> tuple[int, bytes]:
        import subprocess
        import sys

        with subprocess.Popen(
            [sys.executable, *command], cwd=root, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(line)
            process.stdin.flush()
            try:
                errors = process.stderr.read()
            finally:
                process.stdin.close()  # after a cancellation, it ends the worker
                status = process.wait()
            return status, errors

    return work
