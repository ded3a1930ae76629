# SPDX-License-Identifier: Apache-2.0
"""Where a training goes on from: a checkpoint or a PLY, checked before photographs are loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene.checkpoint import Checkpoint, load_checkpoint
from scene.gaussian_model import GaussianModel
from scene.view_queue import ViewQueue
from splat_formats.ply import read_ply
from splat_formats.splats import Splats
from utils.errors import InputError


@dataclass(frozen=True)
class TrainingStart:
    """The content of the file given with --start_checkpoint."""

    content: Checkpoint | Splats

    @property
    def iteration(self) -> int:
        """Number of iterations done; 0 for the Gaussians of a PLY."""
        return self.content.iteration if isinstance(self.content, Checkpoint) else 0

    def apply(self, gaussians: GaussianModel, queue: ViewQueue, options: Any) -> None:
        """Give `gaussians` and `queue` the state they had; `options` set up the optimiser."""
        if isinstance(self.content, Splats):
            gaussians.load_splats(self.content)
            gaussians.training_setup(options)
            return
        gaussians.restore(self.content.model, options)
        if self.content.loop is not None:
            self.content.loop.apply()
            queue.resume(self.content.loop.views_left)


def read_start(path: str, sh_degree: int, iterations: int) -> TrainingStart:
    """The file at `path`. Raises `InputError` if training up to `iterations` cannot start there."""
    if not Path(path).is_file():
        raise InputError(f"--start_checkpoint {path}: {_why_no_file(Path(path))}")
    content = read_ply(path) if path.lower().endswith(".ply") else load_checkpoint(path)
    start = TrainingStart(content)
    if content.sh_degree != sh_degree:
        raise InputError(
            f"{path} holds Gaussians of SH degree {content.sh_degree}, but training is to use "
            f"degree {sh_degree}: give --sh_degree {content.sh_degree}"
        )
    if start.iteration >= iterations:
        raise InputError(
            f"{path} is from iteration {start.iteration}, and --iterations {iterations} is the "
            f"last iteration: nothing is left to train; give more than {start.iteration}"
        )
    return start


def _why_no_file(path: Path) -> str:
    if not path.is_dir():
        return "there is no such file"
    numbers = [re.fullmatch(r"chkpnt(\d+)\.pth", entry.name) for entry in path.iterdir()]
    latest = max((int(number[1]) for number in numbers if number), default=None)
    if latest is None:
        return "expected a checkpoint or a PLY, not a folder"
    return f"expected a file, not a folder: give {path / f'chkpnt{latest}.pth'}"
