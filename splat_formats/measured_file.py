# SPDX-License-Identifier: Apache-2.0
"""Writes a scene and reads the file again, to measure what it lost. NumPy only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splat_codec.model_file import decode
from splat_formats.f3dgs_file import packed, scene_of
from splat_formats.files import Notices, format_to_write, read_splats, written_by
from splat_formats.losses import Losses, lines, losses
from splat_formats.scene import SplatScene
from splat_formats.web_page import write_page
from utils.errors import InputError
from utils.files import is_special


@dataclass(frozen=True, eq=False)
class MeasuredFile:
    """A file that was written, and what it holds."""

    scene: SplatScene
    """As it is read from the file."""
    bytes: int | None
    """None for a device, a pipe or an open descriptor."""
    notices: Notices
    """One sentence for everything that the format cannot hold."""
    losses: Losses | None
    """None for a format that holds every number as it is."""

    def lines(self) -> list[str]:
        """What was lost, for the terminal."""
        table = [] if self.losses is None else lines(self.losses)
        return [*table, *(f"  {notice}" for notice in self.notices)]


def write_measured_page(path: Path, scene: SplatScene, **options: Any) -> MeasuredFile:
    """Writes a page that shows the scene as a .f3dgs file, and measures what this file lost.

    `options` are those of .f3dgs files.
    """
    data, written = packed(scene, path, **options)
    write_page(path, data, path.stem)
    found = scene_of(decode(data))
    size = path.stat().st_size
    return MeasuredFile(found, size, written.notices, losses(scene, found, written))


def write_measured(path: Path, scene: SplatScene, **options: Any) -> MeasuredFile:
    """Writes the scene in the format of the name's ending, and measures what the file lost.

    Raises InputError for an unknown ending, and if another program replaces the file meanwhile.
    """
    known = format_to_write(path)
    written = written_by(known, path, scene, **options)
    if is_special(path):
        return MeasuredFile(scene, None, written.notices, None)
    state = path.stat()
    if known.is_exact:
        return MeasuredFile(scene, state.st_size, written.notices, None)
    found = read_splats(path)
    now = path.stat()
    if (now.st_ino, now.st_mtime_ns) != (state.st_ino, state.st_mtime_ns):
        raise InputError(f"{path}: another program replaced this file while it was measured")
    return MeasuredFile(found, state.st_size, written.notices, losses(scene, found, written))
