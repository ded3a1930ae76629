# SPDX-License-Identifier: Apache-2.0
"""SPZ 4 and SOG 2 of a model, as this project writes them: bytes, and what they decode to."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from splat_formats.files import read_splats
from splat_formats.scene import SplatScene
from splat_formats.sog_writer import palette_size, write_sog
from splat_formats.splats import Splats
from splat_formats.spz import write_spz

_SMALL_PALETTE = 16
"""By how much the usual palette is divided: on small models it is nearly a list of all rows."""


@dataclass(frozen=True)
class Peer:
    """A file's size and what it decodes to."""

    size: int
    decoded: Splats


def _as_file(name: str, write: Callable[[Path, Splats], object]) -> Callable[[Splats], Peer]:
    def measure(splats: Splats) -> Peer:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path, splats)
            return Peer(path.stat().st_size, read_splats(path).splats)

    return measure


def _sog_with_small_palette(path: Path, splats: Splats) -> None:
    entries = palette_size(splats.count) // _SMALL_PALETTE
    write_sog(path, SplatScene(splats), palette_entries=entries)


PEERS: dict[str, Callable[[Splats], Peer]] = {
    "SPZ 4": _as_file("model.spz", lambda path, splats: write_spz(path, SplatScene(splats))),
    "SOG 2, a sixteenth of its palette": _as_file("model.sog", _sog_with_small_palette),
    "SOG 2": _as_file("model.sog", lambda path, splats: write_sog(path, SplatScene(splats))),
}
