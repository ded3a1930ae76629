# SPDX-License-Identifier: Apache-2.0
"""How fast a model's views are drawn, beside its size: measured by render.py, read by others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from utils.errors import InputError
from utils.files import write_json
from utils.json_values import from_json, read_json
from utils.machine import processor_name
from utils.units import MEGABYTE


@dataclass(frozen=True)
class RenderingFigures:
    """The content of rendering.json, beside the folders of the images."""

    gaussians: int
    ply_bytes: int
    views: int
    fps: float
    """From the median of the views' times, each of drawing alone."""
    device: str

    def text(self) -> str:
        """One line."""
        return (
            f"{self.gaussians:,} Gaussians, PLY {self.ply_bytes / MEGABYTE:.2f} MB, "
            f"{self.fps:.1f} FPS (median of {self.views} views, {self.device})"
        )


class FrameClock:
    """Times of single frames on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: list[float] = []

    @property
    def needs_warm_up(self) -> bool:
        """Whether the first frame takes much longer: on a GPU, where kernels are compiled."""
        return self.device.type == "cuda"

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Times the block, up to the end of the device's work."""
        self._finish()
        began = time.perf_counter()
        yield
        self._finish()
        self._seconds.append(time.perf_counter() - began)

    def fps(self) -> float:
        """Frames a second, by the median of their times."""
        return 1 / max(statistics.median(self._seconds), 1e-9)  # a coarse clock may show 0

    @property
    def frames(self) -> int:
        """How many were timed."""
        return len(self._seconds)

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def device_name(device: torch.device) -> str:
    """The card, or the processor and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def figures_path(folder: Path) -> Path:
    """The file of figures in a folder such as MODEL/test/ours_30000."""
    return folder / "rendering.json"


def write_figures(folder: Path, figures: RenderingFigures) -> None:
    """Puts the figures beside the images."""
    write_json(figures_path(folder), asdict(figures))


def read_figures(folder: Path) -> RenderingFigures | None:
    """The figures beside the images; None without them. InputError if the file is damaged."""
    path = figures_path(folder)
    if not path.is_file():
        return None
    try:
        found = from_json(RenderingFigures, read_json(path))
        found.text()
        return found
    except (ValueError, TypeError, InputError) as error:
        raise InputError(f"{path}: expected the figures of render.py, got {error}") from error
