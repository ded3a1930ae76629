# SPDX-License-Identifier: Apache-2.0
"""Datasets: COLMAP reconstructions and Blender (NeRF-synthetic) scenes as lists of cameras.

Nothing is decoded here but image headers, and nothing is ever written into a dataset: an initial
cloud that has to be converted or made up stays in memory.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from arguments import ModelOptions
from scene.colmap_loader import Camera as ColmapCamera
from scene.colmap_loader import Image as ColmapImage
from scene.colmap_loader import (
    camera_model_error,
    qvec2rotmat,
    read_extrinsics_binary,
    read_extrinsics_text,
    read_intrinsics_binary,
    read_intrinsics_text,
    read_points3D,
)
from splat_formats.ply_table import read_ply_table
from utils.errors import InputError
from utils.files import atomic_path
from utils.graphics_utils import BasicPointCloud, focal2fov, fov2focal, getWorld2View2
from utils.photos import photo_size
from utils.sh_utils import SH2RGB

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

LLFF_HOLD = 8  # every 8th image by name is a test image, as in the LLFF and Mip-NeRF 360 papers
_EXTENT_MARGIN = 1.1
_BLENDER_POINTS = 100_000
_BLENDER_HALF_SIDE = 1.3  # NeRF-synthetic objects lie within this cube


class CameraInfo(NamedTuple):
    """What a dataset says of one photo; sizes are those of the intrinsics, in pixels.

    R: (3, 3) camera-to-world rotation; T: (3,) world-to-camera translation; FovY, FovX in radians.
    `depth_params` has scale, offset and med_scale; `depth_path` is "" without a depth map.
    """

    uid: int
    R: npt.NDArray[np.float64]
    T: npt.NDArray[np.float64]
    FovY: float
    FovX: float
    depth_params: Mapping[str, float] | None
    image_path: str
    image_name: str
    depth_path: str
    width: int
    height: int
    is_test: bool


class SceneInfo(NamedTuple):
    """A dataset: its cameras, extent and initial cloud.

    `point_cloud` is None if it was not asked for; `ply_path` is the dataset's own PLY of it, or
    None where there is none. `nerf_normalization` holds translate (3,) and radius.
    """

    point_cloud: BasicPointCloud | None
    train_cameras: list[CameraInfo]
    test_cameras: list[CameraInfo]
    nerf_normalization: dict[str, Any]
    ply_path: str | None
    is_nerf_synthetic: bool


def readSceneInfo(options: ModelOptions, with_points: bool = True) -> SceneInfo:
    """The dataset at `options.source_path`, of whichever kind it is.

    Without `with_points` the initial cloud is not looked for: a trained model needs none.
    """
    if not options.source_path:
        raise InputError("-s/--source_path is required: the folder of the dataset")
    source = Path(options.source_path)
    if (source / "sparse").exists():
        return readColmapSceneInfo(
            source,
            options.images,
            options.depths,
            options.eval,
            options.train_test_exp,
            with_points=with_points,
        )
    if (source / "transforms_train.json").exists():
        return readNerfSyntheticInfo(
            source,
            options.white_background,
            options.depths,
            options.eval,
            with_points=with_points,
        )
    raise InputError(
        f"Could not recognize scene type! Expected a folder 'sparse' (COLMAP) or a file "
        f"transforms_train.json (Blender) in {source.absolute()}"
    )


def getNerfppNorm(cam_info: Sequence[CameraInfo]) -> dict[str, Any]:
    """The cameras' extent: 1.1 times the largest distance of a centre from their mean.

    `translate` (3,) is minus the mean; `radius` is the extent. The rule is NeRF++'s.
    """
    if not cam_info:
        raise InputError("the dataset has no training images")
    centres = np.array(
        [np.linalg.inv(getWorld2View2(camera.R, camera.T))[:3, 3] for camera in cam_info]
    )
    mean = centres.mean(axis=0)
    radius = _EXTENT_MARGIN * np.linalg.norm(centres - mean, axis=1).max()
    return {"translate": -mean, "radius": float(radius)}


# --- COLMAP ---------------------------------------------------------------------------------------


def readColmapSceneInfo(
    path: PathLike,
    images: str,
    depths: str,
    eval: bool,
    train_test_exp: bool,
    llffhold: int = LLFF_HOLD,
    *,
    with_points: bool = True,
) -> SceneInfo:
    """The COLMAP reconstruction in `path`/sparse/0 of the photos in `path`/`images`.

    With `eval` every `llffhold`-th image by name is a test image; `llffhold` 0 reads their names
    from sparse/0/test.txt. With `train_test_exp` the test images train as well.
    """
    source = Path(path)
    model = _colmap_model_folder(source)
    cam_extrinsics, cam_intrinsics = _read_colmap_model(model)
    depths_params = _read_depth_params(model) if depths else None
    cameras = readColmapCameras(
        cam_extrinsics=cam_extrinsics,
        cam_intrinsics=cam_intrinsics,
        depths_params=depths_params,
        images_folder=source / (images or "images"),
        depths_folder=source / depths if depths else "",
        test_cam_names_list=_test_names(cam_extrinsics, model, llffhold) if eval else [],
        model_folder=model,
    )
    cameras.sort(key=lambda camera: camera.image_name)
    train = [camera for camera in cameras if train_test_exp or not camera.is_test]
    ply_path = model / "points3D.ply"
    return SceneInfo(
        point_cloud=_colmap_points(model) if with_points else None,
        train_cameras=train,
        test_cameras=[camera for camera in cameras if camera.is_test],
        nerf_normalization=getNerfppNorm(train),
        ply_path=str(ply_path) if ply_path.exists() else None,
        is_nerf_synthetic=False,
    )


def _colmap_model_folder(source: Path) -> Path:
    """The folder of the reconstruction: sparse/0, or sparse itself where COLMAP left it there."""
    numbered = source / "sparse" / "0"
    if not numbered.exists() and any((source / "sparse").glob("images.*")):
        return source / "sparse"
    return numbered


def _read_colmap_model(model: Path) -> tuple[dict[int, ColmapImage], dict[int, ColmapCamera]]:
    if (model / "images.bin").exists() and (model / "cameras.bin").exists():
        return (
            read_extrinsics_binary(model / "images.bin"),
            read_intrinsics_binary(model / "cameras.bin"),
        )
    if (model / "images.txt").exists() and (model / "cameras.txt").exists():
        return (
            read_extrinsics_text(model / "images.txt"),
            read_intrinsics_text(model / "cameras.txt"),
        )
    raise InputError(f"{model}: expected images.bin and cameras.bin (or both as .txt), not found")


def readColmapCameras(
    cam_extrinsics: Mapping[int, ColmapImage],
    cam_intrinsics: Mapping[int, ColmapCamera],
    depths_params: Mapping[str, Mapping[str, float]] | None,
    images_folder: PathLike,
    depths_folder: PathLike,
    test_cam_names_list: Sequence[str],
    model_folder: PathLike = "",
) -> list[CameraInfo]:
    """One `CameraInfo` per registered image, in the order of `cam_extrinsics`.

    The principal point is taken to be the image's centre. Raises `InputError` for a camera with
    lens distortion. `model_folder` only serves its message.
    """
    test_names = set(test_cam_names_list)
    cameras = []
    for image in cam_extrinsics.values():
        if image.camera_id not in cam_intrinsics:
            raise InputError(
                f"{model_folder}: image {image.name} refers to camera {image.camera_id}, "
                "which is not there"
            )
        intrinsics = cam_intrinsics[image.camera_id]
        focal_x, focal_y = _focal_lengths(intrinsics, model_folder)
        depth_params, depth_path = _depth_of(image.name, depths_params, depths_folder)
        cameras.append(
            CameraInfo(
                uid=intrinsics.id,
                R=qvec2rotmat(image.qvec).T,
                T=np.array(image.tvec),
                FovY=focal2fov(focal_y, intrinsics.height),
                FovX=focal2fov(focal_x, intrinsics.width),
                depth_params=depth_params,
                image_path=str(Path(images_folder) / image.name),
                image_name=image.name,
                depth_path=depth_path,
                width=intrinsics.width,
                height=intrinsics.height,
                is_test=image.name in test_names,
            )
        )
    logger.info("Reading camera %d/%d", len(cameras), len(cameras))
    return cameras


def _focal_lengths(camera: ColmapCamera, model_folder: PathLike) -> tuple[float, float]:
    if camera.model == "SIMPLE_PINHOLE":
        return float(camera.params[0]), float(camera.params[0])
    if camera.model == "PINHOLE":
        return float(camera.params[0]), float(camera.params[1])
    raise camera_model_error(model_folder, camera.model)


def _test_names(images: Mapping[int, ColmapImage], model: Path, llffhold: int) -> list[str]:
    if llffhold:
        logger.info("------------LLFF HOLD-------------")
        return sorted(image.name for image in images.values())[::llffhold]
    names = (model / "test.txt").read_text(encoding="utf-8").splitlines()
    return [name.strip() for name in names if name.strip()]


def _read_depth_params(model: Path) -> dict[str, dict[str, float]]:
    """Scale, offset and the scene's median scale of each depth map, by image name."""
    path = model / "depth_params.json"
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
        scales = [float(entry["scale"]) for entry in params.values()]
        offsets = [float(entry["offset"]) for entry in params.values()]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not found; utils/make_depth_scale.py makes it from the depth maps"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path}: expected {{"<image>": {{"scale": s, "offset": o}}, ...}}: {error}'
        ) from error
    positive = [scale for scale in scales if scale > 0]
    median = float(np.median(positive)) if positive else 0.0
    return {
        name: {"scale": scale, "offset": offset, "med_scale": median}
        for name, scale, offset in zip(params, scales, offsets, strict=True)
    }


