# SPDX-License-Identifier: Apache-2.0
"""COLMAP reconstructions as lists of cameras.

No photograph is decoded here, and nothing is ever written into a data set.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arguments import ModelOptions
from scene.camera_info import CameraInfo, SceneInfo, getNerfppNorm
from scene.colmap_loader import Camera as ColmapCamera
from scene.colmap_loader import Image as ColmapImage
from scene.colmap_loader import (
    PathLike,
    Points3D,
    count_images,
    read_extrinsics_binary,
    read_extrinsics_text,
    read_intrinsics_binary,
    read_intrinsics_text,
    read_points3D,
)
from scene.depth_maps import (
    DEPTH_PARAMS_NAME,
    map_name,
    read_depth_params,
    with_depth_maps,
)
from scene.held_out import LLFF_HOLD, held_out_names
from scene.initial_points import (
    finite_points,
    random_points_in_view,
    require_visible,
    stored_points,
)
from scene.intrinsics import colmap_intrinsics
from scene.poses import colmap_pose
from utils.errors import InputError
from utils.graphics_utils import BasicPointCloud
from utils.photo_files import find_photos, require_photos

logger = logging.getLogger(__name__)

# Where COLMAP and related programs write reconstructions; each may hold several, numbered.
_MODEL_FOLDERS = ("sparse", "colmap/sparse", "distorted/sparse")
_PARTS = ("images", "cameras")


class _Points(NamedTuple):
    """The initial points, and the PLY that they come from if it holds exactly these."""

    cloud: BasicPointCloud
    ply_path: Path | None


def readColmapSceneInfo(
    path: PathLike,
    images: str,
    depths: str | bool = "",
    eval: bool | int = False,
    train_test_exp: bool = False,
    llffhold: int = LLFF_HOLD,
) -> SceneInfo:
    """The COLMAP reconstruction in `path` of the photos in `path`/`images`.

    With `eval` the images listed in test.txt beside the reconstruction are test images, or without
    that file every `llffhold`-th by name. With `train_test_exp` they are training images as well.
    `depths` is the folder in `path` with maps of inverse depths, or empty. The order
    of 2023, (path, images, eval, llffhold), is accepted too.
    """
    if isinstance(depths, bool):
        hold = llffhold if isinstance(eval, bool) else eval
        return readColmapSceneInfo(path, images, "", depths, llffhold=hold)
    options = ModelOptions(
        source_path=str(path),
        images=images,
        depths=depths,
        eval=bool(eval),
        train_test_exp=train_test_exp,
    )
    return read_colmap_scene(options, llffhold=llffhold)


def read_colmap_scene(
    options: ModelOptions, *, with_points: bool = True, llffhold: int = LLFF_HOLD
) -> SceneInfo:
    """The COLMAP reconstruction at `options.source_path`; see `readSceneInfo`."""
    source = Path(options.source_path)
    model = chosen_model(source)
    images, intrinsics = read_whole_model(model)
    if not images:
        raise InputError(f"{model}: the reconstruction has no images")
    names = [image.name for image in images.values()]
    held_out = held_out_names(names, model, llffhold) if options.eval else []
    folder = source / (options.images or "images")
    cameras = readColmapCameras(images, intrinsics, None, folder, "", held_out, model)
    cameras.sort(key=lambda camera: camera.image_name)
    train = [camera for camera in cameras if options.train_test_exp or not camera.is_test]
    extent = getNerfppNorm(train)
    photos = find_photos(folder, names)
    require_photos(source, folder, names, photos, options.skip_missing)
    if not any(camera.image_name in photos for camera in train):
        raise InputError(f"{folder}: expected photographs of training images, found none")
    points = _initial_points(model, train, extent["radius"]) if with_points else None
    train = _with_photos(train, photos)
    if options.depths:
        params = read_depth_params(model / DEPTH_PARAMS_NAME)
        train = with_depth_maps(train, source / options.depths, params, options.skip_missing)
    return SceneInfo(
        point_cloud=None if points is None else points.cloud,
        train_cameras=train,
        test_cameras=_with_photos([camera for camera in cameras if camera.is_test], photos),
        nerf_normalization=extent,
        ply_path=None if points is None or points.ply_path is None else str(points.ply_path),
        is_nerf_synthetic=False,
    )


def readColmapCameras(
    cam_extrinsics: Mapping[int, ColmapImage],
    cam_intrinsics: Mapping[int, ColmapCamera],
    depths_params: Mapping[str, Mapping[str, float]] | PathLike | None = None,
    images_folder: PathLike = "",
    depths_folder: PathLike = "",
    test_cam_names_list: Sequence[str] = (),
    model_folder: PathLike = "",
) -> list[CameraInfo]:
    """One `CameraInfo` per registered image, in the order of `cam_extrinsics`.

    The sizes and fields of view are those of the undistorted photographs. Raises `InputError` for
    unknown camera models and invalid poses. `model_folder` is used in its message only. Without
    `depths_params` no image has a map of depths; with them, the map is a PNG in `depths_folder`.
    The order of 2023, (cam_extrinsics, cam_intrinsics, images_folder), is accepted too.
    """
    if isinstance(depths_params, (str, Path)):
        images_folder = depths_params
    depth_scales = depths_params if isinstance(depths_params, Mapping) else {}
    held_out = set(test_cam_names_list)
    cameras = []
    for image in cam_extrinsics.values():
        if image.camera_id not in cam_intrinsics:
            raise InputError(
                f"{model_folder}: image {image.name} refers to camera {image.camera_id}, "
                "which the reconstruction does not contain"
            )
        depth_params = depth_scales.get(map_name(image.name))
        depth_path = Path(depths_folder) / f"{map_name(image.name)}.png" if depth_params else ""
        lens = colmap_intrinsics(cam_intrinsics[image.camera_id], model_folder)
        rotation, translation = colmap_pose(image, model_folder)
        cameras.append(
            CameraInfo(
                uid=image.camera_id,
                R=rotation,
                T=translation,
                FovY=lens.fov_y,
                FovX=lens.fov_x,
                depth_params=depth_params,
                image_path=str(Path(images_folder) / image.name),
                image_name=image.name,
                depth_path=str(depth_path),
                width=lens.width,
                height=lens.height,
                is_test=image.name in held_out,
                principal_point=lens.principal_point,
                lens=lens.lens,
            )
        )
    logger.info("Reading camera %d/%d", len(cameras), len(cameras))
    return cameras


def _with_photos(cameras: Sequence[CameraInfo], photos: Mapping[str, Path]) -> list[CameraInfo]:
    """The cameras whose photos were found, with their paths."""
    return [
        camera._replace(image_path=str(photos[camera.image_name]))
        for camera in cameras
        if camera.image_name in photos
    ]


# --- The reconstruction's files -------------------------------------------------------------------


def is_colmap_scene(source: Path) -> bool:
    """Whether the folder holds a reconstruction."""
    return bool(_models(source))


def _models(source: Path) -> list[Path]:
    """All reconstructions in the first of the `_MODEL_FOLDERS` that has any."""
    for name in _MODEL_FOLDERS:
        folder = source / name
        numbered = sorted(
            (path for path in folder.glob("*") if path.name.isdecimal()),
            key=lambda path: int(path.name),
        )
        models = [path for path in (*numbered, folder) if _is_model(path)]
        if models:
            return models
    return []


def _is_model(folder: Path) -> bool:
    return all(_file_of(folder, part) is not None for part in _PARTS)


def _file_of(model: Path, part: str) -> Path | None:
    """The file of images, cameras or points3D: binary, or text where the binary one is empty."""
    binary, text = model / f"{part}.bin", model / f"{part}.txt"
    if binary.is_file() and not (text.is_file() and _is_empty(binary)):
        return binary
    return text if text.is_file() else None


def _is_empty(binary: Path) -> bool:
    """Whether the file is empty, or holds a count of 0 only."""
    return binary.stat().st_size <= 8 and not any(binary.read_bytes())


def _largest(models: Sequence[Path]) -> Path:
    """The reconstruction with the most images, the first one of several."""
    sizes = {model: _read_part(model, "images", count_images, count_images) for model in models}
    largest = max(models, key=lambda model: sizes[model])
    listed = ", ".join(f"{model}: {size}" for model, size in sizes.items())
    logger.info("Using %s, which has the most images (%s)", largest, listed)
    return largest


def _read_part(
    model: Path, part: str, binary: Callable[[Path], Any], text: Callable[[Path], Any]
) -> Any:
    path = _file_of(model, part)
    assert path is not None
    return binary(path) if path.suffix == ".bin" else text(path)


def chosen_model(source: Path) -> Path:
    """The folder of the reconstruction that is used. InputError if there is none."""
    models = _models(source)
    if not models:
        raise InputError(
            f"{source / 'sparse'}: expected images.bin and cameras.bin (or both as .txt), "
            "there or in a numbered folder, found none"
        )
    return models[0] if len(models) == 1 else _largest(models)


def read_model_points(model: Path) -> Points3D:
    """The triangulated points of a reconstruction. InputError if it has none."""
    path = _file_of(model, "points3D")
    points = None if path is None or _is_empty(path) else read_points3D(path)
    if points is None or not len(points.xyz):
        raise InputError(f"{model}: expected triangulated points, points3D.bin or .txt, found none")
    return points


def read_whole_model(model: Path) -> tuple[dict[int, ColmapImage], dict[int, ColmapCamera]]:
    """Images and cameras of a reconstruction, by their ids."""
    return (
        _read_part(model, "images", read_extrinsics_binary, read_extrinsics_text),
        _read_part(model, "cameras", read_intrinsics_binary, read_intrinsics_text),
    )


# --- Initial points -------------------------------------------------------------------------------


def _initial_points(model: Path, cameras: Sequence[CameraInfo], extent: float) -> _Points:
    """points3D of the reconstruction, or random points where it has none."""
    points = _stored_points(model)
    if points is None:
        logger.warning("%s has no points3D: training starts from random points", model)
        return _Points(random_points_in_view(cameras, extent), None)
    require_visible(points.cloud.points, cameras)
    return points


def _stored_points(model: Path) -> _Points | None:
    ply = model / "points3D.ply"
    if ply.is_file() and ply.stat().st_size:
        stored = _Points(*stored_points(ply))
        if len(stored.cloud.points):
            return stored
    path = _file_of(model, "points3D")
    if path is None or (path.suffix == ".bin" and _is_empty(path)):
        return None
    points = read_points3D(path)
    if not len(points.xyz):
        return None
    cloud = BasicPointCloud(points.xyz, points.rgb / 255.0, np.zeros_like(points.xyz))
    return _Points(finite_points(cloud, path), None)
