# SPDX-License-Identifier: Apache-2.0
"""NeRF-style scenes, whose cameras are in transforms*.json, as lists of cameras.

Of photographs only headers are read here, and nothing is ever written into a data set.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from arguments import ModelOptions
from scene.camera_info import CameraInfo, SceneInfo, getNerfppNorm
from scene.colmap_loader import PathLike
from scene.depth_maps import with_depth_maps
from scene.held_out import held_out_names
from scene.initial_points import (
    RANDOM_POINTS,
    count_views,
    random_points_in_cube,
    random_points_in_view,
    require_visible,
    stored_points,
)
from scene.intrinsics import Intrinsics, transforms_intrinsics, transforms_size
from scene.poses import FloatArray, world_to_camera
from utils.errors import InputError
from utils.graphics_utils import BasicPointCloud
from utils.json_values import read_json
from utils.photo_files import find_photos, require_photos
from utils.photos import photo_size

logger = logging.getLogger(__name__)

TRAIN_FILE, TEST_FILE, WHOLE_FILE = (
    "transforms_train.json",
    "transforms_test.json",
    "transforms.json",
)
_OBJECT_HALF_SIDE = 1.3  # NeRF-synthetic objects lie within this cube
_PLY_NAMES = ("points3d.ply", "points3D.ply")


@dataclass(frozen=True)
class _Frame:
    """One frame of a transforms file, before its photograph is searched for."""

    name: str
    values: Mapping[str, Any]
    pose: FloatArray
    where: str


class _TransformsFile(NamedTuple):
    path: Path
    shared: Mapping[str, Any]
    frames: list[_Frame]


def readNerfSyntheticInfo(
    path: PathLike,
    white_background: bool,
    depths: str | bool = "",
    eval: bool | str = False,
    extension: str = ".png",
) -> SceneInfo:
    """The Blender scene in `path`. Without `eval` the test frames train as well.

    `white_background` has no effect: photos are composited over the background when they are
    loaded. The order of 2023, (path, white_background, eval, extension), is accepted too.
    """
    if isinstance(depths, bool):
        depths, eval, extension = "", depths, eval if isinstance(eval, str) else extension
    options = ModelOptions(source_path=str(path), depths=depths, eval=bool(eval))
    return read_transforms_scene(options, extension=extension)


def is_transforms_scene(source: Path) -> bool:
    """Whether the folder has cameras of this kind."""
    return any((source / name).is_file() for name in (TRAIN_FILE, WHOLE_FILE))


def read_transforms_scene(
    options: ModelOptions, *, with_points: bool = True, extension: str = ".png"
) -> SceneInfo:
    """The NeRF-style scene at `options.source_path`; see `readSceneInfo`."""
    source = Path(options.source_path)
    has_split = (source / TRAIN_FILE).is_file()
    if has_split:
        train, test = _split_cameras(source, options.skip_missing, extension)
    else:
        train, test = _divided_cameras(source, options.skip_missing, extension, options.eval)
    if not options.eval:
        train, test = [*train, *test], []
    elif options.train_test_exp:
        train = [*train, *test]
    extent = getNerfppNorm(train)
    if options.depths:
        train = with_depth_maps(train, source / options.depths, None, options.skip_missing)
    points, ply_path = None, None
    if with_points:
        points, ply_path = _initial_points(source, train, extent["radius"], has_split)
    return SceneInfo(
        point_cloud=points,
        train_cameras=train,
        test_cameras=test,
        nerf_normalization=extent,
        ply_path=None if ply_path is None else str(ply_path),
        is_nerf_synthetic=has_split,
    )


def _split_cameras(
    source: Path, skip_missing: bool, extension: str
) -> tuple[list[CameraInfo], list[CameraInfo]]:
    """Training and test cameras of a scene with a file for each."""
    files = [_read_file(source / TRAIN_FILE)]
    if (source / TEST_FILE).is_file():
        files.append(_read_file(source / TEST_FILE))
    cameras = _cameras(files, extension, skip_missing)
    train_names = {frame.where for frame in files[0].frames}
    train = [camera for where, camera in cameras if where in train_names]
    test = [camera._replace(is_test=True) for where, camera in cameras if where not in train_names]
    return train, test


def _divided_cameras(
    source: Path, skip_missing: bool, extension: str, eval: bool
) -> tuple[list[CameraInfo], list[CameraInfo]]:
    """Training and test cameras of a scene with one file for all, divided as COLMAP scenes are."""
    file = _read_file(source / WHOLE_FILE)
    file.frames.sort(key=lambda frame: frame.name)
    names = {frame.where: frame.name for frame in file.frames}
    held_out = _held_out(file, source) if eval else set()
    cameras = _cameras([file], extension, skip_missing)
    train = [camera for where, camera in cameras if names[where] not in held_out]
    test = [camera._replace(is_test=True) for where, camera in cameras if names[where] in held_out]
    return train, test


def _held_out(file: _TransformsFile, source: Path) -> set[str]:
    names = [frame.name for frame in file.frames]
    listed = file.shared.get("test_filenames")
    if isinstance(listed, list) and listed:
        held_out = set(names).intersection(map(str, listed))
        if not held_out:
            raise InputError(f"{file.path}: none of the test_filenames matches a frame")
        logger.info("Test images: the %d that %s lists", len(held_out), file.path)
        return held_out
    return set(held_out_names(names, source))


def readCamerasFromTransforms(
    path: PathLike,
    transformsfile: str,
    depths_folder: PathLike | bool = "",
    white_background: bool | str = False,
    is_test: bool = False,
    extension: str = ".png",
) -> list[CameraInfo]:
    """One `CameraInfo` per frame of a transforms file.

    `depths_folder` and `white_background` have no effect. The order of 2023, (path, transformsfile,
    white_background, extension), is accepted too.
    """
    if isinstance(depths_folder, bool) and isinstance(white_background, str):
        extension = white_background
    cameras = _cameras([_read_file(Path(path) / transformsfile)], extension, skip_missing=False)
    return [camera._replace(is_test=is_test) for _, camera in cameras]


# --- Frames ---------------------------------------------------------------------------------------


def _read_file(path: Path) -> _TransformsFile:
    contents = read_json(path)
    entries = contents.get("frames") if isinstance(contents, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of frames, found none")
    frames, scales = [], []
    for number, entry in enumerate(entries):
        where = f"{path}, frame {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise InputError(f"{where}: expected a file_path")
        if "transform_matrix" not in entry:
            raise InputError(f"{where}: expected a transform_matrix")
        where += f" ({entry['file_path']})"
        pose, scale = world_to_camera(entry["transform_matrix"], where)
        scales.append(scale)
        frames.append(_Frame(entry["file_path"], entry, pose, where))
    scaled = sum(scale != 1 for scale in scales)
    if scaled:
        logger.warning(
            "%s: %d transform matrices have a scale (%g to %g): it is removed, positions stay",
            path, scaled, min(scales), max(scales),
        )  # fmt: skip
    return _TransformsFile(path, contents, frames)


def _cameras(
    files: Sequence[_TransformsFile], extension: str, skip_missing: bool
) -> list[tuple[str, CameraInfo]]:
    """The cameras of all frames that have a photo, each with its frame's `where`."""
    folder = files[0].path.parent
    names = [frame.name for file in files for frame in file.frames]
    photos = find_photos(folder, names, extension)
    require_photos(folder, folder, names, photos, skip_missing)
    return [
        (frame.where, _camera(index, frame, file.shared, photos[frame.name]))
        for file in files
        for index, frame in enumerate(file.frames)
        if frame.name in photos
    ]