def _depth_of(
    image_name: str,
    depths_params: Mapping[str, Mapping[str, float]] | None,
    depths_folder: PathLike,
) -> tuple[Mapping[str, float] | None, str]:
    """Scale and path of an image's depth map; a map of unknown scale cannot be used."""
    if depths_params is None:
        return None, ""
    stem = image_name.rpartition(".")[0] or image_name
    if stem not in depths_params:
        logger.warning("depth_params.json has no entry for %s: its depth map is not used", stem)
        return None, ""
    return depths_params[stem], str(Path(depths_folder) / f"{stem}.png")


def _colmap_points(model: Path) -> BasicPointCloud:
    if (model / "points3D.ply").exists():
        return fetchPly(model / "points3D.ply")
    for name in ("points3D.bin", "points3D.txt"):
        if (model / name).exists():
            points = read_points3D(model / name)
            return BasicPointCloud(
                points.xyz.astype(np.float32), points.rgb / 255.0, np.zeros_like(points.xyz)
            )
    raise InputError(f"{model}: expected points3D.ply, points3D.bin or points3D.txt, not found")


# --- Blender --------------------------------------------------------------------------------------


def readNerfSyntheticInfo(
    path: PathLike,
    white_background: bool,
    depths: str,
    eval: bool,
    extension: str = ".png",
    *,
    with_points: bool = True,
) -> SceneInfo:
    """The Blender scene in `path`. Without `eval` the test frames train as well.

    `white_background` has no effect here: photos are composited when they are loaded.
    """
    source = Path(path)
    depths_folder = source / depths if depths else ""
    train = readCamerasFromTransforms(
        source, "transforms_train.json", depths_folder, white_background, False, extension
    )
    test = []
    if (source / "transforms_test.json").exists():
        test = readCamerasFromTransforms(
            source, "transforms_test.json", depths_folder, white_background, True, extension
        )
    if not eval:
        train, test = [*train, *test], []
    ply_path = source / "points3d.ply"
    return SceneInfo(
        point_cloud=_blender_points(ply_path) if with_points else None,
        train_cameras=train,
        test_cameras=test,
        nerf_normalization=getNerfppNorm(train),
        ply_path=str(ply_path) if ply_path.exists() else None,
        is_nerf_synthetic=True,
    )


