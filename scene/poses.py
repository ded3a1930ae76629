# SPDX-License-Identifier: Apache-2.0
"""Camera poses from files, checked; errors name the image of an invalid pose."""

from typing import Any

import numpy as np
import numpy.typing as npt

from scene.colmap_loader import Image as ColmapImage
from scene.colmap_loader import qvec2rotmat
from utils.errors import InputError

FloatArray = npt.NDArray[np.float64]

MOST_DISTANT = 1e15
"""World units from the origin: squares of larger numbers do not fit float32."""

_LEAST_NORM = 1e-9
_SCALE_TOLERANCE = 1e-4  # what rounding in a text file leaves
_SHEAR_TOLERANCE = 1e-2


def colmap_pose(image: ColmapImage, model_folder: Any) -> tuple[FloatArray, FloatArray]:
    """Camera-to-world rotation (3, 3) and world-to-camera translation (3,) of a COLMAP image.

    The quaternion may have any length but 0, as for COLMAP itself.
    """
    where = f"{model_folder}: image {image.name}"
    if not np.isfinite(image.qvec).all() or np.linalg.norm(image.qvec) < _LEAST_NORM:
        raise InputError(f"{where}: {_listed(image.qvec)} is not a rotation quaternion")
    _check_position(image.tvec, where)
    return qvec2rotmat(image.qvec).T, np.array(image.tvec)


def world_to_camera(transform_matrix: Any, where: str) -> tuple[FloatArray, float]:
    """World-to-camera matrix (4, 4) of an OpenGL camera-to-world matrix, and the scale removed.

    Our cameras have x right, y down, z forward. The matrix may lack its last row. A uniform scale
    does not move the camera, so it is removed; all else but a rotation is refused.
    """
    pose = _affine(transform_matrix, where)
    _check_position(pose[:3, 3], where)
    left, scales, right = np.linalg.svd(pose[:3, :3])
    mean = float(scales.mean())
    if scales.min() < _LEAST_NORM or np.ptp(scales) > _SHEAR_TOLERANCE * mean:
        raise InputError(
            f"{where}: the transform_matrix is not a rotation: it scales axes by {_listed(scales)}"
        )
    if np.linalg.det(pose[:3, :3]) < 0:
        raise InputError(f"{where}: the transform_matrix is not a rotation but a reflection")
    is_scaled = abs(mean - 1) > _SCALE_TOLERANCE
    if is_scaled or np.ptp(scales) > _SCALE_TOLERANCE:
        pose[:3, :3] = left @ right
    pose[:3, 1:3] *= -1
    return np.asarray(np.linalg.inv(pose), np.float64), mean if is_scaled else 1.0


def _affine(transform_matrix: Any, where: str) -> FloatArray:
    """The matrix as (4, 4), its last row 0 0 0 1."""
    try:
        matrix = np.array(transform_matrix, np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: the transform_matrix does not hold numbers") from error
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    if matrix.shape != (4, 4):
        raise InputError(
            f"{where}: expected a 4x4 or 3x4 transform_matrix, got the shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{where}: the transform_matrix has values that are not finite")
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        raise InputError(
            f"{where}: the last row of the transform_matrix must be 0 0 0 1, "
            f"got {_listed(matrix[3])}"
        )
    return matrix


def _check_position(position: FloatArray, where: str) -> None:
    if not (np.abs(position) < MOST_DISTANT).all():
        raise InputError(
            f"{where}: {_listed(position)} is not a camera position: expected finite numbers below "
            f"{MOST_DISTANT:g}"
        )


def _listed(values: FloatArray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
