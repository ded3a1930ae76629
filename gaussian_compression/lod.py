# SPDX-License-Identifier: Apache-2.0
"""The steps of a ladder as one streamed SOG: the levels of detail that viewers load by distance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gaussian_compression.ladder import LadderStep
from gaussian_compression.report import LodFigures
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.streamed_sog import INDEX
from splat_formats.streamed_sog_writer import streamed_sog_files

FOLDER = "lod"


@dataclass(frozen=True, eq=False)
class Lod:
    """The files, by their paths in the folder of the compressed file."""

    files: dict[str, bytes]
    figures: LodFigures
    notices: tuple[str, ...]
    """What the format cannot hold."""


def lod_of(steps: Sequence[LadderStep], metadata: SplatMetadata) -> Lod:
    """The steps as levels of detail, from the finest to the coarsest."""
    levels = [SplatScene(step.decoded, metadata) for step in steps]
    files, notices = streamed_sog_files(levels)
    figures = LodFigures(
        file=f"{FOLDER}/{INDEX}",
        bytes=sum(map(len, files.values())),
        gaussians=tuple(step.decoded.count for step in steps),
    )
    inside = {f"{FOLDER}/{name}": data for name, data in files.items()}
    return Lod(inside, figures, tuple(f"{FOLDER}/{INDEX}: {notice}" for notice in notices))


def existing_files(compressed: Path) -> tuple[str, ...]:
    """What lies in the place of the levels, by the paths in the folder of the compressed file."""
    found = sorted((compressed / FOLDER).rglob("*"))
    return tuple(path.relative_to(compressed).as_posix() for path in found if not path.is_dir())
