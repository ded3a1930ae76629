# SPDX-License-Identifier: Apache-2.0
"""The kinds of files that cannot be read here, for messages."""

import zipfile
from pathlib import Path

from splat_formats.unpacked import is_gzip, unpacked_head

_MAGICS = {
    b"LASF": "a LAS point cloud: its points are no Gaussians",
    b"# .PCD": "a PCD point cloud: its points are no Gaussians",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run 'git lfs pull'",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x93NUMPY": "a NumPy array",
    b"\x80": "a Python pickle (an old PyTorch checkpoint?): export the model as PLY",
}
_ZIP = b"PK\x03\x04"
_TEXT_BYTES = bytes(range(32, 127)) + b"\t\r\n\f"


def foreign_kind(path: Path, head: bytes) -> str | None:
    """A short description of a file that begins with `head` and is of no supported format; None if
    neither the content nor the name shows its kind."""
    if not head:
        return "an empty file"
    content = unpacked_head(head)
    for magic, kind in _MAGICS.items():
        if content.startswith(magic):
            return kind
    if is_gzip(head):
        return "a gzip archive that holds no PLY or SPZ file"
    if head.startswith(_ZIP):
        return _kind_of_zip(path)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "a WebP image, perhaps a part of a SOG model: give its folder or its meta.json"
    return _kind_of_text(path, head)


def kind_of_folder(path: Path) -> str:
    """A short description of a folder where a file is expected."""
    if (path / "point_cloud").is_dir():
        return "a model folder: a file is expected, such as its point_cloud.ply"
    return "a folder: a file is expected"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError):
        return "a damaged ZIP archive"
    if "data.pkl" in names:
        return "a PyTorch checkpoint: export the model as PLY"
    return "a ZIP archive: unpack it first"


def _kind_of_text(path: Path, head: bytes) -> str | None:
    if head.translate(None, _TEXT_BYTES) or path.suffix.lower() == ".ply":
        return None
    start = head.lstrip().lower()
    if start.startswith(b"{"):
        return "a JSON file"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page: did the download fail?"
    first = start.partition(b"\n")[0]
    return "a CSV table" if first.count(b",") >= 2 else "a text file"
