# SPDX-License-Identifier: Apache-2.0
"""Cameras from files of all kinds: intrinsics, poses, places of models, and the split."""

import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_datasets import (
    HEIGHT,
    POSE,
    WIDTH,
    make_blender,
    make_colmap,
    make_transforms,
    names,
    options,
)

from scene import colmap_loader
from scene.dataset_readers import readSceneInfo
from scene.intrinsics import colmap_intrinsics, transforms_intrinsics
from scene.poses import world_to_camera
from utils.errors import InputError
from utils.graphics_utils import focal2fov


def colmap_camera(model: str, *params: float, width: int = 320) -> colmap_loader.Camera:
    return colmap_loader.Camera(1, model, width, 240, np.array(params))


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_PINHOLE", (300, 80, 120)),
        ("PINHOLE", (300, 300, 80, 120)),
        ("SIMPLE_RADIAL", (300, 80, 120, 0)),
        ("RADIAL", (300, 80, 120, 0, 0)),
        ("OPENCV", (300, 300, 80, 120, 0, 0, 0, 0)),
        ("FULL_OPENCV", (300, 300, 80, 120, *(8 * [0]))),
        ("FOV", (300, 300, 80, 120, 0)),
    ],
)
def test_cameras_without_distortion_are_pinholes(model: str, params: tuple[float, ...]) -> None:
    lens = colmap_intrinsics(colmap_camera(model, *params), "sparse")
    assert (lens.fov_x, lens.fov_y) == (focal2fov(300, 320), focal2fov(300, 240))
    assert lens.principal_point == (0.25, 0.5)


