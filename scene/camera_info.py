# SPDX-License-Identifier: Apache-2.0
"""The content of a data set: its cameras, their extent, and the initial points."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from scene.camera_models import Lens
from utils.errors import InputError
from utils.graphics_utils import BasicPointCloud

_EXTENT_MARGIN = 1.1


class CameraInfo(NamedTuple):
    """One photo and its pinhole camera; sizes are those of the intrinsics, in pixels.

    R: (3, 3) camera-to-world rotation; T: (3,) world-to-camera translation; FovY, FovX in radians.
    `principal_point` is in fractions of width and height, from the top left corner. `depth_path`,
    if not empty, is a map of inverse depths, and `depth_params` its scale (scene.depth_maps);
    `mask_path`, if not empty, is a picture whose black pixels do not count (scene.masks).
    `lens` is the camera that took the photo, if the photo must be undistorted to be an image of
    this one.
    """

    uid: int
    R: npt.NDArray[np.float64]
    T: npt.NDArray[np.float64]
    FovY: float
    FovX: float
    depth_params: Mapping[str, float] | None
    image_path: str
    image_name: str
    depth_path: str
    width: int
    height: int
    is_test: bool
    principal_point: tuple[float, float] = (0.5, 0.5)
    mask_path: str = ""
    lens: Lens | None = None

    @property
    def image(self) -> Image.Image:
        """The photo, decoded at each access, as in code of 2023. InputError if it is unusable."""
        from scene.undistortion import open_picture  # which imports this module

        return open_picture(self.image_path, self)


class SceneInfo(NamedTuple):
    """A data set: its cameras, extent and initial cloud.

    `point_cloud` is None if it was not requested; `ply_path` is a PLY in the data set that holds
    exactly that cloud, or None. `nerf_normalization` holds translate (3,) and radius.
    """

    point_cloud: BasicPointCloud | None
    train_cameras: list[CameraInfo]
    test_cameras: list[CameraInfo]
    nerf_normalization: dict[str, Any]
    ply_path: str | None
    is_nerf_synthetic: bool


def getNerfppNorm(cam_info: Sequence[CameraInfo]) -> dict[str, Any]:
    """The cameras' extent: 1.1 times the largest distance of a centre from their mean.

    `translate` (3,) is minus the mean; `radius` is the extent. The rule is that of NeRF++.
    """
    if not cam_info:
        raise InputError("the dataset has no training images")
    centres = np.array([-camera.R @ camera.T for camera in cam_info], np.float64)
    mean = centres.mean(axis=0)
    radius = _EXTENT_MARGIN * np.linalg.norm(centres - mean, axis=1).max()
    return {"translate": -mean, "radius": float(radius)}
