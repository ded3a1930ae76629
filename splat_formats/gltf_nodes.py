# SPDX-License-Identifier: Apache-2.0
"""Where the nodes of a glTF 2.0 file place their meshes (specification, section 3.5)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_formats.gltf_container import CHECKED
from splat_formats.json_values import Object
from splat_formats.turns import Matrix

_MOST_NODES = 1 << 20
_TOLERANCE = 1e-4  # of rotations that were stored as short decimal numbers


@dataclass(frozen=True, eq=False)
class Placement:
    """A point p of a mesh is at scale * rotation @ p + translation."""

    rotation: Matrix
    """(3, 3)"""
    translation: npt.NDArray[np.float64]
    """(3,)"""
    scale: float


def placed_meshes(document: Object) -> Iterator[tuple[int, Placement]]:
    """The index of each mesh in the scene, with its place; several times if several nodes have it.

    Raises CorruptFile, also for a place that no Gaussian can be moved to: of mirrored or sheared
    axes, or of different scales.
    """
    nodes = CHECKED.objects(document, "nodes")
    waiting = [(root, np.eye(4)) for root in _roots(document, nodes)]
    seen: set[int] = set()
    while waiting:
        index, parent = waiting.pop()
        if index in seen:
            raise CHECKED.error(f"node {index} is below two nodes, or below itself")
        seen.add(index)
        node = nodes[index]
        matrix = parent @ _local(node, index)
        if "mesh" in node:
            yield CHECKED.whole(node, "mesh", _MOST_NODES), _placement(matrix, index)
        waiting += [(child, matrix) for child in reversed(_indices(node, "children", len(nodes)))]


def _roots(document: Object, nodes: list[Object]) -> list[int]:
    """The roots of the scene that is to be shown; without any scene, of all nodes."""
    scenes = CHECKED.objects(document, "scenes")
    if scenes:
        chosen = CHECKED.whole(document, "scene", len(scenes) - 1, 0)
        return _indices(scenes[chosen], "nodes", len(nodes))[::-1]
    below = {child for node in nodes for child in _indices(node, "children", len(nodes))}
    return [index for index in range(len(nodes)) if index not in below][::-1]


def _indices(parent: Object, key: str, count: int) -> list[int]:
    values = parent.get(key, [])
    if not isinstance(values, list):
        raise CHECKED.wrong(key, "a list of indices", values)
    if not values:
        return []
    if not count:
        raise CHECKED.error(f"{key}: node {values[0]!r:.20} is named, there are none")
    return [CHECKED.whole({key: value}, key, count - 1) for value in values]


def _local(node: Object, index: int) -> Matrix:
    """(4, 4) from the node's coordinates to its parent's."""
    if "matrix" in node:
        matrix = CHECKED.numbers(node, "matrix", 16).reshape(4, 4).T  # column by column
        if (matrix[3] != [0, 0, 0, 1]).any():
            raise CHECKED.error(f"node {index}: the last row of the matrix must be 0, 0, 0, 1")
        return matrix
    matrix = np.eye(4)
    if "rotation" in node:
        matrix[:3, :3] = _rotation(CHECKED.numbers(node, "rotation", 4), index)
    if "scale" in node:
        matrix[:3, :3] *= CHECKED.numbers(node, "scale", 3)
    if "translation" in node:
        matrix[:3, 3] = CHECKED.numbers(node, "translation", 3)
    return matrix


def _rotation(quaternion: npt.NDArray[np.float64], index: int) -> Matrix:
    """(3, 3) of a quaternion x, y, z, w."""
    length = np.linalg.norm(quaternion)
    if not abs(length - 1) < _TOLERANCE:
        raise CHECKED.error(f"node {index}: a unit quaternion is expected, got length {length:.4g}")
    x, y, z, w = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _placement(matrix: Matrix, index: int) -> Placement:
    linear = matrix[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        scale = float(np.cbrt(np.linalg.det(linear)))
        rotation = linear / scale if scale > 0 and np.isfinite(scale) else np.zeros((3, 3))
        is_rotation = np.abs(rotation @ rotation.T - np.eye(3)).max() < _TOLERANCE
    if not is_rotation or not np.isfinite(matrix).all():
        raise CHECKED.error(
            f"node {index}: Gaussians can be rotated and scaled evenly only, its matrix is "
            f"{np.array2string(linear, precision=4).replace(chr(10), '')}"
        )
    left, _, right = np.linalg.svd(rotation)  # the nearest exact rotation
    return Placement(left @ right, matrix[:3, 3], scale)