def readCamerasFromTransforms(
    path: PathLike,
    transformsfile: str,
    depths_folder: PathLike,
    white_background: bool,
    is_test: bool,
    extension: str = ".png",
) -> list[CameraInfo]:
    """One `CameraInfo` per frame of a transforms_*.json."""
    file = Path(path) / transformsfile
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        fov_x = float(contents["camera_angle_x"])
        frames = [(str(f["file_path"]), _pose(f["transform_matrix"])) for f in contents["frames"]]
    except (ValueError, KeyError, TypeError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"{file}: expected camera_angle_x and frames with file_path and transform_matrix "
            f"(4x4): {type(error).__name__}: {error}"
        ) from error
    cameras = []
    for index, (file_path, world_to_camera) in enumerate(frames):
        image_path = _frame_path(Path(path), file_path, extension)
        width, height = photo_size(image_path)
        stem = image_path.stem
        cameras.append(
            CameraInfo(
                uid=index,
                R=world_to_camera[:3, :3].T,
                T=world_to_camera[:3, 3],
                FovY=focal2fov(fov2focal(fov_x, width), height),
                FovX=fov_x,
                depth_params=None,
                image_path=str(image_path),
                image_name=stem,
                depth_path=str(Path(depths_folder) / f"{stem}.png") if depths_folder else "",
                width=width,
                height=height,
                is_test=is_test,
            )
        )
    return cameras


