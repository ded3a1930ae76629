# SPDX-License-Identifier: Apache-2.0
"""One form for each ellipsoid: of the 48 equal pairs of quaternion and scales, one is stored."""

from dataclasses import replace

import numpy as np

from splat_formats.splats import FloatArray, Splats

_ROOT_HALF = float(np.sqrt(0.5))
# The rotation that moves axes (i, j, k), up to sign, to the places 0, 1, 2.
_TURNS: dict[tuple[int, int, int], tuple[float, float, float, float]] = {
    (0, 1, 2): (1.0, 0.0, 0.0, 0.0),
    (0, 2, 1): (_ROOT_HALF, _ROOT_HALF, 0.0, 0.0),
    (2, 1, 0): (_ROOT_HALF, 0.0, _ROOT_HALF, 0.0),
    (1, 0, 2): (_ROOT_HALF, 0.0, 0.0, _ROOT_HALF),
    (1, 2, 0): (0.5, 0.5, 0.5, 0.5),
    (2, 0, 1): (0.5, -0.5, -0.5, -0.5),
}

_HALF_TURNS = ((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def with_ordered_axes(splats: Splats) -> Splats:
    """The same ellipsoids with descending scales and unit quaternions whose w is the largest part.

    Renders are the same up to float32 rounding. A quaternion of length 0 becomes the identity.
    """
    order = np.argsort(-splats.scaling, axis=1, kind="stable")
    turned = unit_quaternions(splats.rotation)
    key = order[:, 0] * 3 + order[:, 1]
    for axes, turn in _TURNS.items():
        rows = np.flatnonzero(key == axes[0] * 3 + axes[1])
        turned[rows] = _product(turned[rows], turn)
    return replace(
        splats,
        scaling=np.take_along_axis(splats.scaling, order, axis=1),
        rotation=_with_largest_w(turned),
    )


def unit_quaternions(rotation: FloatArray) -> FloatArray:
    """Finite quaternions (N, 4) of any length divided by it; the identity for those of length 0."""
    largest = np.abs(rotation).max(axis=1, initial=0)
    (extreme,) = ((largest > 2.0**60) | (largest < 2.0**-60)).nonzero()
    if len(extreme):  # their squares do not fit float32
        rotation = rotation.copy()
        exponents = np.frexp(largest[extreme])[1][:, None]
        rotation[extreme] = np.ldexp(rotation[extreme], -exponents)
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    identity = np.array([1, 0, 0, 0], np.float32)
    return np.where(length > 0, rotation / np.where(length > 0, length, 1), identity)


def _with_largest_w(q: FloatArray) -> FloatArray:
    """The quaternion rotated by 180 degrees about one of the ellipsoid's axes, or by none."""
    largest = np.abs(q).argmax(axis=1)
    for axis in (1, 2, 3):
        rows = np.flatnonzero(largest == axis)
        q[rows] = _product(q[rows], _HALF_TURNS[axis - 1])
    return np.where(q[:, :1] < 0, -q, q)


def _product(a: FloatArray, b: tuple[float, ...]) -> FloatArray:
    """Hamilton products (N, 4) of quaternions a (N, 4) and b."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a.T, np.array(b, np.float32)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=1,
    )
