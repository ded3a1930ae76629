# SPDX-License-Identifier: Apache-2.0
"""The parts of a SOG model: meta.json and images, in a folder or in a zip file (a bundle).

Names come from meta.json, which is data: only plain names beside meta.json are opened.
"""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from splat_codec.errors import CorruptFile

META = "meta.json"
_ZIP = b"PK\x03\x04"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Deflate gains little on images. More than this, and more than a small part, is a zip bomb.
_MOST_RATIO = 8
_SMALL_PART = 1 << 20
# OSError, OverflowError: of places in the file that cannot be.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OSError,
    OverflowError,
)


class Parts(Protocol):
    """The files of a model, by name."""

    def read(self, name: str, limit: int) -> bytes:
        """The content, of up to `limit` bytes. Raises CorruptFile."""


@dataclass(frozen=True)
class FolderParts:
    """Files of a folder."""

    folder: Path
    meta: str = META
    """The name under which meta.json lies there."""

    def read(self, name: str, limit: int) -> bytes:
        """The content, of up to `limit` bytes. Raises CorruptFile."""
        _check_name(name)
        path = self.folder / (self.meta if name == META else name)
        if not path.is_file():
            raise CorruptFile(name, f"no file of this name in {self.folder}")
        if path.resolve().parent != self.folder.resolve():
            raise CorruptFile(name, "a link that leaves the folder is not followed")
        _check_length(name, path.stat().st_size, limit)
        with path.open("rb") as file:
            return file.read(limit)


@dataclass(frozen=True)
class BundleParts:
    """Entries of a zip file that lie beside its meta.json."""

    archive: zipfile.ZipFile
    folder: str
    """Within the archive, with a slash at its end; empty for its root."""
    length: int
    """Bytes of the archive."""

    def read(self, name: str, limit: int) -> bytes:
        """The content, of up to `limit` bytes. Raises CorruptFile."""
        _check_name(name)
        try:
            entry = self.archive.getinfo(self.folder + name)
        except KeyError:
            raise CorruptFile(name, "no entry of this name in the bundle") from None
        if entry.flag_bits & 1 or entry.compress_type not in _COMPRESSIONS:
            raise CorruptFile(name, "a stored or deflated entry of the bundle is expected")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise CorruptFile(name, "a file is expected, the entry of the bundle is a link")
        _check_length(name, entry.file_size, limit)
        if entry.header_offset + entry.compress_size > self.length:
            raise CorruptFile(name, f"the entry ends beyond the bundle, of {self.length:,} bytes")
        if entry.file_size > max(_SMALL_PART, _MOST_RATIO * entry.compress_size):
            ratio = entry.file_size // max(1, entry.compress_size)
            raise CorruptFile(name, f"packed {ratio} times, at most {_MOST_RATIO} is plausible")
        try:
            return self.archive.read(entry)
        except _ZIP_ERRORS as error:
            raise CorruptFile(name, f"a damaged entry of the bundle: {error}") from error


def is_sog_path(path: Path) -> bool:
    """Whether `path` is a folder with a meta.json, or a zip file with one."""
    if path.is_dir():
        return (path / META).is_file()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(_meta_entries(archive))
    except _ZIP_ERRORS:
        return False


@contextmanager
def opened_parts(path: Path) -> Iterator[Parts]:
    """The parts in a folder, beside a meta.json, or in a bundle. Raises CorruptFile.

    A file that is no bundle is taken for a meta.json.
    """
    if path.is_dir():
        yield FolderParts(path)
        return
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if not is_zip:
        yield FolderParts(path.parent, path.name)
        return
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise CorruptFile("zip", f"a damaged bundle: {error}") from error
    with archive:
        found = _meta_entries(archive)
        if not found:
            raise CorruptFile("zip", f"a bundle with a {META} is expected, it has none")
        shortest = min(found, key=lambda name: (name.count("/"), name))
        yield BundleParts(archive, shortest.removesuffix(META), path.stat().st_size)


def _meta_entries(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if name.rpartition("/")[2] == META]


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or any(sign in name for sign in "/\\:\0"):
        raise CorruptFile(META, f"a plain file name is expected, got {name!r:.80}")


def _check_length(name: str, length: int, limit: int) -> None:
    if length > limit:
        raise CorruptFile(name, f"{length:,} bytes, at most {limit:,} are expected")
