# SPDX-License-Identifier: Apache-2.0
"""Turns a model: positions, orientations and spherical harmonics. NumPy only."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from splat_formats.splats import FloatArray, Splats
from utils.sh_terms import higher_terms

Matrix = npt.NDArray[np.float64]

HALF_TURN_X: Matrix = np.diag([1.0, -1.0, -1.0])
"""From x right, y down, z forward (PLY, COLMAP) to x right, y up, z backward, and back."""
HALF_TURN_Z: Matrix = np.diag([-1.0, -1.0, 1.0])

_TOLERANCE = 1e-6  # of a rotation matrix that was stored in float32
_EXACT = 1e-12  # entries of a matrix so near to an integer differ from it by rounding only
_DIRECTIONS = 64  # more than the 7 functions of degree 3, so that least squares are well posed
_ROWS_PER_TURN = 1 << 17


def turned(splats: Splats, rotation: Matrix) -> Splats:
    """The model after every point p has moved to `rotation` @ p.

    `rotation` is a (3, 3) rotation matrix. Of a half turn about an axis of coordinates only signs
    change. Raises ValueError if the matrix is no rotation.
    """
    rotation = np.asarray(rotation, np.float64)
    if not _is_rotation(rotation):
        raise ValueError(f"a rotation matrix (3, 3) is expected, got {rotation.tolist()}")
    return replace(
        splats,
        xyz=_times(splats.xyz, rotation),
        rotation=_turned_quaternions(splats.rotation, rotation),
        features_rest=_turned_harmonics(splats.features_rest, splats.sh_degree, rotation),
    )


def harmonics_matrix(degree: int, rotation: Matrix) -> Matrix:
    """(K, K) matrix M, K = (degree + 1)^2 - 1: M @ c are the higher coefficients c after a turn.

    The turned function has the value at `rotation` @ d that the original one has at d. Harmonics of
    one degree stay among themselves: each block follows from their values at sampled directions.
    """
    before = np.random.default_rng(0).normal(size=(_DIRECTIONS, 3))
    before /= np.linalg.norm(before, axis=1, keepdims=True)
    after = before @ rotation.T
    at_before, at_after = (np.stack(higher_terms(degree, *d.T), 1) if degree else np.empty((1, 0))
                           for d in (before, after))  # fmt: skip
    matrix = np.zeros((at_before.shape[1],) * 2)
    for band in range(1, degree + 1):
        part = slice(band**2 - 1, (band + 1) ** 2 - 1)
        matrix[part, part] = np.linalg.lstsq(at_after[:, part], at_before[:, part], rcond=None)[0]
    return _cleaned(matrix)


def quaternion_of(rotation: Matrix) -> Matrix:
    """The unit quaternion w, x, y, z (4,) of a rotation matrix (3, 3), its largest part positive.

    It is the eigenvector of the largest eigenvalue of a symmetric matrix (Bar-Itzhack, 2000).
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    found = np.linalg.eigh(symmetric)[1][:, -1]
    return _cleaned(found * np.sign(found[np.abs(found).argmax()]))


def _is_rotation(matrix: Matrix) -> bool:
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return False
    is_orthogonal = np.abs(matrix @ matrix.T - np.eye(3)).max() < _TOLERANCE
    return bool(is_orthogonal and np.linalg.det(matrix) > 0)


def _turned_quaternions(quaternions: FloatArray, rotation: Matrix) -> FloatArray:
    """(N, 4) quaternions after the turn, as long as before.

    A turn by signs only may follow the Gaussian's own rotation as well, because an ellipsoid is the
    same after it: then the signs of two components change, and nothing else.
    """
    if _is_diagonal(rotation):
        return _times(quaternions, np.diag([1.0, *np.diag(rotation)]))
    w, x, y, z = quaternion_of(rotation)
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return _times(quaternions, left)


def _turned_harmonics(rest: FloatArray, degree: int, rotation: Matrix) -> FloatArray:
    """(N, K, 3) higher coefficients after the turn."""
    if not degree:
        return rest
    # RGB is the inner axis.
    matrix = np.kron(harmonics_matrix(degree, rotation), np.eye(3)).astype(np.float64)
    return _times(rest.reshape(-1, len(matrix)), matrix).reshape(rest.shape)


def _times(rows: FloatArray, matrix: Matrix) -> FloatArray:
    """(N, C) rows, each multiplied by the matrix (C, C) in float64, in parts to save memory."""
    if _is_diagonal(matrix):
        return rows * np.diag(matrix).astype(np.float32)
    found = np.empty_like(rows)
    with np.errstate(invalid="ignore", over="ignore"):  # numbers that are not finite stay so
        for start in range(0, len(rows), _ROWS_PER_TURN):
            part = slice(start, start + _ROWS_PER_TURN)
            found[part] = rows[part].astype(np.float64) @ matrix.T
    return found


def _is_diagonal(matrix: Matrix) -> bool:
    return bool((matrix == np.diag(np.diag(matrix))).all())


def _cleaned(values: Matrix) -> Matrix:
    """The values, with those that differ from an integer by rounding set to it."""
    nearest = np.rint(values) + 0.0  # no negative zeros
    return np.where(np.abs(values - nearest) < _EXACT, nearest, values)
