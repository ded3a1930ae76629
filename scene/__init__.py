# SPDX-License-Identifier: Apache-2.0
"""A dataset's cameras together with the model that is trained on them, in a model folder."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Collection, Sequence
from pathlib import Path

from arguments import ModelOptions
from scene.camera_info import SceneInfo
from scene.camera_loading import camera_to_JSON, cameraList_from_camInfos, check_photos
from scene.cameras import Camera
from scene.dataset_readers import readSceneInfo
from scene.gaussian_model import GaussianModel
from scene.initial_points import write_input_ply
from utils.errors import InputError
from utils.files import write_text
from utils.system_utils import searchForMaxIteration

__all__ = ["GaussianModel", "Scene", "write_model_folder"]

logger = logging.getLogger(__name__)

LATEST = -1


class Scene:
    """The cameras of a dataset with their photos, and the Gaussians.

    Where the Gaussians come from: with `load_iteration` (-1: the highest) from the model folder;
    else, if `gaussians` is empty, from the dataset's point cloud, and then `cameras.json` and
    `input.ply` are written to the model folder; a model that holds Gaussians keeps them.

    Photos are read of the `splits` named only; the others have no cameras.
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
    ) -> None:
        self.model_path = args.model_path
        self.gaussians = gaussians
        self.loaded_iter = self._iteration(load_iteration)
        from_cloud = self.loaded_iter is None and gaussians.get_xyz.numel() == 0
        info = readSceneInfo(args, with_points=from_cloud)
        check_photos(info.train_cameras if "train" in splits else [])
        check_photos(info.test_cameras if "test" in splits else [])
        self.cameras_extent: float = info.nerf_normalization["radius"]
        if from_cloud:
            write_model_folder(self.model_path, info)
        if shuffle:
            random.shuffle(info.train_cameras)
            random.shuffle(info.test_cameras)
        self.train_cameras: dict[float, list[Camera]] = {}
        self.test_cameras: dict[float, list[Camera]] = {}
        for scale in resolution_scales:
            self._load_photos(args, info, scale, splits)
        if self.loaded_iter is not None:
            gaussians.load_ply(self._ply_path(self.loaded_iter), args.train_test_exp)
        elif info.point_cloud is not None:
            count = len(info.point_cloud.points)
            logger.info("Number of points at initialisation :  %d", count)
            gaussians.create_from_pcd(info.point_cloud, info.train_cameras, self.cameras_extent)

    def save(self, iteration: int) -> None:
        """Write the Gaussians as point_cloud/iteration_<iteration>/point_cloud.ply."""
        self.gaussians.save_ply(self._ply_path(iteration))

    def getTrainCameras(self, scale: float = 1.0) -> list[Camera]:
        """The training views at one of the `resolution_scales`."""
        return self.train_cameras[scale]

    def getTestCameras(self, scale: float = 1.0) -> list[Camera]:
        """The held-out views at one of the `resolution_scales`."""
        return self.test_cameras[scale]

    def _iteration(self, load_iteration: int | None) -> int | None:
        if load_iteration is None:
            return None
        if load_iteration == LATEST:
            load_iteration = searchForMaxIteration(Path(self.model_path) / "point_cloud")
        logger.info("Loading trained model at iteration %d", load_iteration)
        if not self._ply_path(load_iteration).is_file():
            raise InputError(
                f"there is no iteration {load_iteration} in the model: "
                f"{self._ply_path(load_iteration)} not found"
            )
        return load_iteration

    def _ply_path(self, iteration: int) -> Path:
        folder = Path(self.model_path) / "point_cloud" / f"iteration_{iteration}"
        return folder / "point_cloud.ply"

    def _load_photos(
        self, args: ModelOptions, info: SceneInfo, scale: float, splits: Collection[str]
    ) -> None:
        synthetic, device = info.is_nerf_synthetic, self.gaussians.device
        logger.info("Loading Training Cameras")
        train = info.train_cameras if "train" in splits else []
        self.train_cameras[scale] = cameraList_from_camInfos(
            train, scale, args, synthetic, False, device=device
        )
        logger.info("Loading Test Cameras")
        test = info.test_cameras if "test" in splits else []
        self.test_cameras[scale] = cameraList_from_camInfos(
            test, scale, args, synthetic, True, device=device
        )


def write_model_folder(model_path: str | Path, info: SceneInfo) -> None:
    """Write what viewers read besides the Gaussians: the initial cloud and the cameras."""
    folder = Path(model_path)
    write_input_ply(folder / "input.ply", info)
    cameras = [*info.test_cameras, *info.train_cameras]
    entries = [camera_to_JSON(index, camera) for index, camera in enumerate(cameras)]
    write_text(folder / "cameras.json", json.dumps(entries))
