# SPDX-License-Identifier: Apache-2.0
"""Writes files so that none is ever read incomplete, and no crash destroys an earlier one."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import InputError

PathLike = str | os.PathLike[str]

_NAME_LENGTH = 100  # characters of a temporary file's stem: file systems allow 255 bytes
_TEMPORARY_FILE = re.compile(r"\..*\.[0-9a-f]{8}\.tmp(\..*)?")
_TEMPORARY_FOLDER = re.compile(r"\..*\.(incomplete|replaced)")
# Some network file systems cannot flush a folder; one without read permission cannot be opened.
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """A temporary path, whose file replaces `path` when the block ends without an exception.

    The folder is created if it is missing. The temporary name keeps the suffix, because writers
    such as Pillow choose the format by it. After an exception `path`, and its folder, are as they
    were before. A symbolic link stays a link, and the file that it names is replaced. To a device,
    a pipe or an open descriptor (/dev/stdout) the bytes are written. InputError if `path` is a
    folder.
    """
    target = Path(path)
    check_target(target)
    if is_special(target):
        with _copied_into(target) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(target))
    with created_folders(target.parent), _named_errors(target):
        temporary = target.with_name(
            f".{target.stem[:_NAME_LENGTH]}.{secrets.token_hex(4)}.tmp{target.suffix}"
        )
        try:
            yield temporary
            _to_disk(temporary)
            temporary.replace(target)
            _to_disk(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """A temporary folder that replaces `path` when the block ends without an exception.

    It is removed after an exception; one that a killed process left is removed first.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.incomplete")
    replaced = target.with_name(f".{target.name}.replaced")
    with created_folders(target.parent):
        _remove_folders(temporary, replaced)
        temporary.mkdir()
        try:
            yield temporary
            _to_disk(temporary)
            if target.exists():
                target.rename(replaced)
            temporary.rename(target)
            _to_disk(target.parent)
        except BaseException:
            _remove_folders(temporary)
            raise
        _remove_folders(replaced)


def remove_folder(path: PathLike) -> None:
    """Removes a folder; if the process is killed meanwhile, nothing is left under its name."""
    folder = Path(path)
    replaced = folder.with_name(f".{folder.name}.replaced")
    folder.rename(replaced)
    _remove_folders(replaced)


def remove_leftovers(folder: PathLike) -> None:
    """Removes temporary files and folders that killed processes left in `folder`.

    For folders in which no other process writes.
    """
    for entry in Path(folder).iterdir() if Path(folder).is_dir() else ():
        if _TEMPORARY_FILE.fullmatch(entry.name) and entry.is_file():
            entry.unlink()
        elif _TEMPORARY_FOLDER.fullmatch(entry.name) and entry.is_dir():
            shutil.rmtree(entry)


def _remove_folders(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


@contextmanager
def created_folders(folder: PathLike) -> Iterator[None]:
    """Makes `folder` and its parents; after an exception those made are removed, if still empty."""
    missing = missing_folders(folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        remove_empty(missing)
        raise


def missing_folders(folder: PathLike) -> list[Path]:
    """`folder` and those of its parents that do not exist, the innermost first."""
    place, missing = Path(os.path.realpath(folder)), []
    while not place.exists():
        missing.append(place)
        place = place.parent
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Removes these folders in turn, up to the first that is not empty."""
    for folder in folders:
        if folder.is_dir() and any(folder.iterdir()):
            return
        if folder.is_dir():
            folder.rmdir()


def write_bytes(path: PathLike, content: bytes) -> None:
    """Puts `content` at `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: PathLike, text: str) -> None:
    """Puts `text` (UTF-8, line ends as given) at `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: PathLike, value: Any) -> None:
    """Puts `value` at `path` as JSON. ValueError for a number that JSON lacks: NaN, Infinity."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def check_target(target: PathLike, *sources: PathLike) -> None:
    """Raises InputError if writing `target` would destroy one of `sources`, or if it is a folder.

    The same file is recognised under another name too: a path with links, a hard link.
    """
    target = Path(target)
    if target.is_dir():
        raise InputError(f"{target} is a folder: expected the name of a file to write")
    for source in sources:
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise InputError(f"{target} is the input {source}: give another name for the output")


def bytes_of(path: PathLike) -> int:
    """The size of a file, or of the files in a folder together."""
    path = Path(path)
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file == path or file.is_file())


def is_special(path: PathLike) -> bool:
    """Whether `path` is written into, not replaced: a device, a pipe, an open descriptor."""
    return _is_descriptor(Path(path)) or (Path(path).exists() and not Path(path).is_file())


def _is_descriptor(path: Path) -> bool:
    """Whether the path names an open descriptor, such as /dev/stdout does by links to /proc."""
    for _ in range(40):  # more links than any system follows
        if Path(os.path.realpath(path.parent)).is_relative_to("/proc"):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


@contextmanager
def _copied_into(target: Path) -> Iterator[Path]:
    """A path in the system's temporary folder, whose bytes are written to `target` at the end."""
    with tempfile.TemporaryDirectory() as folder, _named_errors(target):
        temporary = Path(folder) / f"output{target.suffix}"
        yield temporary
        flags = os.O_WRONLY
        if stat.S_ISREG(target.stat().st_mode):  # a file that the shell opened for stdout
            flags |= os.O_APPEND
        with temporary.open("rb") as file, os.fdopen(os.open(target, flags), "wb") as special:
            shutil.copyfileobj(file, special, 1 << 20)


@contextmanager
def _named_errors(target: Path) -> Iterator[None]:
    """Names `target` in an error of the operating system that names no file (disk full)."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise


def _to_disk(path: Path) -> None:
    """Flushes a file's content, or a folder's entries, to disk."""
    is_folder = path.is_dir()
    if is_folder and not hasattr(os, "O_DIRECTORY"):
        return  # Windows has no such call for folders
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in _NOT_FOR_FOLDERS):
            raise
