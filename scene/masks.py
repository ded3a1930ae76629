# SPDX-License-Identifier: Apache-2.0
"""Masks beside the photographs (--masks): black pixels count neither in losses nor in scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scene.camera_info import CameraInfo
from scene.undistortion import open_picture
from utils.errors import InputError
from utils.photo_files import find_photos, listed
from utils.photos import Size, to_rgb

logger = logging.getLogger(__name__)

_LEAST_WHITE = 128


def with_masks(cameras: Sequence[CameraInfo], folder: Path) -> list[CameraInfo]:
    """The cameras with the paths of their masks, named as the image, or image.jpg.png.

    Of images without a mask all pixels count. InputError if there are no masks at all.
    """
    names = [camera.image_name for camera in cameras]
    files = find_photos(folder, names, ".png") if folder.is_dir() else {}
    if names and not files:
        raise InputError(f"--masks: expected masks named as the images in {folder}, found none")
    without = sorted(set(names) - set(files))
    if without:
        logger.info("%d images have no mask in %s: %s", len(without), folder, listed(without))
    return [
        camera._replace(mask_path=str(files[camera.image_name]))
        if camera.image_name in files
        else camera
        for camera in cameras
    ]


def load_mask(camera: CameraInfo, size: Size) -> Tensor | None:
    """(1, H, W) uint8, 1 where a pixel counts, at `size` (width, height); None without a mask.

    InputError if it is of another shape than its camera, or excludes all pixels.
    """
    if not camera.mask_path:
        return None
    path = camera.mask_path
    image = open_picture(path, camera)
    grey = to_rgb(image).convert("L")
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    counts = np.asarray(grey) >= _LEAST_WHITE
    if not counts.any():
        raise InputError(f"{path} excludes all pixels: leave out the photograph instead")
    return torch.from_numpy(counts.astype(np.uint8))[None]