def _camera(index: int, frame: _Frame, shared: Mapping[str, Any], photo: Path) -> CameraInfo:
    given = transforms_size(frame.values, shared, frame.where)
    lens: Intrinsics = transforms_intrinsics(
        frame.values, shared, photo_size(photo, given), frame.where
    )
    return CameraInfo(
        uid=index,
        R=frame.pose[:3, :3].T,
        T=frame.pose[:3, 3],
        FovY=lens.fov_y,
        FovX=lens.fov_x,
        depth_params=None,
        image_path=str(photo),
        image_name=photo.stem,
        depth_path="",
        width=lens.width,
        height=lens.height,
        is_test=False,
        principal_point=lens.principal_point,
        lens=lens.lens,
    )


# --- Initial points -------------------------------------------------------------------------------


def _initial_points(
    source: Path, cameras: Sequence[CameraInfo], extent: float, is_object: bool
) -> tuple[BasicPointCloud, Path | None]:
    """The data set's points and their file, or random ones: the same every time."""
    names = list(_PLY_NAMES)
    if (source / WHOLE_FILE).is_file():
        names.append(str(_read_file(source / WHOLE_FILE).shared.get("ply_file_path") or ""))
    for path in (source / name for name in names if name):
        if path.is_file():
            cloud, viewer_ply = stored_points(path)
            require_visible(cloud.points, cameras)
            return cloud, viewer_ply
    if is_object:
        cloud = random_points_in_cube(_OBJECT_HALF_SIDE)
        if 2 * count_views(cloud.points[:1000], cameras) >= len(cameras):
            logger.info("Generating random point cloud (%d)...", RANDOM_POINTS)
            return cloud, None
    return random_points_in_view(cameras, extent), None
