# SPDX-License-Identifier: Apache-2.0
"""One run at a time in a model folder, however the processes end."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from utils import folder_lock
from utils.errors import InputError
from utils.folder_lock import LOCK_NAME, locked

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from utils.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def held(folder: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        with pytest.raises(InputError) as refused, locked(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert f"process {process.pid} on {socket.gethostname()}" in str(refused.value)
    with locked(tmp_path):  # a killed process leaves the file, not the lock
        assert (tmp_path / LOCK_NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_one_process_cannot_enter_twice(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="is in use by"), locked(tmp_path):
        pass


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError), locked(tmp_path / "a" / "b"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"), locked(tmp_path / "file"):
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with locked(tmp_path):
        pass
    assert "has no locks" in caplog.text


def test_an_operating_system_without_locks_is_named(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert "this operating system has no locks" in caplog.text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
