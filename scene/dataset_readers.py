# SPDX-License-Identifier: Apache-2.0
"""Data sets of all kinds as lists of cameras, and the names that third-party code imports."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from arguments import ModelOptions
from scene.camera_info import CameraInfo, SceneInfo, getNerfppNorm
from scene.colmap_scene import (
    is_colmap_scene,
    read_colmap_scene,
    readColmapCameras,
    readColmapSceneInfo,
)
from scene.initial_points import fetchPly, storePly, warn_of_distance, write_input_ply
from scene.masks import with_masks
from scene.transforms_scene import (
    is_transforms_scene,
    read_transforms_scene,
    readCamerasFromTransforms,
    readNerfSyntheticInfo,
)
from utils.errors import InputError
from utils.logged_once import log_once

__all__ = [
    "CameraInfo",
    "SceneInfo",
    "fetchPly",
    "getNerfppNorm",
    "readCamerasFromTransforms",
    "readColmapCameras",
    "readColmapSceneInfo",
    "readNerfSyntheticInfo",
    "readSceneInfo",
    "sceneLoadTypeCallbacks",
    "storePly",
    "write_input_ply",
]

logger = logging.getLogger(__name__)

_CENTRE = (0.5, 0.5)
_NOTABLE_SHIFT = 0.5  # pixels

sceneLoadTypeCallbacks: dict[str, Callable[..., SceneInfo]] = {
    "Colmap": readColmapSceneInfo,
    "Blender": readNerfSyntheticInfo,
}


def readSceneInfo(options: ModelOptions, with_points: bool = True) -> SceneInfo:
    """The data set at `options.source_path`, of any kind.

    Without `with_points` the initial cloud is not read: a trained model needs none.
    """
    if not options.source_path:
        raise InputError("-s/--source_path is required: the folder of the dataset")
    source = Path(options.source_path)
    if not source.is_dir():
        raise InputError(
            f"the data set's folder {source} does not exist; if it was moved, "
            "give its new path with -s/--source_path"
        )
    if is_colmap_scene(source):
        info = read_colmap_scene(options, with_points=with_points)
    elif is_transforms_scene(source):
        info = read_transforms_scene(options, with_points=with_points)
    else:
        raise InputError(
            f"Could not recognize scene type! Expected a folder sparse with a COLMAP model "
            f"(images and cameras, as .bin or .txt), transforms_train.json, or transforms.json "
            f"in {source.absolute()}"
        )
    if info.point_cloud is not None:
        warn_of_distance(info.point_cloud.points, info.nerf_normalization["radius"])
    if options.masks:
        folder = source / options.masks
        masked = with_masks([*info.train_cameras, *info.test_cameras], folder)
        count = len(info.train_cameras)
        info = info._replace(train_cameras=masked[:count], test_cameras=masked[count:])
    if options.ignore_principal_point:
        return info._replace(
            train_cameras=[c._replace(principal_point=_CENTRE) for c in info.train_cameras],
            test_cameras=[c._replace(principal_point=_CENTRE) for c in info.test_cameras],
        )
    _announce_principal_points([*info.train_cameras, *info.test_cameras])
    return info


def _announce_principal_points(cameras: Sequence[CameraInfo]) -> None:
    """Log that principal points are used: many models were trained by code that ignores them."""
    shifts = [
        max(abs(x - 0.5) * camera.width, abs(y - 0.5) * camera.height)
        for camera in cameras
        for x, y in [camera.principal_point]
    ]
    notable = [shift for shift in shifts if shift > _NOTABLE_SHIFT]
    if notable:
        log_once(
            logger,
            f"The principal point is up to {max(notable):.1f} pixels off the middle of the "
            "photographs and is used; a model whose training ignored it needs "
            "--ignore_principal_point",
        )
