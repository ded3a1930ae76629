# SPDX-License-Identifier: Apache-2.0
"""The checkpoint or model that a training starts from, checked before photographs are loaded."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arguments import ModelOptions, read_cfg_args
from scene.checkpoint import Checkpoint, load_checkpoint
from scene.gaussian_model import GaussianModel
from scene.view_queue import ViewQueue
from splat_formats.files import FORMATS, read_with_notices
from splat_formats.scene import NO_ORIGIN, SplatScene
from utils.errors import InputError

PLACES = ("source_path", "model_path", "data_device", "image_cache_gb")
# Endings of files; others are checkpoints.
GAUSSIANS_ONLY = (".ply.gz", *(ending for known in FORMATS for ending in known.endings))


@dataclass(frozen=True)
class TrainingStart:
    """The content of the file given with --start_checkpoint."""

    content: Checkpoint | SplatScene

    @property
    def sh_degree(self) -> int:
        """Highest degree of the spherical harmonics."""
        content = self.content
        return content.sh_degree if isinstance(content, Checkpoint) else content.splats.sh_degree

    @property
    def antialiasing(self) -> bool:
        """Whether the file holds an antialiased model; checkpoints do not record it."""
        return isinstance(self.content, SplatScene) and self.content.metadata.antialiasing

    @property
    def iteration(self) -> int:
        """Number of iterations done; 0 for a file of Gaussians."""
        return self.content.iteration if isinstance(self.content, Checkpoint) else 0

    def apply(self, gaussians: GaussianModel, queue: ViewQueue, options: Any) -> None:
        """Set `gaussians` and `queue` to the stored state; `options` configure the optimiser."""
        if isinstance(self.content, SplatScene):
            gaussians.load_splats(self.content.splats)
            gaussians.training_setup(options)
            return
        gaussians.restore(self.content.model, options)
        if self.content.loop is not None:
            self.content.loop.apply()
            queue.resume(self.content.loop.views_left)


def read_start(path: str, sh_degree: int, iterations: int) -> TrainingStart:
    """The file at `path`. Raises `InputError` if it is no start for training up to `iterations`."""
    if not Path(path).is_file():
        raise InputError(f"--start_checkpoint {path}: {_why_no_file(Path(path))}")
    has_gaussians_only = path.lower().endswith(GAUSSIANS_ONLY)
    start = TrainingStart(_read_gaussians(path) if has_gaussians_only else load_checkpoint(path))
    if start.sh_degree != sh_degree:
        raise InputError(
            f"{path} holds Gaussians of SH degree {start.sh_degree}, but training is to use "
            f"degree {sh_degree}: give --sh_degree {start.sh_degree}"
        )
    if start.iteration >= iterations:
        raise InputError(
            f"{path} is from iteration {start.iteration}, and --iterations {iterations} is the "
            f"last iteration: nothing is left to train; give more than {start.iteration}"
        )
    return start


def changed_options(path: str, options: ModelOptions) -> list[str]:
    """What differs from the `cfg_args` beside the checkpoint at `path`: "resolution 2, not 4".

    Paths and where the photographs are kept are not compared.
    """
    try:
        recorded = read_cfg_args(Path(path).parent)
    except (FileNotFoundError, ValueError):  # from another program, or moved: nothing to compare
        return []
    return [
        f"{name} {value}, not {recorded[name]}"
        for name, value in asdict(options).items()
        if name not in PLACES and value != recorded.get(name, value)
    ]


def _read_gaussians(path: str) -> SplatScene:
    scene = read_with_notices(path)
    if not scene.splats.count:
        raise InputError(f"{path} holds no Gaussians: there is nothing to train")
    if scene.metadata.origin != NO_ORIGIN:
        raise InputError(
            f"{path}: training needs positions near 0: move the model and the cameras towards 0"
        )
    return scene


def _why_no_file(path: Path) -> str:
    if not path.is_dir():
        return "there is no such file"
    numbers = [re.fullmatch(r"chkpnt(\d+)\.pth", entry.name) for entry in path.iterdir()]
    latest = max((int(number[1]) for number in numbers if number), default=None)
    if latest is None:
        return "expected a checkpoint or a file of Gaussians, not a folder"
    return f"expected a file, not a folder: give {path / f'chkpnt{latest}.pth'}"
