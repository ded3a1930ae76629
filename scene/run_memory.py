# SPDX-License-Identifier: Apache-2.0
"""The memory that a run needs: stated before photographs are loaded, refused if not there."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scene.camera_info import CameraInfo
from utils.errors import InputError
from utils.memory import available_memory
from utils.photos import Size
from utils.units import GIGABYTE

logger = logging.getLogger(__name__)

TRAINED_BYTES = 2200
"""Of one Gaussian with SH of degree 3 while it is trained.

Measured: peaks of train.py for 84,864 and 11,245 Gaussians on fox, two cores, 2026-11-30.
"""
DRAWN_BYTES = 500
"""The same while it is only drawn, estimated: 59 floats, once more as the rasteriser reads them."""

_MAIN = torch.device("cpu")
_COLOURS = 3
_DEPTH_BYTES = 4  # of a pixel of a depth map, which is not in the cache
_SHARE_OF_PHOTOGRAPHS = 0.5  # in the advice for the cache: the rest is for the Gaussians


@dataclass(frozen=True)
class MemoryNeeds:
    """What a run keeps in memory, in bytes, and on which devices."""

    photographs: int
    """All of them, decoded, with masks."""
    photograph_count: int
    cache: int
    """The most that decoded photographs may take; 0: all are kept."""
    depth_maps: int
    gaussians: int
    gaussian_count: int
    pixels_on: torch.device = _MAIN
    """Where decoded photographs and depth maps are."""
    gaussians_on: torch.device = _MAIN

    @property
    def kept(self) -> int:
        """What decoded photographs take."""
        return min(self.photographs, self.cache) if self.cache else self.photographs

    @property
    def total(self) -> int:
        """What is in main memory, all together."""
        pixels = self.kept + self.depth_maps if self.pixels_on == _MAIN else 0
        return pixels + (self.gaussians if self.gaussians_on == _MAIN else 0)


def cache_bytes(cache_gb: float) -> int:
    """The value of --image_cache_gb in bytes, 0 for 0 only."""
    return math.ceil(cache_gb * GIGABYTE)


def memory_needs(
    photographs: Sequence[tuple[CameraInfo, Size]],
    cache_gb: float,
    gaussian_count: int,
    bytes_per_gaussian: int,
    pixels_on: torch.device = _MAIN,
    gaussians_on: torch.device = _MAIN,
) -> MemoryNeeds:
    """The needs of a run with these photographs, loaded at these sizes, and so many Gaussians.

    `pixels_on` holds photographs and maps, unless there is a cache, which is in main memory.
    """
    colours = depths = 0
    for camera, (width, height) in photographs:
        colours += (_COLOURS + bool(camera.mask_path)) * width * height
        depths += _DEPTH_BYTES * bool(camera.depth_path) * width * height
    return MemoryNeeds(
        photographs=colours,
        photograph_count=len(photographs),
        cache=cache_bytes(cache_gb),
        depth_maps=depths,
        gaussians=gaussian_count * bytes_per_gaussian,
        gaussian_count=gaussian_count,
        pixels_on=_MAIN if cache_gb else pixels_on,
        gaussians_on=gaussians_on,
    )


def require_memory(needs: MemoryNeeds) -> None:
    """Log the needs. InputError if this machine, or this process's limit, has less memory left.

    Only main memory counts: that of a GPU is not measured.
    """
    available = available_memory()
    cached = f" ({_gigabytes(needs.photographs)} in all)" if needs.kept < needs.photographs else ""
    depths = f", {_gigabytes(needs.depth_maps)} for depth maps" if needs.depth_maps else ""
    text = (
        f"{_gigabytes(needs.kept)} for {needs.photograph_count} decoded photographs{cached}"
        f"{depths}{_place(needs.pixels_on)} and {_gigabytes(needs.gaussians)} for "
        f"{needs.gaussian_count:,} Gaussians{_place(needs.gaussians_on)}"
    )
    if available is None:
        logger.info("Memory: %s", text)
        return
    logger.info("Memory: %s; %s are available", text, _gigabytes(available))
    if needs.total > available:
        raise InputError(
            f"expected {_gigabytes(needs.total)} of memory, {text}, but only "
            f"{_gigabytes(available)} are available{_advice(needs, available)}"
        )


def _advice(needs: MemoryNeeds, available: int) -> str:
    left = available - (needs.total - needs.kept)
    if left <= 0 or needs.pixels_on != _MAIN:
        return ""
    cache = _SHARE_OF_PHOTOGRAPHS * left / GIGABYTE
    return (
        f": give --image_cache_gb {cache:.2g}, with which photographs are decoded when they are "
        "used, or a smaller resolution with -r"
    )


def _place(device: torch.device) -> str:
    return "" if device == _MAIN else f" on {device}"


def _gigabytes(amount: float) -> str:
    return f"{amount / GIGABYTE:.3g} GB"
