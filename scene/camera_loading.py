# SPDX-License-Identifier: Apache-2.0
"""From what a dataset says of its photos to cameras that hold them."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from arguments import ModelOptions
from scene.cameras import Camera
from scene.dataset_readers import CameraInfo
from utils.errors import InputError
from utils.graphics_utils import fov2focal
from utils.photos import Size, open_photo, planar_u8
from utils.system_utils import log_once, resolve_data_device

logger = logging.getLogger(__name__)

_MAX_DEFAULT_WIDTH = 1600
_DIVISORS = (1, 2, 4, 8)
_MAX_LOADER_THREADS = 8
_LEAST_SIDE = 8  # pixels, of a photo that was scaled down; SSIM's window is 11 pixels wide
# Units of stored depth maps per unit of inverse depth.
_COLMAP_DEPTH_UNITS = 65536.0
_BLENDER_DEPTH_UNITS = 512.0


def target_size(size: Size, resolution: int, resolution_scale: float = 1.0) -> Size:
    """Width and height of the image to train on, by the rule of --resolution.

    1, 2, 4, 8 divide the size; -1 limits the width to 1600 pixels; another number is the width,
    where the photo is wider. Raises `InputError` where scaling down leaves almost nothing.
    """
    width, height = size
    if resolution in _DIVISORS:
        divisor = resolution_scale * resolution
        scaled = (round(width / divisor), round(height / divisor))
    elif resolution == -1 or resolution > 0:
        new_width = min(width, _MAX_DEFAULT_WIDTH if resolution == -1 else resolution)
        divisor = width / new_width * resolution_scale
        scaled = (int(width / divisor), int(height / divisor))
    else:
        raise InputError(f"--resolution must be -1 or a positive number, got {resolution}")
    if min(scaled) < min(_LEAST_SIDE, width, height):
        raise InputError(
            f"--resolution {resolution} scales {width}x{height} pixels down to "
            f"{scaled[0]}x{scaled[1]}: expected at least {_LEAST_SIDE} on either side (1, 2, 4 and "
            "8 divide the size, any other number is the width)"
        )
    return scaled


def loadCam(
    args: ModelOptions,
    id: int,
    cam_info: CameraInfo,
    resolution_scale: float,
    is_nerf_synthetic: bool = False,
    is_test_dataset: bool = False,
    *,
    device: torch.device | None = None,
) -> Camera:
    """The camera number `id`, with its photo decoded, composited over the background and resized.

    `device` holds the matrices (default: CPU); the photo goes where `args.data_device` says, as
    far as that makes sense. Raises `InputError` naming the photo if it cannot be used.
    """
    device = torch.device("cpu") if device is None else device
    photo = open_photo(cam_info.image_path)
    _announce_width(photo.width, args.resolution)
    try:
        size = target_size(photo.size, args.resolution, resolution_scale)
        image_u8 = planar_u8(photo, size, args.white_background)
    except InputError as error:
        raise InputError(f"{cam_info.image_path}: {error}") from error
    inverse_depth = None
    if cam_info.depth_path:
        units = _BLENDER_DEPTH_UNITS if is_nerf_synthetic else _COLMAP_DEPTH_UNITS
        inverse_depth = read_depth_map(cam_info.depth_path) / units
    return Camera(
        resolution=size,
        colmap_id=cam_info.uid,
        R=cam_info.R,
        T=cam_info.T,
        FoVx=cam_info.FovX,
        FoVy=cam_info.FovY,
        depth_params=cam_info.depth_params,
        image=None,
        invdepthmap=inverse_depth,
        image_name=cam_info.image_name,
        uid=id,
        data_device=resolve_data_device(args.data_device, device),
        train_test_exp=args.train_test_exp,
        is_test_dataset=is_test_dataset,
        is_test_view=cam_info.is_test,
        image_u8=image_u8,
        device=device,
    )


def cameraList_from_camInfos(
    cam_infos: Sequence[CameraInfo],
    resolution_scale: float,
    args: ModelOptions,
    is_nerf_synthetic: bool = False,
    is_test_dataset: bool = False,
    *,
    device: torch.device | None = None,
) -> list[Camera]:
    """The cameras of `cam_infos`, in order; photos are decoded by several threads at once."""

    def load(numbered: tuple[int, CameraInfo]) -> Camera:
        return loadCam(
            args,
            *numbered,
            resolution_scale,
            is_nerf_synthetic,
            is_test_dataset,
            device=device,
        )

    with ThreadPoolExecutor(min(_MAX_LOADER_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(load, enumerate(cam_infos)))


def camera_to_JSON(id: int, camera: CameraInfo) -> dict[str, Any]:
    """The entry number `id` of cameras.json: centre and camera-to-world rotation, focal lengths."""
    return {
        "id": id,
        "img_name": camera.image_name,
        "width": camera.width,
        "height": camera.height,
        "position": (-camera.R @ camera.T).tolist(),
        "rotation": camera.R.tolist(),
        "fy": fov2focal(camera.FovY, camera.height),
        "fx": fov2focal(camera.FovX, camera.width),
    }


def read_depth_map(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """(H, W) stored values of a depth PNG of 8 or 16 bits.

    Of a colour image it is the blue channel, which is the first one for OpenCV: the original reads
    depth maps with that.
    """
    image = open_photo(path)
    if image.mode == "P":
        raise InputError(f"{Path(path)}: expected grey values in a depth map, got a palette")
    pixels = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
    return (pixels if pixels.ndim == 2 else pixels[..., 2]).astype(np.float32)


def _announce_width(width: int, resolution: int) -> None:
    """Log, once, that photos are not used at the width that one may expect."""
    if resolution == -1 and width > _MAX_DEFAULT_WIDTH:
        log_once(
            logger,
            f"[ INFO ] Photos wider than {_MAX_DEFAULT_WIDTH} pixels (>1.6K) are scaled down to "
            "that width; -r 1 keeps their size",
        )
    elif resolution not in _DIVISORS and resolution > width:
        log_once(
            logger,
            f"Photos less than {resolution} pixels wide keep their size: -r {resolution} does not "
            "enlarge them",
        )