@pytest.mark.parametrize(
    ("camera", "problem"),
    [
        (colmap_camera("EQUIRECTANGULAR", 320, 240), "not handled: EQUIRECTANGULAR in sparse"),
        (colmap_camera("SIMPLE_RADIAL", 300, 160, 120, math.nan), "k must be a number"),
        (colmap_camera("SIMPLE_RADIAL", 300, 160, 120, -1e5), "camera 1 in .*distorts too much"),
        (colmap_camera("PINHOLE", 300, math.nan, 160, 120), "camera 1 in .*focal length"),
        (colmap_camera("PINHOLE", -300, 300, 160, 120), "focal length must be positive"),
        (colmap_camera("PINHOLE", 300, 300, math.inf, 120), "cx must be a number"),
        (colmap_camera("SIMPLE_PINHOLE", 300, 160, 120, width=0), "image side must be positive"),
    ],
)
def test_other_cameras_are_refused(camera: colmap_loader.Camera, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        colmap_intrinsics(camera, "sparse")


@pytest.mark.parametrize(
    ("frame", "shared", "expected"),
    [
        ({}, {"camera_angle_x": 0.7}, (320, 240, 0.7, None, 0.5, 0.5)),
        ({}, {"camera_angle_x": 0.7, "camera_angle_y": 0.4}, (320, 240, 0.7, 0.4, 0.5, 0.5)),
        ({}, {"fl_x": 300}, (320, 240, focal2fov(300, 320), focal2fov(300, 240), 0.5, 0.5)),
        ({}, {"fl_y": 300}, (320, 240, focal2fov(300, 320), focal2fov(300, 240), 0.5, 0.5)),
        (
            {"fl_x": 300, "cx": 80.0},
            {"camera_angle_x": 0.1, "camera_angle_y": 0.1, "cx": 3, "cy": 60},
            (320, 240, focal2fov(300, 320), focal2fov(300, 240), 0.25, 0.25),
        ),
        ({"camera_angle_x": 0.7}, {"fl_x": 5, "fl_y": 5}, (320, 240, 0.7, None, 0.5, 0.5)),
        (
            {"w": 640, "h": 480.0},
            {"fl_x": 600, "fl_y": 500, "cx": 160, "cy": 240, "w": 10, "h": 10, "k1": 0},
            (640, 480, focal2fov(600, 640), focal2fov(500, 480), 0.25, 0.5),
        ),
        # Without w, which fl_x is measured at, the angle is what holds at any size.
        ({}, {"fl_x": 1200, "camera_angle_x": 0.7}, (320, 240, 0.7, None, 0.5, 0.5)),
    ],
)
def test_intrinsics_of_each_frame(
    frame: dict[str, Any], shared: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    width, height, fov_x, fov_y, cx, cy = expected
    lens = transforms_intrinsics(frame, shared, (320, 240), "here")
    assert (lens.width, lens.height) == (width, height)
    assert lens.fov_x == pytest.approx(fov_x)
    square = 2 * math.atan(math.tan(fov_x / 2) * height / width)
    assert lens.fov_y == pytest.approx(square if fov_y is None else fov_y)
    assert lens.principal_point == (cx, cy)


@pytest.mark.parametrize(
    ("shared", "problem"),
    [
        ({}, "expected fl_x or camera_angle_x"),
        ({"fl_x": 300, "k4": 0.1}, r"k4 = 0\.1\) that the camera model PINHOLE does not have"),
        ({"fl_x": 300, "is_fisheye": True, "p2": -1e-4}, "p2 = -0.0001.*OPENCV_FISHEYE"),
        ({"fl_x": 300, "k1": "strong"}, "k1 must be a number, got 'strong'"),
        ({"fl_x": 300, "distortion_params": [0, 0.5]}, "distortion_params without names"),
        ({"camera_angle_x": 1, "is_fisheye": True}, "expected fl_x, w and h of a fisheye"),
        ({"fl_x": 300, "camera_model": "FISHEYE624"}, "expected one of .*, got FISHEYE624"),
        ({"fl_x": "wide"}, "fl_x must be a number, got 'wide'"),
        ({"fl_x": math.nan}, "fl_x must be a number"),
        ({"camera_angle_x": 4}, "camera_angle_x must be below pi"),
        ({"fl_x": 300, "w": 320.5, "h": 240}, "whole number"),
    ],
)
def test_unusable_intrinsics_of_frames(shared: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=f"here: .*{problem}"):
        transforms_intrinsics({}, shared, (320, 240), "here")


class TestColmapPoses:
    @pytest.mark.parametrize(
        ("pose", "problem"),
        [
            ((1, 0, 0, 0, math.nan, 0, 0), r"image 01\.png: \(nan, 0, 0\) is not a camera"),
            ((1, 0, 0, 0, 0, math.inf, 0), r"image 01\.png: .* is not a camera"),
            ((1, 0, 0, 0, 0, 1e30, 0), r"image 01\.png: .* is not a camera"),
            ((0, 0, 0, 0, 0, 0, 0), r"image 01\.png: \(0, 0, 0, 0\) is not a rotation"),
            ((math.nan, 0, 0, 1, 0, 0, 0), r"image 01\.png: .* is not a rotation"),
        ],
    )
    def test_an_invalid_pose_is_refused(self, tmp_path: Path, pose: tuple, problem: str) -> None:
        path = make_colmap(tmp_path, 2) / "sparse" / "0" / "images.bin"
        content = path.read_bytes()
        # The images are stored in reverse: the first one is 01.png.
        path.write_bytes(content[:12] + struct.pack("<7d", *pose) + content[68:])
        with pytest.raises(InputError, match=problem):
            readSceneInfo(options(tmp_path))

    def test_quaternions_are_normalised(self) -> None:
        turned = colmap_loader.qvec2rotmat(np.array([2.5, 0, 0, 2.5]))
        np.testing.assert_allclose(turned, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)


class TestTransformPoses:
    def test_matrices_without_the_last_row(self) -> None:
        pose, scale = world_to_camera(POSE[:3], "here")
        np.testing.assert_array_equal(pose, np.eye(4))
        assert scale == 1

    def test_a_scale_is_removed_and_the_position_stays(self) -> None:
        matrix = np.array(POSE, float)
        matrix[:3, :3] *= 2.5
        matrix[:3, 3] = (1, 2, 3)
        pose, scale = world_to_camera(matrix.tolist(), "here")
        assert scale == pytest.approx(2.5)
        np.testing.assert_allclose(pose[:3, :3], np.eye(3), atol=1e-12)
        np.testing.assert_allclose(np.linalg.inv(pose)[:3, 3], (1, 2, 3), atol=1e-12)

    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ([[1, 0, 0, math.nan]], "values that are not finite"),
            ([[0, 0, 0, 0]], "it scales axes by"),
            ([[3, 0, 0, 0]], "it scales axes by"),
            ([[-1, 0, 0, 0]], "but a reflection"),
            ([[1, 0, 0, 1e30]], "not a camera position"),
        ],
    )
    def test_a_matrix_that_is_no_pose(self, rows: list, problem: str) -> None:
        with pytest.raises(InputError, match=f"here: .*{problem}"):
            world_to_camera(rows + POSE[len(rows) :], "here")

    def test_a_matrix_with_another_last_row(self) -> None:
        with pytest.raises(InputError, match="here: the last row"):
            world_to_camera([*POSE[:3], [0, 0, 1, 1]], "here")


