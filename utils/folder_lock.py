# SPDX-License-Identifier: Apache-2.0
"""One run at a time in a model folder.

The lock is the operating system's, on an open file: it ends with the process, however that ends, so
that no stale lock can remain. It also works between machines that share a network file system.
"""

import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError
from utils.files import missing_folders, remove_empty

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".fast3dgs.lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

logger = logging.getLogger(__name__)


class FolderInUseError(InputError):
    """Another process has locked the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[list[Path]]:
    """Locks the folder for the duration of the block.

    FolderInUseError with process and host if another process has locked it. A missing folder is
    created, and removed at the end if it is still empty. Yields the folders that were created.
    """
    made = missing_folders(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: expected a folder to write to")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if fcntl is None:
            _warn_without_locks(folder, "this operating system")
            yield made
            return
        descriptor = _acquired(folder)
        try:
            yield made
        finally:
            (folder / LOCK_NAME).unlink(missing_ok=True)  # before another process can acquire it
            os.close(descriptor)
    finally:
        remove_empty(made)


def _acquired(folder: Path) -> int:
    """A descriptor of the lock file, which this process alone has locked."""
    path = folder / LOCK_NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, folder)
            if _is_current(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the previous owner removed it when it ended: try again


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            _warn_without_locks(folder, f"its file system ({error.strerror})")
            return
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise FolderInUseError(
            f"{folder} is in use by {_owner(descriptor)}: wait for it, or give another folder"
        ) from error


def _warn_without_locks(folder: Path, where: str) -> None:
    logger.warning(
        "%s is not locked, because %s has no locks: do not start a second run in it",
        folder,
        where,
    )


def _is_current(path: Path, descriptor: int) -> bool:
    """Whether the file under this name is still the one that was opened."""
    opened = os.fstat(descriptor)
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _this_process() -> dict[str, str | int]:
    return {
        "command": Path(sys.argv[0]).name,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 10_000, 0))
        return "{command}, process {pid} on {host}, since {since}".format(**owner)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"  # it has locked the file and not yet written to it
