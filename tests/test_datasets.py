# SPDX-License-Identifier: Apache-2.0
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_datasets import (
    HEIGHT,
    WIDTH,
    files_of,
    make_blender,
    make_colmap,
    names,
    options,
    random_image,
)
from PIL import Image

from scene.camera_loading import (
    camera_to_JSON,
    cameraList_from_camInfos,
    loadCam,
    target_size,
)
from scene.dataset_readers import (
    SceneInfo,
    fetchPly,
    getNerfppNorm,
    readColmapSceneInfo,
    readSceneInfo,
    storePly,
    write_input_ply,
)
from utils import camera_utils, logged_once
from utils.errors import InputError
from utils.photos import planar_u8

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


class TestColmap:
    def test_cameras(self, tmp_path: Path) -> None:
        scene = readSceneInfo(options(make_colmap(tmp_path)))
        assert names(scene.train_cameras) == [f"{i:02}.png" for i in range(10)]
        assert scene.test_cameras == [] and not scene.is_nerf_synthetic
        camera = scene.train_cameras[3]
        assert (camera.uid, camera.width, camera.height) == (5, WIDTH, HEIGHT)
        assert camera.image_path == str(tmp_path / "images" / "03.png")
        assert camera.FovX == pytest.approx(2 * math.atan(WIDTH / 60))
        assert camera.FovY == pytest.approx(2 * math.atan(HEIGHT / 64))
        np.testing.assert_array_equal(camera.T, [-3, 0, 0])

    def test_extent_is_that_of_the_training_cameras(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        assert readSceneInfo(options(folder)).nerf_normalization["radius"] == pytest.approx(4.95)
        # Without 0 and 8 the centres are 1..7 and 9: mean 4.625, farthest 9.
        held = readSceneInfo(options(folder, eval=True)).nerf_normalization
        assert held["radius"] == pytest.approx(1.1 * 4.375)
        np.testing.assert_allclose(held["translate"], [-4.625, 0, 0])

    def test_every_eighth_name_is_held_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        scene = readSceneInfo(options(make_colmap(tmp_path), eval=True))
        assert names(scene.test_cameras) == ["00.png", "08.png"]
        assert all(camera.is_test for camera in scene.test_cameras)
        assert names(scene.train_cameras) == [f"{i:02}.png" for i in (1, 2, 3, 4, 5, 6, 7, 9)]
        messages = [record.getMessage() for record in caplog.records]
        assert messages == ["------------LLFF HOLD-------------", "Reading camera 10/10"]

    def test_test_images_from_a_list_of_names(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        (folder / "sparse" / "0" / "test.txt").write_text("03.png\n\n07.png\n")
        scene = readColmapSceneInfo(folder, "images", "", True, False, llffhold=0)
        assert names(scene.test_cameras) == ["03.png", "07.png"]
        assert len(scene.train_cameras) == 8

    def test_exposure_mode_trains_on_test_views_too(self, tmp_path: Path) -> None:
        scene = readSceneInfo(options(make_colmap(tmp_path), eval=True, train_test_exp=True))
        assert len(scene.train_cameras) == 10 and len(scene.test_cameras) == 2

    def test_one_focal_length_serves_both_directions(self, tmp_path: Path) -> None:
        camera = readSceneInfo(options(make_colmap(tmp_path, model=0))).train_cameras[0]
        assert camera.FovY == pytest.approx(2 * math.atan(HEIGHT / 60))

    def test_the_dataset_is_never_written_to(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path / "data")
        before = files_of(folder)
        scene = readSceneInfo(options(folder))
        cameraList_from_camInfos(scene.train_cameras, 1.0, options(folder))
        write_input_ply(tmp_path / "model" / "input.ply", scene)
        assert files_of(folder) == before

    def test_initial_cloud_becomes_input_ply(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path / "data")
        write_input_ply(tmp_path / "input.ply", readSceneInfo(options(folder)))
        header = (tmp_path / "input.ply").read_bytes().split(b"end_header\n")[0].decode()
        assert header.splitlines()[2:] == [
            "element vertex 2",
            *(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
            *(f"property uchar {name}" for name in ("red", "green", "blue")),
        ]
        cloud = fetchPly(tmp_path / "input.ply")
        np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 1, 6]])
        np.testing.assert_array_equal(np.round(cloud.colors * 255), [[10, 20, 255], [0, 1, 2]])

    def test_a_cloud_of_the_dataset_is_preferred_and_copied(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path / "data")
        ply = folder / "sparse" / "0" / "points3D.ply"
        storePly(ply, np.ones((3, 3)), np.full((3, 3), 7.0))
        scene = readSceneInfo(options(folder))
        assert scene.point_cloud is not None and len(scene.point_cloud.points) == 3
        write_input_ply(tmp_path / "input.ply", scene)
        assert (tmp_path / "input.ply").read_bytes() == ply.read_bytes()

    def test_a_broken_cloud_is_an_error_and_a_model_needs_none(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        (folder / "sparse" / "0" / "points3D.ply").write_bytes(b"ply\n")
        with pytest.raises(InputError, match=r"points3D\.ply"):
            readSceneInfo(options(folder))
        assert readSceneInfo(options(folder), with_points=False).point_cloud is None

    def test_missing_parts_are_named(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        (folder / "sparse" / "0" / "images.bin").unlink()
        with pytest.raises(InputError, match=r"images and cameras, as \.bin or \.txt"):
            readSceneInfo(options(folder))

    def test_a_model_directly_in_sparse(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        for file in (folder / "sparse" / "0").iterdir():
            file.rename(folder / "sparse" / file.name)
        (folder / "sparse" / "0").rmdir()
        assert len(readSceneInfo(options(folder)).train_cameras) == 10

    def test_an_unknown_dataset(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Could not recognize scene type!"):
            readSceneInfo(options(tmp_path))

    def test_a_missing_photo_and_a_broken_photo(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        cameras = readSceneInfo(options(folder)).train_cameras
        (folder / "images" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
        with pytest.raises(InputError, match=rf"image 04\.png in {folder / 'images'} cannot be"):
            cameraList_from_camInfos(cameras, 1.0, options(folder))
        (folder / "images" / "04.png").unlink()
        with pytest.raises(InputError, match=rf"image 04\.png is missing in {folder / 'images'}"):
            cameraList_from_camInfos(cameras, 1.0, options(folder))

    def test_a_cut_photo(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        path = folder / "images" / "00.png"
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(InputError, match=r"image 00\.png"):
            loadCam(options(folder), 0, readSceneInfo(options(folder)).train_cameras[0], 1.0)


class TestBlender:
    def test_cameras(self, tmp_path: Path) -> None:
        scene = readSceneInfo(options(make_blender(tmp_path), eval=True))
        assert scene.is_nerf_synthetic
        assert names(scene.train_cameras) == ["r_0", "r_1", "r_2"]
        assert names(scene.test_cameras) == ["r_0", "r_1"]
        camera = scene.train_cameras[1]
        assert (camera.FovX, camera.width, camera.height) == (0.7, WIDTH, HEIGHT)
        assert math.tan(camera.FovY / 2) == pytest.approx(math.tan(0.35) * HEIGHT / WIDTH)
        # OpenGL looks along -z with y up, we along +z with y down.
        np.testing.assert_allclose(camera.R, np.diag([1, -1, -1]))
        np.testing.assert_allclose(camera.T, [-1, 2, 3])

    def test_test_frames_train_where_none_are_held_out(self, tmp_path: Path) -> None:
        scene = readSceneInfo(options(make_blender(tmp_path)))
        assert len(scene.train_cameras) == 5 and scene.test_cameras == []

    def test_the_random_cloud_is_the_same_every_time(self, tmp_path: Path) -> None:
        folder = make_blender(tmp_path)
        clouds = [readSceneInfo(options(folder)).point_cloud for _ in range(2)]
        assert clouds[0] is not None and clouds[1] is not None
        assert clouds[0].points.shape == (100_000, 3)
        np.testing.assert_array_equal(clouds[0].points, clouds[1].points)
        assert 1.299 < np.abs(clouds[0].points).max() <= 1.3
        assert abs(clouds[0].colors - 0.5).max() < 0.002
        assert not (folder / "points3d.ply").exists()

    def test_the_dataset_s_own_cloud(self, tmp_path: Path) -> None:
        folder = make_blender(tmp_path)
        storePly(folder / "points3d.ply", np.zeros((4, 3)), np.zeros((4, 3)))
        scene = readSceneInfo(options(folder))
        assert scene.point_cloud is not None and len(scene.point_cloud.points) == 4

    @pytest.mark.parametrize("white", [False, True])
    def test_transparency_is_composited_over_the_background(
        self, tmp_path: Path, white: bool
    ) -> None:
        args = options(make_blender(tmp_path), white_background=white)
        camera = loadCam(args, 0, readSceneInfo(args).train_cameras[0], 1.0)
        rgba = np.asarray(random_image(0, "RGBA")) / 255.0
        alpha = rgba[..., 3:]
        expected = np.floor((rgba[..., :3] * alpha + white * (1 - alpha)) * 255 + 0.5)
        np.testing.assert_array_equal(camera.image_u8.permute(1, 2, 0), expected)

    def test_names_with_their_extension(self, tmp_path: Path) -> None:
        folder = make_blender(tmp_path)
        text = (folder / "transforms_train.json").read_text().replace('r_0"', 'r_0.png"')
        (folder / "transforms_train.json").write_text(text)
        assert readSceneInfo(options(folder, eval=True)).train_cameras[0].image_name == "r_0"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("[]", "expected a list of frames"),
            ("{", "not a JSON file"),
            ('{"camera_angle_x": 1, "frames": []}', "expected a list of frames"),
            ('{"frames": [{"transform_matrix": []}]}', "frame 0: expected a file_path"),
            ('{"frames": [{"file_path": "a"}]}', "frame 0: expected a transform_matrix"),
            ('{"frames": [{"file_path": "a", "transform_matrix": [[1, 2]]}]}', "the shape"),
            ('{"frames": [{"file_path": "a", "transform_matrix": "x"}]}', "does not hold numbers"),
        ],
    )
    def test_broken_transforms(self, tmp_path: Path, content: str, problem: str) -> None:
        (make_blender(tmp_path) / "transforms_train.json").write_text(content)
        with pytest.raises(InputError, match=rf"transforms_train\.json.*{problem}"):
            readSceneInfo(options(tmp_path))


@pytest.mark.parametrize(
    ("size", "resolution", "scale", "expected"),
    [
        ((990, 742), 2, 1.0, (495, 371)),
        ((25, 35), 2, 1.0, (12, 18)),  # round half to even
        ((990, 742), 1, 1.0, (990, 742)),
        ((990, 742), 8, 2.0, (62, 46)),
        ((990, 742), -1, 1.0, (990, 742)),
        ((1600, 900), -1, 1.0, (1600, 900)),
        ((3200, 1801), -1, 1.0, (1600, 900)),
        ((3200, 1800), -1, 2.0, (800, 450)),
        ((1000, 500), 250, 1.0, (250, 125)),
        ((100, 50), 300, 1.0, (100, 50)),  # nothing is enlarged
        ((100, 50), 100, 1.0, (100, 50)),
        ((100, 50), 300, 2.0, (50, 25)),
        ((3, 4), 1, 1.0, (3, 4)),
    ],
)
def test_resolution_rule(
    size: tuple[int, int], resolution: int, scale: float, expected: tuple[int, int]
) -> None:
    assert target_size(size, resolution, scale) == expected


@pytest.mark.parametrize("resolution", [0, -2])
def test_resolutions_without_meaning(resolution: int) -> None:
    with pytest.raises(InputError, match="--resolution"):
        target_size((10, 10), resolution)


@pytest.mark.parametrize(("resolution", "size"), [(3, "3x2"), (9, "9x6"), (8, "40x6")])
def test_too_small_photos_are_refused(resolution: int, size: str) -> None:
    photo = (320, 48) if resolution == 8 else (320, 240)
    with pytest.raises(InputError, match=rf"--resolution {resolution} scales .*down to {size}:"):
        target_size(photo, resolution)


def test_a_width_above_the_photos_is_announced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_once, "_logged", set())
    caplog.set_level(logging.INFO)
    args = options(make_colmap(tmp_path, count=20), resolution=10_000)
    cameras = cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args)
    assert (cameras[0].image_width, cameras[0].image_height) == (WIDTH, HEIGHT)
    assert sum("keep their size" in record.getMessage() for record in caplog.records) == 1


def test_photos_are_resized_bicubically(tmp_path: Path) -> None:
    args = options(make_colmap(tmp_path), resolution=2)
    camera = loadCam(args, 7, readSceneInfo(args).train_cameras[2], 1.0)
    expected = np.asarray(random_image(2).resize((12, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(camera.image_u8.permute(1, 2, 0), expected)
    assert camera.image_u8.is_contiguous() and camera.image_u8.dtype == torch.uint8
    assert (camera.uid, camera.colmap_id) == (7, 5)
    # The field of view is the photo's, whatever the size.
    assert camera.FoVx == pytest.approx(2 * math.atan(WIDTH / 60))


def test_order_is_kept_by_the_threads(tmp_path: Path) -> None:
    args = options(make_colmap(tmp_path, count=30))
    cameras = cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args)
    assert [camera.uid for camera in cameras] == list(range(30))
    for i, camera in enumerate(cameras):
        np.testing.assert_array_equal(camera.image_u8.permute(1, 2, 0), np.asarray(random_image(i)))


def test_large_photos_are_announced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_once, "_logged", set())
    caplog.set_level(logging.INFO)
    folder = make_colmap(tmp_path, count=2, size=(1700, 10))
    args = options(folder)
    cameras = cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args)
    assert cameras[0].image_width == 1600
    assert sum(">1.6K" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "PA", "I;16"])
def test_photos_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    image = random_image(3, "RGBA")
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey)
        expected = np.repeat((grey // 257)[..., None], 3, axis=2)
    else:
        image = image.convert(mode)
        flat = Image.new("RGBA", image.size, (0, 0, 0, 255))
        flat.alpha_composite(image.convert("RGBA"))
        expected = np.asarray(flat.convert("RGB"))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "PA") else "a.png")
    if mode != "PA":
        image.save(path)
        image = Image.open(path)
    planar = planar_u8(image, image.size)
    assert planar.shape == (3, HEIGHT, WIDTH)
    np.testing.assert_allclose(planar.permute(1, 2, 0).int(), expected, atol=1)


def test_photos_of_32_bits_are_refused() -> None:
    with pytest.raises(InputError, match="8 or 16 bits"):
        planar_u8(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), (4, 4))
    with pytest.raises(InputError, match="floating-point"):
        planar_u8(Image.fromarray(np.zeros((4, 4), np.float32)), (4, 4))


