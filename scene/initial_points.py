# SPDX-License-Identifier: Apache-2.0
"""The points that training starts from: read from a data set, or random in the cameras' view.

Nothing is ever written into a data set: converted and random points stay in memory.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scene.camera_info import CameraInfo, SceneInfo
from scene.poses import MOST_DISTANT
from splat_formats.ply_table import PlyTable, read_ply_table
from utils.errors import InputError
from utils.files import atomic_path
from utils.graphics_utils import BasicPointCloud
from utils.sh_utils import SH2RGB

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

RANDOM_POINTS = 100_000
_NEAREST_DEPTH = 0.2  # the rasteriser draws nothing that is nearer
_MARGIN = 1.3  # a Gaussian outside the image by this much may still reach into it
_COARSE_STEP = 1e-5  # in extents: a Gaussian may be a thousandth of the extent
_GREY = 0.5
_DEPTH_SPREAD = 3.0

_COLOUR_NAMES = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
_INTENSITY_NAMES = ("intensity", "scalar_intensity", "grey", "gray")
# Colours are in 0 to one of these values; bytes always in 0 to 255.
_COLOUR_SCALES = (1.0, 255.0, 65535.0)


def fetchPly(path: PathLike) -> BasicPointCloud:
    """The points of a PLY with colours in 0..1; normals are zero where the file has none.

    Colours may be of any number type and called red, r, or diffuse_red; without colours the points
    get their intensity, or grey.
    """
    table = read_ply_table(path)
    has_normals = all(name in table.columns for name in ("nx", "ny", "nz"))
    return BasicPointCloud(
        points=table.stack(["x", "y", "z"]),
        colors=_colours(table),
        normals=table.stack(["nx", "ny", "nz"]) if has_normals else np.zeros((table.count, 3)),
    )


def _colours(table: PlyTable) -> npt.NDArray[np.float64]:
    columns = {name.lower(): name for name in table.columns}
    for names in _COLOUR_NAMES:
        if all(name in columns for name in names):
            return _unit_range(table, [columns[name] for name in names])
    for name in _INTENSITY_NAMES:
        if name in columns:
            return np.repeat(_unit_range(table, [columns[name]]), 3, axis=1)
    logger.info("%s: the points have no colours: grey is used", table.path)
    return np.full((table.count, 3), _GREY)


def _unit_range(table: PlyTable, names: list[str]) -> npt.NDArray[np.float64]:
    """(N, len(names)) columns in 0..1; the type or the largest value determines the scale."""
    types = {table.columns[name].dtype for name in names}
    values = table.stack(names, np.float64)
    if types == {np.dtype(np.uint8)}:
        return values / 255.0
    listed = ", ".join(names)
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise InputError(f"{table.path}: {listed} must be finite and not negative")
    largest = values.max(initial=0)
    whole = all(np.issubdtype(kind, np.integer) for kind in types)
    for scale in _COLOUR_SCALES[1:] if whole else _COLOUR_SCALES:
        if largest <= scale:
            return np.asarray(values / scale)
    raise InputError(f"{table.path}: {listed} must be at most 65535, but go up to {largest:g}")


_CLOUD_FLOATS = ("x", "y", "z", "nx", "ny", "nz")
_CLOUD_BYTES = ("red", "green", "blue")
_CLOUD_ROW = np.dtype(
    [(name, "<f4") for name in _CLOUD_FLOATS] + [(name, "u1") for name in _CLOUD_BYTES]
)


def stored_points(path: Path) -> tuple[BasicPointCloud, Path | None]:
    """The usable points of a data set's PLY; its path too, if viewers can read it as it is."""
    stored = fetchPly(path)
    cloud = finite_points(stored, path)
    is_complete = len(cloud.points) == len(stored.points)
    return cloud, path if is_complete and has_viewer_layout(path) else None


def storePly(path: PathLike, xyz: npt.NDArray, rgb: npt.NDArray) -> None:
    """Writes points (N, 3) with colours (N, 3) in 0..255 and zero normals, whole or not at all."""
    rows = np.zeros(len(xyz), _CLOUD_ROW)
    for i in range(3):
        rows[_CLOUD_FLOATS[i]] = xyz[:, i]
        rows[_CLOUD_BYTES[i]] = np.round(rgb[:, i])
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(rows)}",
        *(f"property float {name}" for name in _CLOUD_FLOATS),
        *(f"property uchar {name}" for name in _CLOUD_BYTES),
        "end_header",
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write("".join(line + "\n" for line in header).encode("ascii"))
        file.write(rows.tobytes())  # unlike tofile, with the system's error for a full disk


def has_viewer_layout(path: PathLike) -> bool:
    """Whether a PLY's vertices have the layout of `storePly`, on which viewers rely."""
    columns = read_ply_table(path).columns
    kinds = [(name, column.dtype.newbyteorder("<")) for name, column in columns.items()]
    return np.dtype(kinds) == _CLOUD_ROW


def write_input_ply(path: PathLike, scene_info: SceneInfo) -> None:
    """Puts the initial cloud into a model folder: a copy of the data set's PLY, or a new file."""
    if scene_info.ply_path is not None:
        with atomic_path(path) as temporary:
            shutil.copyfile(scene_info.ply_path, temporary)
    elif scene_info.point_cloud is not None:
        storePly(path, scene_info.point_cloud.points, scene_info.point_cloud.colors * 255.0)


# --- Checks ---------------------------------------------------------------------------------------


