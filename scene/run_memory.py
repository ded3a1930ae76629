# SPDX-License-Identifier: Apache-2.0
"""The memory that a run needs: stated before photographs are loaded, refused if not there."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scene.camera_info import CameraInfo
from utils.errors import InputError
from utils.memory import available_memory
from utils.photos import Size

logger = logging.getLogger(__name__)

GIGABYTE = 1_000_000_000
TRAINED_BYTES = 2200
"""Of one Gaussian with SH of degree 3 while it is trained.

Measured: peaks of train.py for 84,864 and 11,245 Gaussians on fox, two cores, 2026-11-30.
"""
DRAWN_BYTES = 500
"""The same while it is only drawn, estimated: 59 floats, once more as the rasteriser reads them."""

_COLOURS = 3
_DEPTH_BYTES = 4  # of a pixel of a depth map, which is not in the cache
_SHARE_OF_PHOTOGRAPHS = 0.5  # in the advice for the cache: the rest is for the Gaussians


@dataclass(frozen=True)
class MemoryNeeds:
    """What a run keeps in memory, in bytes."""

    photographs: int
    """All of them, decoded, with masks."""
    photograph_count: int
    cache: int
    """The most that decoded photographs may take; 0: all are kept."""
    depth_maps: int
    gaussians: int
    gaussian_count: int

    @property
    def kept(self) -> int:
        """What decoded photographs take."""
        return min(self.photographs, self.cache) if self.cache else self.photographs

    @property
    def total(self) -> int:
        """All together."""
        return self.kept + self.depth_maps + self.gaussians


def cache_bytes(cache_gb: float) -> int:
    """The value of --image_cache_gb in bytes, 0 for 0 only."""
    return math.ceil(cache_gb * GIGABYTE)


def memory_needs(
    photographs: Sequence[tuple[CameraInfo, Size]],
    cache_gb: float,
    gaussian_count: int,
    bytes_per_gaussian: int,
) -> MemoryNeeds:
    """The needs of a run with these photographs, loaded at these sizes, and so many Gaussians."""
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
    )


def require_memory(needs: MemoryNeeds) -> None:
    """Log the needs. InputError if this machine, or this process's limit, has less memory left."""
    available = available_memory()
    cached = f" ({_gigabytes(needs.photographs)} in all)" if needs.kept < needs.photographs else ""
    depths = f", {_gigabytes(needs.depth_maps)} for depth maps" if needs.depth_maps else ""
    text = (
        f"{_gigabytes(needs.kept)} for {needs.photograph_count} decoded photographs{cached}"
        f"{depths} and {_gigabytes(needs.gaussians)} for {needs.gaussian_count:,} Gaussians"
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
    left = available - needs.gaussians - needs.depth_maps
    if left <= 0:
        return ""
    cache = _SHARE_OF_PHOTOGRAPHS * left / GIGABYTE
    return (
        f": give --image_cache_gb {cache:.2g}, with which photographs are decoded when they are "
        "used, or a smaller resolution with -r"
    )


def _gigabytes(amount: float) -> str:
    return f"{amount / GIGABYTE:.3g} GB"
