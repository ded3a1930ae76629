# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files of Gaussians in every format. A format is one line of `FORMATS`."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from splat_codec.errors import CorruptFile
from splat_formats.f3dgs_file import is_f3dgs, read_f3dgs, write_f3dgs
from splat_formats.foreign import foreign_kind, kind_of_folder
from splat_formats.ply import is_ply, read_ply_scene, write_ply_scene
from splat_formats.published_file import is_published_file, read_published_scene
from splat_formats.repairs import clamp_limits
from splat_formats.scene import SplatScene
from splat_formats.sog import is_sog_meta, read_sog
from splat_formats.sog_parts import is_sog_path
from splat_formats.sog_writer import write_sog
from utils.errors import InputError
from utils.files import is_special

logger = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 12

Notices = tuple[str, ...]


@dataclass(frozen=True)
class SplatFormat:
    """How files of one format are recognised, read and written."""

    name: str
    """With its article, for messages."""
    endings: tuple[str, ...]
    """Of file names, lower case, with the dot."""
    is_beginning: Callable[[bytes], bool]
    """Whether a file that begins with these bytes is of this format."""
    read: Callable[[Path], SplatScene]
    """Raises InputError or CorruptFile."""
    write: Callable[[Path, SplatScene], Notices] | None = None
    """Returns one sentence for everything that the format cannot hold; None: read only."""
    is_of_path: Callable[[Path], bool] | None = None
    """Whether a folder, or a file whose beginning does not show it, is of this format."""


FORMATS = (
    SplatFormat("a PLY", (".ply",), is_ply, read_ply_scene, write_ply_scene),
    SplatFormat("a .f3dgs file", (".f3dgs",), is_f3dgs, read_f3dgs, write_f3dgs),
    SplatFormat("a published Fast-3DGS file", (), is_published_file, read_published_scene),
    SplatFormat("a SOG model", (".sog",), is_sog_meta, read_sog, write_sog, is_sog_path),
)


def read_splats(path: str | os.PathLike[str]) -> SplatScene:
    """The scene in a file of any format of `FORMATS`, chosen by content first, then by name.

    Raises InputError for any other file, and for a damaged one.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: a pipe or a device cannot be read: an ordinary file is expected")
    chosen = _format_of_path(path)
    if chosen is None and path.is_dir():
        raise InputError(f"{path}: this is {kind_of_folder(path)}")
    if chosen is None:
        head = _head(path)
        kind = foreign_kind(path, head)
        chosen = _format_of_name(path)
        if kind or chosen is None:
            raise InputError(f"{path}: this is {kind or 'no model'}; expected {_names()}")
    try:
        return with_limits_clamped(chosen.read(path))
    except CorruptFile as error:
        raise InputError(f"{path}: {error}") from error


def with_limits_clamped(scene: SplatScene) -> SplatScene:
    """The scene with limits clamped to finite values (repairs.py), and notices of that."""
    clamped = clamp_limits(scene.splats)
    if not clamped.notices:
        return scene
    notices = (*scene.metadata.notices, *clamped.notices)
    return SplatScene(clamped.splats, replace(scene.metadata, notices=notices))


def read_with_notices(path: str | os.PathLike[str]) -> SplatScene:
    """As `read_splats`; the notices of what the reader changed are logged."""
    scene = read_splats(path)
    log_notices(path, scene.metadata.notices)
    return scene


def log_notices(path: str | os.PathLike[str], notices: Notices) -> None:
    """Logs each as a warning about this file."""
    for notice in notices:
        logger.warning("%s: %s", path, notice)


def kind_of_file(path: Path) -> str | None:
    """A short description of a file, for messages; None if its kind is unknown."""
    known = _format_of_path(path)
    return known.name if known else foreign_kind(path, _head(path))


def write_splats(path: str | os.PathLike[str], scene: SplatScene) -> Notices:
    """Writes the scene, whole or not at all, in the format of the name's ending.

    A device, a pipe or an open descriptor, whose names have no endings, gets a PLY. Returns one
    sentence for everything that the format cannot hold. Raises InputError for an unknown ending.
    """
    path = Path(path)
    writers = {ending: known.write for known in FORMATS for ending in known.endings if known.write}
    check_ending(path, *writers)
    return writers.get(path.suffix.lower(), write_ply_scene)(path, scene)


def check_ending(path: Path, *endings: str) -> None:
    """Raises InputError for the name of an ordinary file that has none of these endings."""
    if path.suffix.lower() not in endings and not is_special(path):
        raise InputError(
            f"{path}: cannot write this kind of file: a name that ends in {' or '.join(endings)} "
            "is expected"
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _format_of_path(path: Path) -> SplatFormat | None:
    """The format of the content of a file, or of a folder."""
    if not path.is_dir():
        head = _head(path)
        known = next((known for known in FORMATS if known.is_beginning(head)), None)
        if known:
            return known
    tests = ((known, known.is_of_path) for known in FORMATS)
    return next((known for known, test in tests if test and test(path)), None)


def _format_of_name(path: Path) -> SplatFormat | None:
    ending = path.suffix.lower()
    return next((known for known in FORMATS if ending in known.endings), None)


def _names() -> str:
    return ", ".join(known.name for known in FORMATS)
