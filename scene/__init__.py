# SPDX-License-Identifier: Apache-2.0
"""A dataset's cameras together with the model that is trained on them, in a model folder."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from arguments import ModelOptions
from scene.camera_info import CameraInfo, SceneInfo
from scene.camera_loading import camera_to_JSON, cameraList_from_camInfos, check_photos
from scene.cameras import Camera
from scene.dataset_readers import readSceneInfo
from scene.exposure import EXPOSURE_NAME, write_exposures
from scene.extent import scene_extent
from scene.foreign_models import (
    create_from_points,
    device_of,
    load_model,
    loading_options,
    metadata_of,
)
from scene.gaussian_model import GaussianModel
from scene.initial_points import write_input_ply
from scene.origin import relative_to
from scene.photo_cache import PhotoCache
from scene.run_memory import DRAWN_BYTES, cache_bytes, memory_needs, require_memory
from utils.errors import InputError
from utils.files import atomic_folder, write_text
from utils.photos import Size
from utils.system_utils import resolve_data_device, searchForMaxIteration

__all__ = ["GaussianModel", "Scene", "find_iteration", "model_ply", "write_model_folder"]

logger = logging.getLogger(__name__)

LATEST = -1
VIEWER_FILES = ("input.ply", "cameras.json")


class Scene:
    """The cameras of a dataset with their photos, and the Gaussians.

    Cameras and Gaussians are relative to the same origin (`GaussianModel.metadata`).

    With `load_iteration` (-1: the highest) the Gaussians are read from the model folder. Without
    it, an empty `gaussians` is initialised from the dataset's point cloud, and `cameras.json` and
    `input.ply` are written to the model folder; a model that holds Gaussians keeps them.

    Only the photos of the given `splits` are read; the other splits have no cameras. With
    `image_cache_gb` in `args` they are decoded when they are used (scene.photo_cache).
    `gaussian_bytes` is what one Gaussian takes in this run: InputError if there is too little
    memory. `gaussians` and `args` may be of the caller's own classes (scene.foreign_models).
    """

    def __init__(
        self,
        args: ModelOptions,
        gaussians: GaussianModel,
        load_iteration: int | None = None,
        shuffle: bool = True,
        resolution_scales: Sequence[float] = (1.0,),
        *,
        splits: Collection[str] = ("train", "test"),
        gaussian_bytes: int = DRAWN_BYTES,
    ) -> None:
        args = loading_options(args)
        self.model_path = args.model_path
        self.gaussians = gaussians
        self.loaded_iter = self._iteration(load_iteration)
        # All checks come before the photos are loaded, which takes long.
        if self.loaded_iter is not None:
            load_model(gaussians, self._ply_path(self.loaded_iter), args.train_test_exp)
        from_cloud = self.loaded_iter is None and gaussians.get_xyz.numel() == 0
        metadata = metadata_of(gaussians)
        antialiasing = args.antialiasing or metadata.antialiasing
        gaussians.metadata = replace(metadata, antialiasing=antialiasing)
        info = relative_to(readSceneInfo(args, with_points=from_cloud), metadata.origin)
        self.cameras_extent = self._extent(info)
        used = [
            *(info.train_cameras if "train" in splits else []),
            *(info.test_cameras if "test" in splits else []),
        ]
        photos: list[tuple[CameraInfo, Size]] = []
        for scale in resolution_scales:
            photos += zip(used, check_photos(used, args, scale), strict=True)
        if info.point_cloud is not None:
            count = len(info.point_cloud.points)
            logger.info("Number of points at initialisation :  %d", count)
            create_from_points(gaussians, info.point_cloud, info.train_cameras, self.cameras_extent)
        count = gaussians.get_xyz.shape[0]
        model_on = device_of(gaussians)
        pixels_on = resolve_data_device(args.data_device, model_on)
        require_memory(
            memory_needs(photos, args.image_cache_gb, count, gaussian_bytes, pixels_on, model_on)
        )
        in_order = info
        info = info._replace(train_cameras=[*info.train_cameras], test_cameras=[*info.test_cameras])
        if shuffle:
            random.shuffle(info.train_cameras)
            random.shuffle(info.test_cameras)
        self.train_cameras: dict[float, list[Camera]] = {}
        self.test_cameras: dict[float, list[Camera]] = {}
        capacity = cache_bytes(args.image_cache_gb)
        self._cache = PhotoCache(capacity) if capacity else None
        for scale in resolution_scales:
            self._load_photos(args, info, scale, splits)
        if from_cloud:
            write_model_folder(self.model_path, in_order)

    def save(self, iteration: int) -> None:
        """Write the Gaussians as point_cloud/iteration_<iteration>/point_cloud.ply.

        The folder never exists without its PLY, not even after the process is killed. The
        exposures of all iterations have one file, exposure.json.
        """
        path = self._ply_path(iteration)
        if path.parent.exists():
            self.gaussians.save_ply(path)
        else:
            with atomic_folder(path.parent) as folder:
                self.gaussians.save_ply(folder / path.name)
        exposures: dict[str, Tensor] = getattr(
            self.gaussians, "exposures", dict
        )()  # models of 2023 have none
        if exposures:  # otherwise those of the model that was loaded stay
            write_exposures(Path(self.model_path) / EXPOSURE_NAME, exposures)

    def getTrainCameras(self, scale: float = 1.0) -> list[Camera]:
        """The training views at one of the `resolution_scales`."""
        return self.train_cameras[scale]

    def getTestCameras(self, scale: float = 1.0) -> list[Camera]:
        """The held-out views at one of the `resolution_scales`."""
        return self.test_cameras[scale]

    def _extent(self, info: SceneInfo) -> float:
        if info.point_cloud is not None:
            points = np.asarray(info.point_cloud.points)
        else:
            points = self.gaussians.get_xyz.detach().cpu().numpy()
        return scene_extent(info.nerf_normalization, points)

    def _iteration(self, load_iteration: int | None) -> int | None:
        if load_iteration is None:
            return None
        return find_iteration(self.model_path, load_iteration)

    def _ply_path(self, iteration: int) -> Path:
        return model_ply(self.model_path, iteration)

    def _load_photos(
        self, args: ModelOptions, info: SceneInfo, scale: float, splits: Collection[str]
    ) -> None:
        synthetic, device = info.is_nerf_synthetic, device_of(self.gaussians)
        logger.info("Loading Training Cameras")
        train = info.train_cameras if "train" in splits else []
        self.train_cameras[scale] = cameraList_from_camInfos(
            train, scale, args, synthetic, False, device=device, cache=self._cache
        )
        logger.info("Loading Test Cameras")
        test = info.test_cameras if "test" in splits else []
        self.test_cameras[scale] = cameraList_from_camInfos(
            test, scale, args, synthetic, True, device=device, cache=self._cache
        )


def find_iteration(model_path: str | Path, iteration: int = LATEST) -> int:
    """The number of a trained model in the folder; -1 means the highest.

    Raises `InputError` if there is none.
    """
    if iteration == LATEST:
        iteration = searchForMaxIteration(Path(model_path) / "point_cloud")
    logger.info("Loading trained model at iteration %d", iteration)
    path = model_ply(model_path, iteration)
    if not path.is_file():
        raise InputError(f"there is no iteration {iteration} in the model: {path} not found")
    return iteration


def model_ply(model_path: str | Path, iteration: int) -> Path:
    """Where the Gaussians of an iteration are stored."""
    return Path(model_path) / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"


def write_model_folder(model_path: str | Path, info: SceneInfo, replace: bool = True) -> None:
    """Write the other files that viewers read: the initial cloud and the cameras.

    Without `replace`, existing files are kept.
    """
    cloud, views = (Path(model_path) / name for name in VIEWER_FILES)
    if replace or not cloud.exists():
        write_input_ply(cloud, info)
    if replace or not views.exists():
        cameras = [*info.test_cameras, *info.train_cameras]
        entries = [camera_to_JSON(index, camera) for index, camera in enumerate(cameras)]
        write_text(views, json.dumps(entries))