def test_cameras_json_entry(tmp_path: Path) -> None:
    camera = readSceneInfo(options(make_colmap(tmp_path))).train_cameras[3]
    entry = camera_to_JSON(12, camera)
    assert list(entry) == [
        *("id", "img_name", "width", "height", "position", "rotation", "fy", "fx")
    ]
    assert (entry["id"], entry["img_name"], entry["width"]) == (12, "03.png", WIDTH)
    assert entry["position"] == pytest.approx([3, 0, 0])
    assert entry["rotation"] == np.eye(3).tolist()
    assert (entry["fx"], entry["fy"]) == (pytest.approx(30), pytest.approx(32))
    json.dumps(entry)


def test_third_parties_find_the_loaders_in_camera_utils() -> None:
    assert camera_utils.loadCam is loadCam
    assert camera_utils.camera_to_JSON is camera_to_JSON
    assert camera_utils.cameraList_from_camInfos is cameraList_from_camInfos


def test_no_cameras_have_no_extent() -> None:
    with pytest.raises(InputError, match="no training images"):
        getNerfppNorm([])


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real captures are not here")
class TestRealCaptures:
    @pytest.mark.parametrize(("name", "test_count"), [("snowmiku", 13), ("fox", 7)])
    def test_cameras_json_equals_that_of_a_trained_model(self, name: str, test_count: int) -> None:
        scene = readSceneInfo(options(SHARED / name, eval=True))
        assert len(scene.test_cameras) == test_count
        reference = json.loads((SHARED / f"{name}_model" / "cameras.json").read_text())
        ours = scene.test_cameras + scene.train_cameras
        assert [entry["img_name"] for entry in reference] == names(ours)
        for i, (theirs, info) in enumerate(zip(reference, ours, strict=True)):
            entry = camera_to_JSON(i, info)
            assert entry.keys() == theirs.keys()
            for key in ("position", "rotation", "fx", "fy", "width", "height", "id"):
                np.testing.assert_allclose(entry[key], theirs[key], atol=1e-12)

    def test_input_ply_equals_that_of_a_trained_model(self, tmp_path: Path) -> None:
        scene: SceneInfo = readSceneInfo(options(SHARED / "fox"))
        write_input_ply(tmp_path / "input.ply", scene)
        assert (tmp_path / "input.ply").read_bytes() == (
            SHARED / "fox_model" / "input.ply"
        ).read_bytes()

    def test_lego(self) -> None:
        args = options(SHARED / "lego", eval=True, white_background=True)
        scene = readSceneInfo(args)
        assert (len(scene.train_cameras), len(scene.test_cameras)) == (87, 13)
        camera = loadCam(args, 0, scene.test_cameras[0], 1.0)
        assert camera.image_u8[:, 0, 0].tolist() == [255, 255, 255]
