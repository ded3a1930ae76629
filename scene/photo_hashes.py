# SPDX-License-Identifier: Apache-2.0
"""Hashes of photographs' contents, computed once for each state of a file.

A note for each photograph keeps the hash with the file's size, times and number (inode). It is
trusted while these are the same, if it was written some seconds after the file was last changed:
the times of a file that is changed again at once may stay the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from utils.errors import InputError
from utils.files import write_text
from utils.logged_once import log_once

logger = logging.getLogger(__name__)

_COARSEST_TIME = 2_000_000_000
"""In ns: what the times of files are multiples of, in the coarsest file system (FAT)."""


class FileState(NamedTuple):
    """What changes with a file's content."""

    size: int
    modified: int
    changed: int
    """As `modified`, in ns; programs cannot set it, and on Windows it is the time of creation."""
    number: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Raises OSError if there is no such file."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def content_digest(path: Path, notes: Path) -> str:
    """The SHA-256 of a file's bytes, from its note in the folder `notes` if that can be trusted.

    Raises OSError if the file cannot be read.
    """
    return _digest_of(path.absolute(), FileState.of(path), notes)


@lru_cache(maxsize=100_000)
def _digest_of(path: Path, state: FileState, notes: Path) -> str:
    note = notes / hashlib.sha256(os.fsencode(path)).hexdigest()[:40]
    known = _noted(note, state)
    if known is not None:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if FileState.of(path) == state:
        _write(note, state, digest)
    return digest


def _noted(note: Path, state: FileState) -> str | None:
    """The hash in the note; None without one that can be trusted."""
    with suppress(OSError, ValueError):
        *numbers, digest = note.read_text(encoding="ascii").split()
        is_older = note.stat().st_mtime_ns - max(state.modified, state.changed) > _COARSEST_TIME
        if numbers == [str(number) for number in state] and len(digest) == 64 and is_older:
            return digest
    return None


def _write(note: Path, state: FileState, digest: str) -> None:
    try:
        write_text(note, " ".join(map(str, (*state, digest))))
    except (OSError, InputError) as error:
        log_once(
            logger,
            f"{note.parent} cannot be written: each run reads all photographs to recognise them "
            f"({error})",
        )