class TestOneTransformsFile:
    def test_every_eighth_name_is_held_out(self, tmp_path: Path) -> None:
        scene = readSceneInfo(options(make_transforms(tmp_path), eval=True))
        assert names(scene.test_cameras) == ["0", "8"]
        assert names(scene.train_cameras) == list("1234567")
        assert all(camera.is_test for camera in scene.test_cameras)
        assert scene.train_cameras[0].FovX == pytest.approx(focal2fov(30, WIDTH))
        assert not scene.is_nerf_synthetic
        assert len(readSceneInfo(options(tmp_path)).train_cameras) == 9

    def test_its_own_list_of_test_frames(self, tmp_path: Path) -> None:
        make_transforms(tmp_path, test_filenames=["images/3.png"])
        assert names(readSceneInfo(options(tmp_path, eval=True)).test_cameras) == ["3"]

    def test_random_points_are_in_the_cameras_view(self, tmp_path: Path) -> None:
        cloud = readSceneInfo(options(make_transforms(tmp_path))).point_cloud
        assert cloud is not None and cloud.points.shape == (100_000, 3)
        assert cloud.points[:, 2].min() > 0.2 and np.isfinite(cloud.points).all()

    def test_photos_of_another_shape_than_the_frame_gives(self, tmp_path: Path) -> None:
        make_transforms(tmp_path, w=WIDTH * 2, h=HEIGHT * 2)
        camera = readSceneInfo(options(tmp_path)).train_cameras[0]
        assert (camera.width, camera.height) == (2 * WIDTH, 2 * HEIGHT)
        assert camera.FovX == pytest.approx(focal2fov(30, 2 * WIDTH))


class TestPlacesOfModels:
    @pytest.mark.parametrize(
        "place", ["sparse/1", "sparse", "colmap/sparse/0", "distorted/sparse/0"]
    )
    def test_places(self, tmp_path: Path, place: str) -> None:
        made = make_colmap(tmp_path / "made")
        target = tmp_path / "data" / place
        shutil.copytree(made / "sparse" / "0", target)
        shutil.copytree(made / "images", tmp_path / "data" / "images")
        assert len(readSceneInfo(options(tmp_path / "data")).train_cameras) == 10

    def test_the_largest_of_several(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        folder = make_colmap(tmp_path / "data")
        (folder / "sparse" / "0").rename(folder / "sparse" / "1")
        shutil.copytree(make_colmap(tmp_path / "b", 2) / "sparse" / "0", folder / "sparse" / "0")
        assert len(readSceneInfo(options(folder)).train_cameras) == 10
        assert caplog.text.count("sparse/1, which has the most images") == 1

    def test_text_and_binary_mixed_and_empty_binaries(self, tmp_path: Path) -> None:
        model = make_colmap(tmp_path, 2) / "sparse" / "0"
        (model / "cameras.bin").unlink()
        text = f"\ufeff# comment\n5 PINHOLE {WIDTH} {HEIGHT} 30 32 12 8\n"
        (model / "cameras.txt").write_text(text, encoding="utf-8")
        assert len(readSceneInfo(options(tmp_path)).train_cameras) == 2
        for content in (b"", bytes(8)):
            (model / "cameras.bin").write_bytes(content)
            assert len(readSceneInfo(options(tmp_path)).train_cameras) == 2

    def test_a_moved_data_set_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"gone does not exist; .*-s/--source_path"):
            readSceneInfo(options(tmp_path / "gone"))


class TestListOfTestImages:
    def test_it_overrides_every_eighth(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        folder = make_colmap(tmp_path)
        text = "\ufeff03.png\r\n05\n07.PNG\n99.png\n"
        (folder / "sparse" / "0" / "test.txt").write_text(text, encoding="utf-8")
        scene = readSceneInfo(options(folder, eval=True))
        assert names(scene.test_cameras) == ["03.png", "05.png", "07.png"]
        assert "LLFF" not in caplog.text and "the 3 that" in caplog.text
        assert "1 names match no image: 99.png" in caplog.text

    def test_a_list_without_any_image_is_refused(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        (folder / "sparse" / "0" / "test.txt").write_text("x.png\n")
        with pytest.raises(InputError, match=r"test\.txt: none of the 1 names"):
            readSceneInfo(options(folder, eval=True))


def test_points_outside_the_cube_of_synthetic_scenes(tmp_path: Path) -> None:
    """If the cube about the origin is out of view, training starts from points in the view."""
    folder = make_blender(tmp_path)
    for path in folder.glob("transforms_*.json"):
        path.write_text(path.read_text().replace("[0.0, 0.0, 1.0, 3.0]", "[0.0, 0.0, 1.0, -9.0]"))
    cloud = readSceneInfo(options(folder)).point_cloud
    assert cloud is not None and cloud.points[:, 2].max() < -9
