# SPDX-License-Identifier: Apache-2.0
"""The .f3dgs format as scenes. NumPy only."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from splat_codec.block_file import BlockIndex, Corner, has_blocks
from splat_codec.container import MAGIC
from splat_codec.model_file import MAX_LAYERS, ModelFile, decode, encode
from splat_formats.block_coding import blocks_that_meet, decoded_blocks, index_of
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.edits import Box
from splat_formats.file_description import describe, from_entries, to_entries
from splat_formats.scene import SplatScene, Written
from splat_formats.spatial_blocks import LEAST_WITH_BLOCKS
from splat_formats.splats import Splats, joined, no_splats
from splat_formats.visible import visible_gaussians
from utils.files import write_bytes

F3DGS = ".f3dgs"
"""The ending of the names of these files."""


def is_f3dgs(head: bytes) -> bool:
    """Whether a file that begins with `head` is of this format, in any version."""
    return head.startswith(MAGIC)


def read_f3dgs(path: Path) -> SplatScene:
    """The scene in a .f3dgs file, of blocks: that of all together. Raises CorruptFile."""
    if is_in_blocks(path):
        index = index_of(path)
        return scene_of_blocks(index, decoded_blocks(path, index))
    return scene_of(decode(path.read_bytes(), MAX_LAYERS))


def is_in_blocks(path: Path) -> bool:
    """Whether the file is a .f3dgs file of blocks."""
    with path.open("rb") as file:
        return has_blocks(file.read(len(MAGIC) + 2))


def read_blocks(path: Path, low: Corner, high: Corner) -> SplatScene:
    """The blocks of a file that meet a box, whole: Gaussians beyond the box may be among them.

    The box is in world coordinates. Raises CorruptFile; the other blocks are not read.
    """
    index = index_of(path)
    return scene_of_blocks(index, decoded_blocks(path, index, blocks_in(index, Box(low, high))))


def blocks_in(index: BlockIndex, box: Box) -> list[int]:
    """The numbers of the blocks that meet a box in world coordinates."""
    x, y, z = from_entries(index.metadata).origin

    def moved(corner: Corner) -> Corner:
        return corner[0] - x, corner[1] - y, corner[2] - z

    return blocks_that_meet(index, moved(box.low), moved(box.high))


def scene_of_blocks(index: BlockIndex, blocks: Iterable[Splats]) -> SplatScene:
    """The Gaussians of some blocks of a file as one scene. Raises CorruptFile."""
    metadata = from_entries(index.metadata)
    parts = list(blocks)
    return SplatScene(joined(parts) if parts else no_splats(index.sh_degree), metadata)


def scene_of(model: ModelFile) -> SplatScene:
    """The scene that a decoded file holds. Raises CorruptFile."""
    return SplatScene(to_splats(model.splats), from_entries(model.metadata))


def write_f3dgs(path: Path, scene: SplatScene, quality: str = "high") -> Written:
    """Quantises without training, at a quality of QUALITIES, and writes the file."""
    data, written = packed(scene, path, quality)
    write_bytes(path, data)
    return written


def packed(scene: SplatScene, place: Path, quality: str = "high") -> tuple[bytes, Written]:
    """The bytes of the file that `write_f3dgs` writes; an InputError names `place`."""
    visible = visible_gaussians(scene.splats, place)
    quantized = quantize_splats(visible.splats, QUALITIES[quality])
    settings = {"quality": quality, "training_free": True}
    metadata = describe(scene.splats, settings, **to_entries(scene.metadata))
    data = encode(ModelFile(quantized.splats, metadata))
    exact = len(np.unique(quantized.splats.exact.rows))
    adjustments = replace(visible.adjustments, stored_exactly=exact)
    notices = (
        *visible.repairs.notices,
        *filter(None, [str(adjustments)]),
        *_whole_notices(scene.splats),
    )
    return data, Written(notices, visible.rows[quantized.order], axes_ordered=True)


def _whole_notices(splats: Splats) -> tuple[str, ...]:
    """A sentence on a big model, which could be stored in blocks."""
    if splats.count < LEAST_WITH_BLOCKS:
        return ()
    return (f"{splats.count:,} Gaussians are stored and decoded as a whole: compress.py "
            "--training_free --start_ply stores them in blocks",)  # fmt: skip
