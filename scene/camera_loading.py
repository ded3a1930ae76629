# SPDX-License-Identifier: Apache-2.0
"""Turns the cameras of a data set into cameras that hold their photos."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from arguments import ModelOptions
from scene.camera_info import CameraInfo
from scene.cameras import Camera
from scene.depth_maps import load_depth_map
from scene.masks import load_mask
from scene.photo_cache import PhotoCache, Pixels
from scene.undistortion import open_picture, picture_size
from utils.errors import InputError
from utils.graphics_utils import fov2focal
from utils.logged_once import log_once
from utils.photos import Size, opacity_u8, planar_u8
from utils.system_utils import resolve_data_device

logger = logging.getLogger(__name__)

_MAX_DEFAULT_WIDTH = 1600
_DIVISORS = (1, 2, 4, 8)
_MAX_LOADER_THREADS = 8
_LEAST_SIDE = 8  # pixels, of a photo that was scaled down; SSIM's window is 11 pixels wide


def target_size(size: Size, resolution: int, resolution_scale: float = 1.0) -> Size:
    """Width and height of the image to train on, by the rule of --resolution.

    1, 2, 4, 8 divide the size; -1 limits the width to 1600 pixels; any other number limits the
    width to itself. Raises `InputError` if the scaled image would be too small.
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
    cache: PhotoCache | None = None,
) -> Camera:
    """The camera number `id`, with its photo decoded, composited over the background and resized.

    `device` holds the matrices (default: CPU); the photo is kept on the device that
    `resolve_data_device` chooses, or in `cache`, which decodes it when it is used. Raises
    `InputError` naming the photo if it cannot be used.
    """
    device = torch.device("cpu") if device is None else device
    stored = picture_size(cam_info.image_path, cam_info)
    size = loaded_size(cam_info, stored, args, resolution_scale)
    _announce_width(stored[0], args.resolution)
    decode = partial(_decoded, cam_info, size, args.white_background)
    photo = None if cache is None else cache.add(decode, size)
    pixels = decode() if photo is None else None
    return Camera(
        resolution=size,
        colmap_id=cam_info.uid,
        R=cam_info.R,
        T=cam_info.T,
        FoVx=cam_info.FovX,
        FoVy=cam_info.FovY,
        depth_params=cam_info.depth_params,
        image=None,
        invdepthmap=load_depth_map(cam_info),
        image_name=cam_info.image_name,
        uid=id,
        data_device=resolve_data_device(args.data_device, device),
        train_test_exp=args.train_test_exp,
        is_test_dataset=is_test_dataset,
        is_test_view=cam_info.is_test,
        image_u8=None if pixels is None else pixels.image,
        opacity_u8=None if pixels is None else pixels.opacity,
        photo=photo,
        photo_background=float(args.white_background),
        principal_point=cam_info.principal_point,
        mask_u8=None if pixels is None else pixels.mask,
        device=device,
    )


def _decoded(camera: CameraInfo, size: Size, white_background: bool) -> Pixels:
    """The photo and its mask, resized to `size`. InputError if they cannot be used."""
    photo = open_picture(camera.image_path, camera)
    try:
        image = planar_u8(photo, size, white_background)
    except InputError as error:
        raise InputError(f"{camera.image_path}: {error}") from error
    return Pixels(image, opacity_u8(photo, size), load_mask(camera, size))


def loaded_size(
    camera: CameraInfo, size: Size, args: ModelOptions, resolution_scale: float
) -> Size:
    """Width and height at which a photo of `size`, undistorted if it must be, is loaded.

    Raises `InputError` if --resolution makes it too small.
    """
    try:
        return target_size(size, args.resolution, resolution_scale)
    except InputError as error:
        raise InputError(f"{camera.image_path}: {error}") from error


def check_photos(
    cameras: Sequence[CameraInfo], args: ModelOptions, resolution_scale: float
) -> list[Size]:
    """Width and height at which each photo is loaded.

    Raises `InputError` for a photo whose header shows that `loadCam` cannot use it. This is fast,
    so it is done before the photos are loaded.
    """
    sizes = []
    for camera in cameras:
        sizes.append(
            loaded_size(camera, picture_size(camera.image_path, camera), args, resolution_scale)
        )
    return sizes


def cameraList_from_camInfos(
    cam_infos: Sequence[CameraInfo],
    resolution_scale: float,
    args: ModelOptions,
    is_nerf_synthetic: bool = False,
    is_test_dataset: bool = False,
    *,
    device: torch.device | None = None,
    cache: PhotoCache | None = None,
) -> list[Camera]:
    """The cameras of `cam_infos`, in order; photos are decoded by several threads at once.

    With a `cache`, they are decoded when they are used.
    """

    def load(numbered: tuple[int, CameraInfo]) -> Camera:
        return loadCam(
            args,
            *numbered,
            resolution_scale,
            is_nerf_synthetic,
            is_test_dataset,
            device=device,
            cache=cache,
        )

    if cache is not None:
        return [load(numbered) for numbered in enumerate(cam_infos)]
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


def _announce_width(width: int, resolution: int) -> None:
    """Log, once, that photos are loaded at another width than users may expect."""
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
