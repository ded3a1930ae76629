# SPDX-License-Identifier: Apache-2.0
"""What scripts of 2023 call, and objects of the callers' own classes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_datasets import make_blender
from PIL import Image

from arguments import (
    GroupParams,
    ModelOptions,
    ModelParams,
    OptimizationParams,
    ParamGroup,
    get_combined_args,
    write_cfg_args,
)
from scene.cameras import Camera
from scene.colmap_loader import read_extrinsics_binary, read_intrinsics_binary
from scene.dataset_readers import (
    readCamerasFromTransforms,
    readColmapCameras,
    readColmapSceneInfo,
    readNerfSyntheticInfo,
    sceneLoadTypeCallbacks,
)
from scene.foreign_models import (
    create_from_points,
    device_of,
    harmonics_of,
    load_model,
    loading_options,
    metadata_of,
)
from utils.errors import InputError
from utils.graphics_utils import BasicPointCloud

R, T = np.eye(3), np.array([0.0, 0.0, 2.0])
PHOTO = torch.linspace(-0.2, 1.2, 3 * 4 * 6).reshape(3, 4, 6)


def camera_2023(**changes: object) -> Camera:
    given = {"gt_alpha_mask": None, "image": PHOTO, **changes}
    return Camera(
        colmap_id=3, R=R, T=T, FoVx=0.9, FoVy=0.6, image_name="a", uid=1, data_device="cpu", **given
    )


def test_a_camera_of_2023_is_that_of_today() -> None:
    today = Camera(
        *((6, 4), 3, R, T, 0.9, 0.6, None, PHOTO, None, "a", 1),
        data_device="cpu",
    )
    by_position = Camera(3, R, T, 0.9, 0.6, PHOTO, None, "a", 1)
    for camera in (camera_2023(), by_position):
        assert (camera.image_width, camera.image_height, camera.colmap_id) == (6, 4, 3)
        assert (camera.image_name, camera.uid) == ("a", 1)
        assert torch.equal(camera.original_image, PHOTO.clamp(0, 1))
        assert torch.equal(camera.original_image, today.original_image)
        assert torch.equal(camera.image_u8, today.image_u8)
        assert torch.equal(camera.full_proj_transform, today.full_proj_transform)


def test_the_mask_of_2023_multiplies_the_photo() -> None:
    mask = torch.zeros(1, 4, 6)
    mask[..., 3:] = 1
    camera = camera_2023(gt_alpha_mask=mask)
    assert torch.equal(camera.original_image, PHOTO.clamp(0, 1) * mask)
    white = camera.over(torch.ones(3)).original_image
    assert (white[..., :3] == 1).all()
    assert torch.equal(white[..., 3:], camera.image_u8[..., 3:] / 255)
    with pytest.raises(InputError, match="camera a: expected a photo, got none"):
        camera_2023(image=None)


def test_the_photo_can_be_set() -> None:
    camera = camera_2023()
    camera.original_image = PHOTO.clamp(0, 1) / 3
    assert torch.equal(camera.original_image, PHOTO.clamp(0, 1) / 3)
    assert torch.equal(camera.image_u8, (PHOTO.clamp(0, 1) / 3 * 255).round().to(torch.uint8))
    camera.original_image *= 0
    assert not camera.original_image.any() and not camera.image_u8.any()
    with pytest.raises(InputError, match=r"expected an image \(3, H, W\), got the shape \(4, 6\)"):
        camera.original_image = PHOTO[0]


def test_readers_take_the_order_of_2023(small_scene: Path) -> None:
    today = readColmapSceneInfo(small_scene, "images", "", True, False)
    names = [camera.image_name for camera in today.test_cameras]
    assert len(names) == 2
    for info in (
        readColmapSceneInfo(small_scene, "images", True),
        sceneLoadTypeCallbacks["Colmap"](small_scene, "images", eval=True),
    ):
        assert [camera.image_name for camera in info.test_cameras] == names
    assert len(readColmapSceneInfo(small_scene, "images", True, 5).test_cameras) == 2
    assert len(readColmapSceneInfo(small_scene, "images", True, 3).test_cameras) == 4
    assert readColmapSceneInfo(small_scene, "images", False).test_cameras == []
    model = small_scene / "sparse" / "0"
    images = read_extrinsics_binary(model / "images.bin")
    cameras = read_intrinsics_binary(model / "cameras.bin")
    found = readColmapCameras(images, cameras, str(small_scene / "images"))
    assert {Path(camera.image_path).parent for camera in found} == {small_scene / "images"}


def test_readers_of_transforms_take_the_order_of_2023(tmp_path: Path) -> None:
    folder = make_blender(tmp_path / "lego")
    today = readNerfSyntheticInfo(folder, False, "", True)
    for info in (
        readNerfSyntheticInfo(folder, False, True),
        readNerfSyntheticInfo(folder, False, True, ".png"),
        sceneLoadTypeCallbacks["Blender"](folder, False, True),
    ):
        found = [camera.image_path for camera in info.test_cameras]
        assert found == [camera.image_path for camera in today.test_cameras] and len(found) == 2
    assert readNerfSyntheticInfo(folder, False, False).test_cameras == []
    cameras = readCamerasFromTransforms(folder, "transforms_train.json", False, ".png")
    assert [c.is_test for c in cameras] == [False] * 3


def test_the_photo_of_a_camera_info(small_scene: Path) -> None:
    camera = readColmapSceneInfo(small_scene, "images", False).train_cameras[0]
    with Image.open(camera.image_path) as image:
        assert np.array_equal(np.asarray(camera.image), np.asarray(image))
    assert camera.image.size == (camera.width, camera.height)
    with pytest.raises(InputError, match="nothing"):
        _ = camera._replace(image_path="nothing").image


class MyParams(ParamGroup):
    def __init__(self, parser: ArgumentParser) -> None:
        self.weight = 0.5
        self.rounds = 3
        self._backup = "none"
        self.careful = False
        self.start = None
        super().__init__(parser, "My parameters")


class MyModelParams(ModelParams):
    def __init__(self, parser: ArgumentParser, sentinel: bool = False) -> None:
        self.voxel_size = 0.01
        super().__init__(parser, sentinel)


class MyOptimization(OptimizationParams):
    def __init__(self, parser: ArgumentParser) -> None:
        self.lambda_scale = 0.1
        super().__init__(parser)


def test_subclasses_of_option_groups_add_options(tmp_path: Path) -> None:
    parser = ArgumentParser()
    groups = [MyModelParams(parser), MyOptimization(parser), MyParams(parser)]
    words = ["-m", str(tmp_path), "--weight", "2", "-b", "x", "--careful", "--voxel_size", "0.5"]
    args = parser.parse_args([*words, "--iterations", "7", "--lambda_scale", "3"])
    model, optimization, mine = (group.extract(args) for group in groups)
    assert isinstance(model, ModelOptions) and model.voxel_size == 0.5
    assert (optimization.iterations, optimization.lambda_scale) == (7, 3.0)
    assert type(mine) is GroupParams
    assert vars(mine) == {
        **{"weight": 2.0, "rounds": 3, "backup": "x", "careful": True, "start": None}
    }
    assert "My parameters" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--rounds", "x"])

    write_cfg_args(tmp_path, model)
    reading = ArgumentParser()
    group = MyModelParams(reading, sentinel=True)
    found = group.extract(get_combined_args(reading, ["-m", str(tmp_path)]))
    assert (found.voxel_size, found.model_path) == (0.5, str(tmp_path))
    again = group.extract(get_combined_args(reading, ["-m", str(tmp_path), "--voxel_size", "1"]))
    assert again.voxel_size == 1.0


class Model2023:
    get_xyz = torch.empty(0)
    get_features = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def create_from_pcd(self, pcd: BasicPointCloud, spatial_lr_scale: float) -> None:
        self.calls.append((pcd, spatial_lr_scale))

    def load_ply(self, path: Path) -> None:
        self.calls.append((path,))


class Model2024(Model2023):
    device = "meta"
    get_features_dc, get_features_rest = torch.zeros(2, 1, 3), torch.zeros(2, 3, 3)

    def create_from_pcd(self, pcd, cam_infos, spatial_lr_scale):  # type: ignore[override]
        self.calls.append((pcd, cam_infos, spatial_lr_scale))

    def load_ply(self, path, use_train_test_exp=False):  # type: ignore[override]
        self.calls.append((path, use_train_test_exp))


def test_models_of_either_generation_are_called_with_what_they_take(tmp_path: Path) -> None:
    points = np.zeros((1, 3))
    cloud = BasicPointCloud(points, points, points)
    for model, expected in (
        (Model2023(), [(cloud, 2.0), (tmp_path,)]),
        (Model2024(), [(cloud, [], 2.0), (tmp_path, False)]),
    ):
        create_from_points(model, cloud, [], 2.0)
        load_model(model, tmp_path, False)
        assert model.calls == expected
        assert metadata_of(model).antialiasing is False
    earlier, later = Model2023(), Model2024()
    assert (device_of(earlier).type, device_of(later).type) == ("cpu", "meta")
    dc, rest = harmonics_of(earlier)
    assert torch.equal(torch.cat((dc, rest), 1), earlier.get_features)
    assert harmonics_of(later)[0] is later.get_features_dc
    with pytest.raises(TypeError):  # exposures are not left out silently
        load_model(earlier, tmp_path, True)


def test_loading_options_of_another_class() -> None:
    given = Namespace(source_path="/a", resolution=2, eval=True, more=1)
    assert loading_options(given) == ModelOptions(source_path="/a", resolution=2, eval=True)
