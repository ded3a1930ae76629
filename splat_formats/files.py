# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files of Gaussians in every format. A format is one line of `FORMATS`."""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from splat_codec.errors import CorruptFile
from splat_formats.compressed_ply import (
    is_compressed_ply,
    read_compressed_ply,
    write_compressed_ply,
)
from splat_formats.f3dgs_file import F3DGS, is_f3dgs, read_f3dgs, write_f3dgs
from splat_formats.foreign import foreign_kind, kind_of_folder
from splat_formats.gltf import is_gltf, is_gltf_path, read_gltf
from splat_formats.gltf_writer import write_glb
from splat_formats.ksplat import ENDING as KSPLAT
from splat_formats.ksplat import is_ksplat_path, read_ksplat
from splat_formats.ply import is_ply, read_ply_scene, write_ply_scene
from splat_formats.published_file import is_published_file, read_published_scene
from splat_formats.repairs import clamp_limits
from splat_formats.scene import SplatScene, Written
from splat_formats.sog import is_sog_meta, read_sog
from splat_formats.sog_parts import META, is_sog_path
from splat_formats.sog_writer import write_sog
from splat_formats.splat_file import ENDING as SPLAT
from splat_formats.splat_file import is_splat_path, read_splat, write_splat
from splat_formats.spz import is_spz, read_spz, write_spz
from splat_formats.streamed_sog import INDEX, is_streamed_index, is_streamed_path, read_streamed_sog
from utils.errors import InputError
from utils.files import bytes_of, is_special

logger = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 16  # contains the headers of PLY files

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
    write: Callable[..., Written] | None = None
    """Takes path, scene and the options below; None: read only."""
    options: tuple[str, ...] = ()
    """Names of keyword arguments of `write`."""
    is_exact: bool = False
    """Whether every number is written as it is."""
    is_of_path: Callable[[Path], bool] | None = None
    """Whether a folder, or a file whose beginning does not show it, is of this format."""


def _never(head: bytes) -> bool:
    """For formats that no first bytes show."""
    return False


FORMATS = (
    SplatFormat(
        "a compressed PLY",
        (".compressed.ply",),
        is_compressed_ply,
        read_compressed_ply,
        write_compressed_ply,
    ),
    SplatFormat("a PLY", (".ply",), is_ply, read_ply_scene, write_ply_scene, is_exact=True),
    SplatFormat("a .f3dgs file", (F3DGS,), is_f3dgs, read_f3dgs, write_f3dgs, options=("quality",)),
    SplatFormat("an SPZ file", (".spz",), is_spz, read_spz, write_spz, options=("spz_version",)),
    SplatFormat("a SOG model", (".sog",), is_sog_meta, read_sog, write_sog, is_of_path=is_sog_path),
    SplatFormat(
        "a streamed SOG model",
        (),
        is_streamed_index,
        read_streamed_sog,
        is_of_path=is_streamed_path,
    ),
    SplatFormat("a glTF file", (".glb",), is_gltf, read_gltf, write_glb, is_of_path=is_gltf_path),
    SplatFormat(
        "a .splat file", (SPLAT,), _never, read_splat, write_splat, is_of_path=is_splat_path
    ),
    SplatFormat("a .ksplat file", (KSPLAT,), _never, read_ksplat, is_of_path=is_ksplat_path),
    SplatFormat("a published Fast-3DGS file", (), is_published_file, read_published_scene),
)


def read_splats(path: str | os.PathLike[str]) -> SplatScene:
    """The scene in a file of any format of `FORMATS`, chosen by content first, then by name.

    Raises InputError for any other file, and for a damaged one.
    """
    path = Path(path)
    try:
        return with_limits_clamped(format_to_read(path).read(path))
    except CorruptFile as error:
        raise InputError(f"{path}: {error}") from error


def format_to_read(path: Path) -> SplatFormat:
    """The format of a file or a folder, by its content, else by its name.

    Reads no more than the beginning. Raises InputError for what is no model.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: a pipe or a device cannot be read: an ordinary file is expected")
    chosen = _format_of_path(path)
    if chosen is None and path.is_dir():
        raise InputError(f"{path}: this is {kind_of_folder(path)}")
    if chosen is None:
        kind = foreign_kind(path, _head(path))
        chosen = _format_of_name(path)
        if kind or chosen is None:
            raise InputError(f"{path}: this is {kind or 'no model'}; expected {readable_names()}")
    return chosen


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


def bytes_of_model(path: Path) -> int:
    """The size of a model's file, or of all files of a model that is a folder."""
    place = path.parent if path.name in (META, INDEX) else path
    inner = (part for part in place.rglob("*") if part.is_dir()) if is_streamed_path(place) else ()
    return bytes_of(place) + sum(map(bytes_of, inner))


def kind_of_file(path: Path) -> str | None:
    """A short description of a file, for messages; None if its kind is unknown."""
    known = _format_of_path(path)
    return known.name if known else foreign_kind(path, _head(path))


def write_splats(path: str | os.PathLike[str], scene: SplatScene, **options: Any) -> Notices:
    """Writes the scene, whole or not at all, in the format of the name's ending.

    A device, a pipe or an open descriptor, whose names have no endings, gets a PLY. `options` are
    those of the format. Returns one sentence for everything that the format cannot hold. Raises
    InputError for an unknown ending.
    """
    path = Path(path)
    return written_by(format_to_write(path), path, scene, **options).notices


def written_by(known: SplatFormat, path: Path, scene: SplatScene, **options: Any) -> Written:
    """Writes the scene in this format, whole or not at all."""
    if known.write is None:
        raise ValueError(f"{known.name} cannot be written")
    with np.errstate(over="ignore"):  # what becomes infinite is clipped like other large values
        return known.write(path, scene, **options)


def format_to_write(path: Path) -> SplatFormat:
    """The format of the name's ending. Raises InputError for an ending that cannot be written."""
    writers = {ending: known for known in FORMATS for ending in known.endings if known.write}
    check_ending(path, *writers)
    return writers.get(ending_of(path, *writers), writers[".ply"])


def check_options(known: SplatFormat, names: Iterable[str]) -> None:
    """Raises InputError for an option that this format does not have."""
    for name in names:
        if name not in known.options:
            others = [other.name for other in FORMATS if name in other.options]
            raise InputError(
                f"--{name} belongs to {' or '.join(others) or 'no format'}, but the file to write "
                f"is {known.name}"
            )


def check_ending(path: Path, *endings: str) -> None:
    """Raises InputError for the name of an ordinary file that has none of these endings."""
    if not ending_of(path, *endings) and not is_special(path):
        raise InputError(
            f"{path}: cannot write this kind of file: a name that ends in {' or '.join(endings)} "
            "is expected"
        )


def ending_of(path: Path, *endings: str) -> str:
    """The longest of these endings that the file's name has; empty if it has none."""
    name = path.name.lower()
    found = [ending for ending in endings if name.endswith(ending) and name != ending]
    return max(found, key=len, default="")


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
    ending = ending_of(path, *(ending for known in FORMATS for ending in known.endings))
    return next((known for known in FORMATS if ending in known.endings), None)


def readable_names() -> str:
    """The formats that can be read, for messages."""
    return ", ".join(known.name for known in FORMATS)
