# SPDX-License-Identifier: Apache-2.0
"""The scene's extent: the unit of the positions' learning rates and of densification."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from utils.errors import InputError

logger = logging.getLogger(__name__)

# Cameras within this fraction of their distance to the points count as being at one place: errors
# of calibration are as large.
_ONE_PLACE = 1e-3


def scene_extent(normalization: dict[str, Any], points: npt.NDArray) -> float:
    """The cameras' extent; if they are at one place, the median distance of `points` (N, 3).

    `normalization` is what `getNerfppNorm` returns. Raises `InputError` if the points are at
    that place, too.
    """
    radius = float(normalization["radius"])
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return radius
    centre = -np.asarray(normalization["translate"])
    distance = float(np.median(np.linalg.norm(finite - centre, axis=1)))
    if radius > _ONE_PLACE * distance:
        return radius
    if distance == 0:
        raise InputError(
            "the scene has no extent: all training cameras and most points are at one place"
        )
    logger.warning(
        "all training cameras are at one place, so depth cannot be determined; the scene's "
        "extent is the median distance of its points, %.3g",
        distance,
    )
    return distance
