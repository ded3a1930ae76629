# SPDX-License-Identifier: Apache-2.0
"""The .f3dgs format as scenes. NumPy only."""

from pathlib import Path

from splat_codec.container import MAGIC
from splat_codec.model_file import MAX_LAYERS, ModelFile, decode, encode
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.file_description import describe, from_entries, to_entries
from splat_formats.outliers import without_invisible
from splat_formats.repairs import showable
from splat_formats.scene import SplatScene
from utils.errors import InputError
from utils.files import atomic_path

_QUALITY = "high"  # of a file that is written without further settings


def is_f3dgs(head: bytes) -> bool:
    """Whether a file that begins with `head` is of this format, in any version."""
    return head.startswith(MAGIC)


def read_f3dgs(path: Path) -> SplatScene:
    """The scene in a .f3dgs file. Raises CorruptFile."""
    return scene_of(decode(path.read_bytes(), MAX_LAYERS))


def scene_of(model: ModelFile) -> SplatScene:
    """The scene that a decoded file holds. Raises CorruptFile."""
    return SplatScene(to_splats(model.splats), from_entries(model.metadata))


def write_f3dgs(path: Path, scene: SplatScene) -> tuple[str, ...]:
    """Quantises without training, at the quality "high", and writes the file."""
    shown = showable(scene.splats)
    kept, adjustments = without_invisible(shown.splats)
    if not kept.count:
        raise InputError(f"{path}: the model holds no Gaussians that an image can show")
    quantized = quantize_splats(kept, QUALITIES[_QUALITY])
    settings = {"quality": _QUALITY, "training_free": True}
    metadata = describe(scene.splats, settings, **to_entries(scene.metadata))
    data = encode(ModelFile(quantized.splats, metadata))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return tuple(filter(None, [*shown.notices, str(adjustments)]))
