# SPDX-License-Identifier: Apache-2.0
"""Cameras relative to the origin of a model's positions."""

import numpy as np

from scene.camera_info import CameraInfo, SceneInfo, getNerfppNorm
from splat_formats.scene import NO_ORIGIN, Origin


def relative_to(info: SceneInfo, origin: Origin) -> SceneInfo:
    """The dataset with its cameras relative to `origin`, which is in world coordinates.

    They fit the model whose positions are relative to the same origin. ValueError for a dataset
    with an initial cloud, which belongs to no model.
    """
    if origin == NO_ORIGIN:
        return info
    if info.point_cloud is not None:
        raise ValueError("no initial cloud expected beside a model with an origin")
    train = [_moved(camera, origin) for camera in info.train_cameras]
    return info._replace(
        train_cameras=train,
        test_cameras=[_moved(camera, origin) for camera in info.test_cameras],
        nerf_normalization=getNerfppNorm(train),
    )


def _moved(camera: CameraInfo, origin: Origin) -> CameraInfo:
    # R x + T of a point x = origin + y is R y + (T + R origin); `camera.R` is the transpose of R.
    return camera._replace(T=np.asarray(camera.T, np.float64) + camera.R.T @ np.array(origin))
