# SPDX-License-Identifier: Apache-2.0
"""Maps of inverse depth beside the photographs, which train.py -d compares with rendered ones.

A monocular network gives inverse depth up to a scale and an offset for each image. For a COLMAP
scene these are in depth_params.json beside the reconstruction (scene.depth_scale computes them),
and pixels of the PNGs are in units of 1/65536. Other scenes' maps are in units of 1/512, inverse
world units, and used as they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from scene.camera_info import CameraInfo
from utils.errors import InputError
from utils.json_values import read_json
from utils.photo_files import find_photos, listed
from utils.photos import Size, open_photo

logger = logging.getLogger(__name__)

DEPTH_PARAMS_NAME = "depth_params.json"
RELATIVE_UNITS = 65536.0
WORLD_UNITS = 512.0
_MOST = 1e30
"""Of scales and offsets: products with depths stay within float32."""
# Scales beyond these multiples of the median one are of images whose map cannot be trusted.
LEAST_SCALE, MOST_SCALE = 0.2, 5.0

FloatMap = npt.NDArray[np.float32]


def map_name(image_name: str) -> str:
    """An image's name without its ending: the key in depth_params.json."""
    return image_name.rpartition(".")[0] or image_name


def read_depth_map(path: str | Path, units: float) -> FloatMap:
    """(H, W) inverse depths in a grey PNG of 8 or 16 bits, whose pixels are in 1/`units`."""
    image = open_photo(path)
    pixels = np.asarray(image)
    if image.mode in ("P", "PA") or pixels.dtype.kind not in "ui":
        raise InputError(
            f"{path}: expected a grey image of 8 or 16 bits, got one of mode {image.mode}"
        )
    if pixels.ndim == 3:
        grey = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
        if (grey != grey[..., :1]).any():
            raise InputError(f"{path}: expected a grey image of inverse depths, got colours")
        pixels = grey[..., 0]
    return pixels.astype(np.float32) / np.float32(units)


def read_depth_params(path: Path) -> dict[str, dict[str, float]]:
    """scale, offset and med_scale (the median of all positive scales) by `map_name`."""
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} not found: python utils/make_depth_scale.py --base_dir SCENE --depths_dir "
            "MAPS computes it"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected scales by image name, got {type(content).__name__}")
    found = {name: _params(path, name, value) for name, value in content.items()}
    positive = [params["scale"] for params in found.values() if params["scale"] > 0]
    if not positive:
        raise InputError(f"{path}: expected at least one image with a scale above 0, found none")
    middle = median(positive)
    return {name: {**params, "med_scale": middle} for name, params in found.items()}


def _params(path: Path, name: str, value: Any) -> dict[str, float]:
    try:
        params = {key: float(value[key]) for key in ("scale", "offset")}
    except (TypeError, KeyError, ValueError, OverflowError):
        params = {"scale": math.nan}
    if not all(abs(number) < _MOST for number in params.values()):  # False for NaN
        raise InputError(f"{path}: {name}: expected a finite scale and offset, got {value!r}")
    return params


def with_depth_maps(
    cameras: Sequence[CameraInfo],
    folder: Path,
    params: Mapping[str, Mapping[str, float]] | None,
    skip_missing: bool,
) -> list[CameraInfo]:
    """The cameras with the paths of their maps, and their scales if `params` are given.

    Images without an entry in `params` train without depths, with a warning. InputError for maps
    that are missing, unless `skip_missing`, and if there are none.
    """
    names = {map_name(camera.image_name): camera.image_name for camera in cameras}
    wanted = [name for name in names if params is None or name in params]
    if unscaled := sorted(set(names) - set(wanted)):
        logger.warning(
            "%s has no entry of %d images, which train without depths: %s",
            DEPTH_PARAMS_NAME, len(unscaled), listed(unscaled),
        )  # fmt: skip
    files = find_photos(folder, wanted, ".png") if folder.is_dir() else {}
    missing = sorted(name for name in wanted if name not in files)
    if missing and (not skip_missing or not files):
        advice = "; to continue without them, give --skip_missing" if files else ""
        raise InputError(
            f"-d/--depths: {len(missing)} of {len(wanted)} maps are missing in {folder}: "
            f"{listed(missing)}{advice}"
        )
    if missing:
        logger.warning("%d maps of depths are missing: %s", len(missing), listed(missing))
    return [_with_map(camera, files.get(map_name(camera.image_name)), params) for camera in cameras]


def _with_map(
    camera: CameraInfo, file: Path | None, params: Mapping[str, Mapping[str, float]] | None
) -> CameraInfo:
    if file is None:
        return camera
    own = None if params is None else params[map_name(camera.image_name)]
    return camera._replace(depth_path=str(file), depth_params=own)


def load_depth_map(camera: CameraInfo) -> FloatMap | None:
    """The map at the camera's `depth_path`, before scaling; None if it has none."""
    if not camera.depth_path:
        return None
    if camera.lens is not None:
        raise InputError(
            f"{camera.depth_path}: -d/--depths needs photographs without lens distortion, but "
            f"{camera.image_name} was taken with the camera model {camera.lens.model}: undistort "
            "the photographs with COLMAP's image_undistorter, and compute the maps from the results"
        )
    units = WORLD_UNITS if camera.depth_params is None else RELATIVE_UNITS
    return read_depth_map(camera.depth_path, units)


def scaled_depth_map(
    depths: npt.NDArray, size: Size, params: Mapping[str, float] | None
) -> tuple[Tensor, bool]:
    """(1, H, W) inverse depths at `size` (width, height), and whether they can be trusted.

    `depths` (H', W), or (H', W', C) of which the first channel counts, is resized bilinearly.
    """
    flat = np.asarray(depths, np.float32)
    flat = flat[..., 0] if flat.ndim == 3 else flat
    found = torch.from_numpy(np.ascontiguousarray(flat))[None, None]
    if found.shape[2:] != size[::-1]:
        found = functional.interpolate(found, size[::-1], mode="bilinear", align_corners=False)
    found = found[0].clamp_min(0)
    if params is None:
        return found, True
    scale, middle = params["scale"], params.get("med_scale", params["scale"])
    if scale > 0:
        found = found * scale + params["offset"]
    return found, scale > 0 and LEAST_SCALE * middle <= scale <= MOST_SCALE * middle
