# SPDX-License-Identifier: Apache-2.0
"""Camera geometry: poses, projection, fields of view.

Matrices here act on column vectors; `scene.cameras` stores their transposes.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class BasicPointCloud(NamedTuple):
    """N points: positions (N, 3) in world units, colours (N, 3) in 0..1, normals (N, 3)."""

    points: npt.NDArray
    colors: npt.NDArray
    normals: npt.NDArray


def geom_transform_points(points: Tensor, transf_matrix: Tensor) -> Tensor:
    """(N, 3) points mapped by a 4x4 row-vector matrix and divided by their w."""
    ones = torch.ones_like(points[:, :1])
    homogeneous = torch.cat([points, ones], dim=1) @ transf_matrix
    # The small term keeps a point on the camera plane finite.
    return homogeneous[:, :3] / (homogeneous[:, 3:] + 1e-7)


def getWorld2View(R: npt.NDArray, t: npt.NDArray) -> npt.NDArray[np.float32]:
    """4x4 world-to-camera matrix of a camera-to-world rotation `R` and a translation `t`."""
    matrix = np.eye(4)
    matrix[:3, :3] = R.T
    matrix[:3, 3] = t
    return matrix.astype(np.float32)


def getWorld2View2(
    R: npt.NDArray,
    t: npt.NDArray,
    translate: npt.NDArray | tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
) -> npt.NDArray[np.float32]:
    """`getWorld2View` after moving the camera centre by `translate` and scaling it by `scale`."""
    matrix = np.eye(4)
    matrix[:3, :3] = R.T
    centre = (-(R @ np.asarray(t, np.float64)) + np.asarray(translate, np.float64)) * scale
    matrix[:3, 3] = -(R.T @ centre)
    return matrix.astype(np.float32)


def getProjectionMatrix(
    znear: float,
    zfar: float,
    fovX: float,
    fovY: float,
    principal_point: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """4x4 perspective matrix, camera z forward; depth maps to 0..1.

    `fovX`, `fovY` (radians) are those of images of this size with a central principal point;
    `principal_point` is in parts of the width and height, from the top left corner.
    """
    matrix = torch.zeros(4, 4)
    matrix[0, 0] = 1.0 / math.tan(fovX / 2)
    matrix[1, 1] = 1.0 / math.tan(fovY / 2)
    matrix[0, 2] = 2 * principal_point[0] - 1
    matrix[1, 2] = 2 * principal_point[1] - 1
    matrix[2, 2] = zfar / (zfar - znear)
    matrix[2, 3] = -(zfar * znear) / (zfar - znear)
    matrix[3, 2] = 1.0
    return matrix


def fov2focal(fov: float, pixels: float) -> float:
    """Focal length in pixels of a field of view in radians over `pixels`."""
    return pixels / (2 * math.tan(fov / 2))


def focal2fov(focal: float, pixels: float) -> float:
    """Field of view in radians of a focal length in pixels over `pixels`."""
    return 2 * math.atan(pixels / (2 * focal))