def _pose(transform_matrix: Any) -> npt.NDArray[np.float64]:
    """World-to-camera matrix (x right, y down, z forward) of an OpenGL camera-to-world matrix."""
    camera_to_world = np.array(transform_matrix, np.float64)
    if camera_to_world.shape != (4, 4):
        raise ValueError(f"a transform_matrix has shape {camera_to_world.shape}")
    camera_to_world[:3, 1:3] *= -1
    return np.asarray(np.linalg.inv(camera_to_world), np.float64)


def _frame_path(folder: Path, file_path: str, extension: str) -> Path:
    """The frame's file: names come without their extension, as a rule."""
    if Path(file_path).suffix and (folder / file_path).exists():
        return folder / file_path
    return folder / (file_path + extension)


def _blender_points(ply_path: Path) -> BasicPointCloud:
    """The dataset's cloud, or the same uniformly random one every time."""
    if ply_path.exists():
        return fetchPly(ply_path)
    logger.info("Generating random point cloud (%d)...", _BLENDER_POINTS)
    generator = np.random.default_rng(0)
    xyz = generator.uniform(-_BLENDER_HALF_SIDE, _BLENDER_HALF_SIDE, (_BLENDER_POINTS, 3))
    colors = SH2RGB(generator.random((_BLENDER_POINTS, 3)) / 255.0)
    return BasicPointCloud(xyz.astype(np.float32), colors, np.zeros_like(xyz))


# --- Initial clouds -------------------------------------------------------------------------------


def fetchPly(path: PathLike) -> BasicPointCloud:
    """The coloured points of a PLY; normals are zero where the file has none."""
    table = read_ply_table(path)
    has_normals = all(name in table.columns for name in ("nx", "ny", "nz"))
    return BasicPointCloud(
        points=table.stack(["x", "y", "z"]),
        colors=table.stack(["red", "green", "blue"]) / 255.0,
        normals=table.stack(["nx", "ny", "nz"]) if has_normals else np.zeros((table.count, 3)),
    )


_CLOUD_FLOATS = ("x", "y", "z", "nx", "ny", "nz")
_CLOUD_BYTES = ("red", "green", "blue")
_CLOUD_ROW = np.dtype(
    [(name, "<f4") for name in _CLOUD_FLOATS] + [(name, "u1") for name in _CLOUD_BYTES]
)


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
        rows.tofile(file)


def write_input_ply(path: PathLike, scene_info: SceneInfo) -> None:
    """Puts the initial cloud into a model folder: a copy of the dataset's PLY, or a new file."""
    if scene_info.ply_path is not None:
        with atomic_path(path) as temporary:
            shutil.copyfile(scene_info.ply_path, temporary)
    elif scene_info.point_cloud is not None:
        storePly(path, scene_info.point_cloud.points, scene_info.point_cloud.colors * 255.0)


sceneLoadTypeCallbacks: dict[str, Callable[..., SceneInfo]] = {
    "Colmap": readColmapSceneInfo,
    "Blender": readNerfSyntheticInfo,
}
