# SPDX-License-Identifier: Apache-2.0
"""Scale and offset of each map of inverse depth, by the points that COLMAP has triangulated.

The spread and the middle of the map at an image's keypoints are made those of 1/z of its points
(Kerbl et al. 2024, hierarchical 3D Gaussians, after the alignment of MiDaS, Ranftl et al. 2020).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scene.colmap_loader import Camera, Image, Points3D
from scene.colmap_scene import chosen_model, read_model_points, read_whole_model
from scene.depth_maps import DEPTH_PARAMS_NAME, RELATIVE_UNITS, FloatMap, map_name, read_depth_map
from utils.errors import InputError
from utils.files import write_json
from utils.photo_files import find_photos, listed

logger = logging.getLogger(__name__)

LEAST_POINTS = 10  # more than these are needed
LEAST_RANGE = 1e-3  # of 1/z, inverse world units

Values = npt.NDArray[np.float64]


class DepthScale(NamedTuple):
    """1/z = scale * map + offset; both are 0 where this cannot be determined."""

    scale: float
    offset: float


UNKNOWN = DepthScale(0.0, 0.0)


def write_depth_scales(source: Path, folder: Path) -> Path:
    """Computes the scales of the maps in `folder` and writes them beside the reconstruction.

    Returns the path of the file. InputError if there is no reconstruction, no points or no maps.
    """
    model = chosen_model(source)
    images, cameras = read_whole_model(model)
    points = read_model_points(model)
    names = {map_name(image.name): image for image in images.values()}
    files = find_photos(folder, list(names), ".png") if folder.is_dir() else {}
    if not files:
        raise InputError(f"{folder}: expected maps of depths named as the images, found none")
    missing = sorted(set(names) - set(files))
    if missing:
        logger.warning("%d images have no map in %s: %s", len(missing), folder, listed(missing))
    scales = {
        name: scale_of(names[name], cameras, points, read_depth_map(file, RELATIVE_UNITS))
        for name, file in files.items()
    }
    known = sum(scale != UNKNOWN for scale in scales.values())
    logger.info("%d of %d maps have a scale", known, len(scales))
    path = model / DEPTH_PARAMS_NAME
    write_json(path, {name: scale._asdict() for name, scale in sorted(scales.items())})
    return path


def scale_of(
    image: Image, cameras: dict[int, Camera], points: Points3D, depths: FloatMap
) -> DepthScale:
    """The scale of one map; UNKNOWN with too few points, or points or a map without range."""
    if image.camera_id not in cameras:
        raise InputError(f"image {image.name} refers to camera {image.camera_id}: there is none")
    inverse, keypoints = _seen_points(image, points)
    to_map = depths.shape[0] / cameras[image.camera_id].height
    height, width = depths.shape
    at = keypoints * to_map
    inside = ((at >= 0) & (at <= [width, height])).all(axis=1) & (inverse > 0)
    inverse, at = inverse[inside], at[inside]
    if len(inverse) <= LEAST_POINTS or np.ptp(inverse) <= LEAST_RANGE:
        return UNKNOWN
    found = sampled(depths, at)
    spread = _spread(found)
    if spread == 0:
        return UNKNOWN
    scale = _spread(inverse) / spread
    return DepthScale(scale, float(np.median(inverse) - np.median(found) * scale))


def _seen_points(image: Image, points: Points3D) -> tuple[Values, Values]:
    """1/z (M,) of the image's points, and their keypoints (M, 2) in pixels of its camera."""
    order = np.argsort(points.ids)
    ids = points.ids[order]
    wanted = image.point3D_ids
    place = np.searchsorted(ids, np.maximum(wanted, 0).astype(ids.dtype)).clip(max=len(ids) - 1)
    known = (wanted >= 0) & (ids[place] == np.maximum(wanted, 0).astype(ids.dtype))
    xyz = points.xyz[order[place[known]]]
    z = xyz @ image.qvec2rotmat()[2] + image.tvec[2]
    with np.errstate(divide="ignore"):
        return np.where(z > 0, 1 / z, 0.0), image.xys[known]


def sampled(depths: FloatMap, at: Values) -> Values:
    """(M,) bilinear samples at positions (M, 2) in pixels, whose centres are at halves."""
    height, width = depths.shape
    x = np.clip(at[:, 0] - 0.5, 0, width - 1)
    y = np.clip(at[:, 1] - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    u, v = x - left, y - top
    upper = depths[top, left] * (1 - u) + depths[top, right] * u
    lower = depths[bottom, left] * (1 - u) + depths[bottom, right] * u
    return upper * (1 - v) + lower * v


def _spread(values: Values) -> float:
    """The mean absolute deviation from the median."""
    return float(np.abs(values - np.median(values)).mean())