def finite_points(cloud: BasicPointCloud, path: PathLike) -> BasicPointCloud:
    """The cloud in float32 without points of unusable coordinates, whose number is logged."""
    with np.errstate(over="ignore"):
        points = cloud.points.astype(np.float32)
    usable = np.asarray((np.abs(points) < MOST_DISTANT).all(axis=1))
    if usable.all():
        return cloud._replace(points=points)
    if not usable.any():
        raise InputError(f"{path}: none of the {len(usable)} points has finite coordinates")
    logger.warning(
        "%s: %d of %d points have no finite coordinates and are left out",
        path,
        np.count_nonzero(~usable),
        len(usable),
    )
    return BasicPointCloud(points[usable], cloud.colors[usable], cloud.normals[usable])


def count_views(points: npt.NDArray, cameras: Sequence[CameraInfo]) -> int:
    """In how many of the cameras at least one of the points is in view."""
    return sum(bool(_in_view(points, camera).any()) for camera in cameras)


def require_visible(points: npt.NDArray, cameras: Sequence[CameraInfo]) -> None:
    """Raises `InputError` if none of the points is in front of a camera: nothing could be trained.

    If some are in front but none in view, a warning is logged: their Gaussians may reach into it.
    """
    if any(_in_view(points, camera).any() for camera in cameras):
        return
    together = "points and poses may not belong together, or the scene is too small"
    depths = (_in_camera_axes(points, camera)[:, 2] for camera in cameras)
    if not any((depth > _NEAREST_DEPTH).any() for depth in depths):
        raise InputError(
            f"none of the {len(points)} initial points is in front of any camera (at a depth of "
            f"more than {_NEAREST_DEPTH}): {together}"
        )
    logger.warning(
        "None of the %d initial points is in view of any camera: %s", len(points), together
    )


def warn_of_distance(points: npt.NDArray, extent: float) -> None:
    """Warns if points are so far from the origin that float32 loses details of the scene."""
    farthest = float(np.median(np.abs(points).max(axis=1)))
    step = float(np.spacing(np.float32(farthest)))
    if step > _COARSE_STEP * extent > 0:
        logger.warning(
            "The points are about %.3g units from the origin, where float32 has steps of %.1g, and "
            "the scene is %.3g units large: move points and cameras towards the origin",
            farthest,
            step,
            extent,
        )


def _in_camera_axes(points: npt.NDArray, camera: CameraInfo) -> npt.NDArray:
    """(N, 3) in the camera's axes."""
    return np.asarray(points @ camera.R + camera.T)


def _in_view(points: npt.NDArray, camera: CameraInfo) -> npt.NDArray[np.bool_]:
    local = _in_camera_axes(points, camera)
    depth = local[:, 2]
    inside = depth > _NEAREST_DEPTH
    fields = (camera.FovX, camera.FovY)
    for axis, (field, centre) in enumerate(zip(fields, camera.principal_point, strict=True)):
        offset = local[:, axis] / np.tan(field / 2) + (2 * centre - 1) * depth
        inside &= np.abs(offset) < _MARGIN * depth
    return np.asarray(inside)


# --- Random points --------------------------------------------------------------------------------


def random_points(points: npt.NDArray, generator: np.random.Generator) -> BasicPointCloud:
    """These points, in nearly grey colours."""
    colours = SH2RGB(generator.random(points.shape) / 255.0)
    return BasicPointCloud(points.astype(np.float32), colours, np.zeros_like(points))


def random_points_in_cube(half_side: float) -> BasicPointCloud:
    """Uniformly random points in a cube about the origin, the same every time."""
    generator = np.random.default_rng(0)
    return random_points(generator.uniform(-half_side, half_side, (RANDOM_POINTS, 3)), generator)


def random_points_in_view(cameras: Sequence[CameraInfo], extent: float) -> BasicPointCloud:
    """Random points in the cameras' view, the same every time.

    Each is on the ray of a random pixel of a random camera, at about the depth of the point
    nearest to all viewing axes.
    """
    generator = np.random.default_rng(0)
    rotations = np.array([camera.R for camera in cameras])
    centres = np.array([-camera.R @ camera.T for camera in cameras])
    depths = _depths_of_focus(rotations[:, :, 2], centres, extent)
    chosen = generator.integers(len(cameras), size=RANDOM_POINTS)
    spread = _DEPTH_SPREAD ** generator.uniform(-1, 1, RANDOM_POINTS)
    depth = np.maximum(depths[chosen] * spread, 1.25 * _NEAREST_DEPTH)
    fields = np.array([(camera.FovX, camera.FovY) for camera in cameras])[chosen]
    middles = np.array([camera.principal_point for camera in cameras])[chosen]
    offset = 2 * (generator.random((RANDOM_POINTS, 2)) - middles)
    directions = np.column_stack([offset * np.tan(fields / 2), np.ones(RANDOM_POINTS)])
    local = directions * depth[:, None]
    points = np.einsum("nij,nj->ni", rotations[chosen], local) + centres[chosen]
    logger.info("Generating random point cloud (%d) in the cameras' view...", RANDOM_POINTS)
    return random_points(points, generator)


def _depths_of_focus(
    axes: npt.NDArray, centres: npt.NDArray, extent: float
) -> npt.NDArray[np.float64]:
    """(N,) depths of the point nearest to all viewing axes, in least squares.

    Where the axes do not meet in front of a camera, its depth is the scene's extent.
    """
    fallback = extent if extent > 0 else 1.0
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    total = across.sum(axis=0)
    focus = np.linalg.lstsq(total, (across @ centres[:, :, None]).sum(axis=0)[:, 0], rcond=1e-6)[0]
    depths = ((focus - centres) * axes).sum(axis=1)
    return np.where((depths > 0) & (depths < 100 * fallback), depths, fallback)
