# SPDX-License-Identifier: Apache-2.0
"""One try of one scene, as a program of its own: `python -m many_scenes.worker`.

It reads its task, one line of JSON, from stdin, which stays open as long as the program that
started it lives. When that ends, however it does, the try ends too: the scene's program gets a
SIGTERM, upon which train.py saves a checkpoint.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from many_scenes.records import (
    COMPRESSING,
    DONE,
    FAILED,
    INTERRUPTED,
    TRAINING,
    Record,
    file_state,
    is_finished,
    log_path,
    read_record,
    scene_folder,
    write_record,
)
from many_scenes.scene_list import ListedScene
from utils.cli import fail, os_error_text, run
from utils.errors import InputError
from utils.folder_lock import FolderInUseError, locked
from utils.json_values import from_json
from utils.model_files import last_checkpoint, model_file
from utils.programs import run_program

ROOT = Path(__file__).parents[1]
_WAIT_SECONDS = 600
"""For an earlier worker of the scene, whose driver was killed, to save and end."""
_LOG_END = 4000
"""Bytes at the end of a log that are searched for the reason of a failure."""
_BAR_SECONDS = "5"
"""Between two lines of a progress bar in a log."""


@dataclass(frozen=True)
class Task:
    """What a worker has to do."""

    scene: ListedScene
    output: str
    """The folder of all records."""
    threads: int


def line_of(task: Task) -> bytes:
    """The task as the line that a worker reads."""
    return json.dumps(asdict(task)).encode() + b"\n"


def main() -> None:
    """Reads the task and does it."""
    task = from_json(Task, json.loads(_read_line()))
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        do(task)
    except OSError as error:
        fail(os_error_text(error))


def do(task: Task) -> None:
    """Trains, if that is wanted, and compresses the scene. InputError if a program fails."""
    folder = scene_folder(Path(task.output), task.scene.name)
    with _locked_soon(folder):
        record = read_record(folder, task.scene)
        if is_finished(record):  # an earlier worker did it after all
            return
        record = replace(record, tries=record.tries + 1, message="", host=socket.gethostname())
        try:
            record = _trained(task, folder, record)
            record = _compressed(task, folder, record)
        except KeyboardInterrupt:
            record = read_record(folder, task.scene)
            if not is_finished(record):  # a signal may come just after the last record
                write_record(folder, replace(record, state=INTERRUPTED))
            raise
        except (InputError, OSError) as error:
            text = os_error_text(error) if isinstance(error, OSError) else str(error)
            record = replace(read_record(folder, task.scene), state=FAILED, message=text)
            write_record(folder, record)
            raise


def _trained(task: Task, folder: Path, record: Record) -> Record:
    """Trains, or goes on from the last checkpoint, unless the last iteration's model is there."""
    scene, model = task.scene, Path(task.scene.model)
    if not scene.train:
        return record
    wanted = ("-s", scene.source, *scene.train_options)
    if record.training not in (None, wanted):
        raise InputError(
            f"{model} was trained with {' '.join(record.training or ())}, not with "
            f"{' '.join(wanted)}: remove it, or list another model folder"
        )
    iterations = _iterations(scene.train_options)
    if model_file(model, iterations).is_file():
        return record
    resumed = last_checkpoint(model, iterations)
    words = [*wanted, "-m", scene.model, "--disable_viewer"]
    words += [] if resumed is None else ["--start_checkpoint", str(resumed)]
    record = replace(record, state=TRAINING, training=wanted)
    return _run(task, folder, record, "train.py", words)


def _compressed(task: Task, folder: Path, record: Record) -> Record:
    scene = task.scene
    source = ["-s", scene.source] if scene.source else []
    words = [*source, "-m", scene.model, *scene.compress_options]
    record = _run(task, folder, replace(record, state=COMPRESSING), "compress.py", words)
    record = replace(record, state=DONE, file=file_state(Path(scene.model)))
    write_record(folder, record)
    return record


def _run(task: Task, folder: Path, record: Record, script: str, arguments: Sequence[str]) -> Record:
    """Runs a script, and adds its minutes to the record. InputError if it fails."""
    write_record(folder, record)
    threads = str(task.threads)
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        "TQDM_MININTERVAL": _BAR_SECONDS,
    }
    began = time.monotonic()
    try:
        with log_path(folder).open("ab") as log:
            log.write(f"$ {script} {' '.join(arguments)}\n".encode())
            log.flush()
            start = log.tell()
            words = [sys.executable, str(ROOT / script), *arguments]
            status = run_program(words, log, environment)
    finally:
        record = record.with_minutes(record.state, (time.monotonic() - began) / 60)
        write_record(folder, record)
    if status:
        with log_path(folder).open("rb") as written:
            raise InputError(f"{script}: {_reason(status, written, start)}")
    return record


def _reason(status: int, log: BinaryIO, start: int) -> str:
    """Why a program ended with this status; its log begins at `start`."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": perhaps there was not enough memory" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    log.seek(max(start, log.seek(0, os.SEEK_END) - _LOG_END))
    lines = log.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    found = errors or [line for line in lines if line.strip()] or ["no message"]
    return f"{found[-1]} (status {status})"


def _iterations(options: Sequence[str]) -> int:
    """The number of training's last iteration."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--iterations", default="30000")
    number = parser.parse_known_args(list(options))[0].iterations
    if not number.isdecimal():
        raise InputError(f"train_options: --iterations {number}: expected a whole number")
    return int(number)


@contextmanager
def _locked_soon(folder: Path) -> Iterator[None]:
    """Locks the folder; waits for an earlier worker, whose driver was killed, to end."""
    deadline = time.monotonic() + _WAIT_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except FolderInUseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def _read_line() -> bytes:
    """The first line of stdin, without a buffer, on which the thread below would wait."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(sys.stdin.fileno(), 1)
        if not part:
            raise InputError("the worker of a scene: expected a task on stdin")
        line += part
    return line


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    run(main)
