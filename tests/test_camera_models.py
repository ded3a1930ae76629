# SPDX-License-Identifier: Apache-2.0
"""Lens distortion: COLMAP's camera models, undistorted photographs, and their cache."""

import hashlib
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from made_datasets import files_of, make_colmap, make_transforms, options, random_image
from PIL import Image

from scene import photo_hashes
from scene.camera_loading import camera_to_JSON, cameraList_from_camInfos, check_photos, loadCam
from scene.camera_models import MODELS, Lens, undistorted_camera
from scene.colmap_loader import CAMERA_MODELS
from scene.dataset_readers import readSceneInfo
from scene.undistortion import cache_folder, undistort, undistorted_photo, undistorted_size
from utils import logged_once
from utils.errors import InputError
from utils.graphics_utils import fov2focal
from utils.photos import open_photo

SIZE = (320, 240)
RAYS = ((0.3, -0.2), (-0.45, 0.35))
# For each model: parameters of a camera of 320x240 pixels, where pycolmap 4.2.1 (img_from_cam) sees
# the RAYS, and the size of the image that its undistort_camera describes.
RECORDED: dict[str, tuple[tuple[float, ...], tuple, tuple[int, int]]] = {
    "SIMPLE_RADIAL": (
        (300, 162, 118, 0.1),
        ((253.170000, 57.220000), (22.612500, 226.412500)),
        (306, 229),
    ),
    "RADIAL": (
        (300, 162, 118, -0.1, 0.05),
        ((250.906050, 58.729300), (30.674531, 220.142031)),
        (327, 242),
    ),
    "OPENCV": (
        (310, 290, 162, 118, 0.1, -0.05, 0.01, -0.02),
        ((253.836415, 60.600010), (13.200484, 225.742703)),
        (296, 224),
    ),
    "OPENCV_FISHEYE": (
        (210, 190, 162, 118, 0.1, -0.05, 0.02, 0.01),
        ((223.147882, 81.117151), (74.077962, 179.871064)),
        (374, 264),
    ),
    "FULL_OPENCV": (
        (310, 290, 162, 118, 0.1, -0.05, 0.01, -0.02, 0.03, 0.02, -0.04, 0.05),
        ((253.651474, 60.715350), (13.627075, 225.432316)),
        (297, 225),
    ),
    "FOV": (
        (310, 290, 162, 118, 0.9),
        ((258.064274, 58.088948), (25.122811, 217.591647)),
        (320, 233),
    ),
    "SIMPLE_RADIAL_FISHEYE": (
        (200, 162, 118, 0.1),
        ((220.275270, 79.149820), (78.005858, 183.328777)),
        (375, 260),
    ),
    "RADIAL_FISHEYE": (
        (200, 162, 118, 0.1, -0.05),
        ((220.233982, 79.177345), (78.300628, 183.099511)),
        (383, 261),
    ),
    "THIN_PRISM_FISHEYE": (
        (210, 190, 162, 118, 0.1, -0.05, 0.01, -0.02, 0.03, 0.02, -0.04, 0.05),
        ((220.711702, 83.041636), (68.722717, 184.319678)),
        (344, 252),
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        (
            210,
            190,
            162,
            118,
            0.1,
            -0.05,
            0.03,
            0.02,
            -0.04,
            0.05,
            0.01,
            -0.02,
            0.03,
            0.04,
            -0.015,
            0.025,
        ),
        ((225.134699, 79.872084), (78.971776, 177.063787)),
        (345, 252),
    ),
    "SIMPLE_DIVISION": (
        (300, 162, 118, -0.1),
        ((250.859466, 58.760356), (31.123562, 219.792785)),
        (328, 242),
    ),
    "DIVISION": (
        (310, 290, 162, 118, 0.1),
        ((256.241494, 59.225735), (17.645197, 223.032348)),
        (305, 229),
    ),
    "SIMPLE_FISHEYE": (
        (200, 162, 118),
        ((219.585690, 79.609540), (80.201841, 181.620791)),
        (408, 270),
    ),
    "FISHEYE": (
        (210, 190, 162, 118),
        ((222.464975, 81.529063), (76.111933, 178.439751)),
        (397, 274),
    ),
    "EUCM": (
        (310, 290, 162, 118, 0.6, 1.1),
        ((251.297111, 62.309329), (35.074602, 210.350737)),
        (350, 252),
    ),
}
BARREL = Lens("SIMPLE_RADIAL", 48, 36, (40.0, 24.0, 18.0, -0.15))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAST3DGS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(logged_once, "_logged", set())
    return tmp_path / "cache" / "undistorted"


def lens_of(model: str) -> Lens:
    return Lens(model, *SIZE, RECORDED[model][0])


# --- The models -----------------------------------------------------------------------------------


def test_all_models_of_colmap_are_there() -> None:
    assert [model.model_id for model in CAMERA_MODELS] == list(range(18))
    assert {model.model_name for model in CAMERA_MODELS} - set(MODELS) == {"EQUIRECTANGULAR"}
    assert set(RECORDED) == set(MODELS) - {"PINHOLE", "SIMPLE_PINHOLE"}
    for model in CAMERA_MODELS[:-1]:
        known = MODELS[model.model_name]
        assert known.focal_lengths + 2 + len(known.coefficients) == model.num_params


@pytest.mark.parametrize("model", RECORDED)
def test_rays_are_seen_where_colmap_sees_them(model: str) -> None:
    x, y = lens_of(model).pixels(*np.array(RAYS).T)
    np.testing.assert_allclose(np.stack([x, y], axis=1), RECORDED[model][1], atol=1e-6)


@pytest.mark.parametrize("model", RECORDED)
def test_the_undistorted_camera_is_colmap_s(model: str) -> None:
    lens, size = lens_of(model), RECORDED[model][2]
    found = undistorted_camera(lens)
    assert (found.width, found.height) == size
    assert (found.focal_x, found.focal_y) == lens.focal
    centre = [lens.centre[i] * size[i] / SIZE[i] for i in (0, 1)]
    assert (found.centre_x, found.centre_y) == pytest.approx(centre)


@pytest.mark.parametrize("model", RECORDED)
def test_every_undistorted_pixel_is_in_the_photograph(model: str) -> None:
    lens, found = lens_of(model), undistorted_camera(lens_of(model))
    columns, rows = np.meshgrid(np.arange(found.width) + 0.5, np.arange(found.height) + 0.5)
    x, y = lens.pixels(
        (columns - found.centre_x) / found.focal_x, (rows - found.centre_y) / found.focal_y
    )
    assert x.min() > 0 and x.max() < SIZE[0] and y.min() > 0 and y.max() < SIZE[1]


@pytest.mark.parametrize("model", MODELS)
def test_the_optical_axis_is_seen_at_the_principal_point(model: str) -> None:
    values = RECORDED[model][0] if model in RECORDED else (300.0,) * 4
    lens = Lens(model, *SIZE, values)
    x, y = lens.pixels(np.zeros(1), np.zeros(1))
    assert (float(x[0]), float(y[0])) == lens.centre


def test_pycolmap_agrees_with_other_parameters() -> None:
    try:
        pycolmap = import_module("pycolmap")
    except ImportError as error:
        pytest.skip(f"pycolmap cannot be imported: {error} (tools/setup.sh with WITH_OTHERS=1)")
    random = np.random.default_rng(4)
    rays = random.uniform(-0.6, 0.6, (100, 2))
    for model, (values, *_) in RECORDED.items():
        count = MODELS[model].focal_lengths + 2
        part = 1.0 if model == "EUCM" else 0.7
        changed = (*values[:count], *(part * value for value in values[count:]))
        camera = pycolmap.Camera.create_from_model_name(1, model, 300.0, *SIZE)
        camera.params = list(changed)
        expected = camera.img_from_cam(np.column_stack([rays, np.ones(100)]))
        found = Lens(model, *SIZE, changed).pixels(*rays.T)
        np.testing.assert_allclose(np.stack(found, axis=1), expected, atol=1e-9, err_msg=model)
        undistorted = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)
        size = undistorted_camera(Lens(model, *SIZE, changed))[:2]
        assert size == (undistorted.width, undistorted.height), model


def test_no_part_of_the_photograph_appears_twice() -> None:
    """Beyond a radius of 1 / sqrt(3 * 0.5), 1 - 0.5 r^2 returns towards the middle."""
    found = undistorted_camera(Lens("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, -0.5)))
    corner = np.hypot(found.width, found.height) / 2 / 500
    assert 0.99 < corner * np.sqrt(1.5) <= 1


def test_a_lens_of_which_nothing_is_left() -> None:
    with pytest.raises(InputError, match=r"SIMPLE_RADIAL .*distorts too much: only"):
        undistorted_camera(Lens("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, -1e5)))


# --- Photographs ----------------------------------------------------------------------------------


def picture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(h, w, 3) smooth colours of the rays (x, y, 1)."""
    waves = np.stack([np.sin(5 * x), np.cos(4 * y), np.sin(3 * x - 4 * y)], axis=-1)
    return np.round(127.5 + 120 * waves)


def distorted_picture(lens: Lens) -> Image.Image:
    """What a camera with this lens sees of `picture`."""
    u = (np.arange(lens.width) + 0.5 - lens.centre[0]) / lens.focal[0]
    v = (np.arange(lens.height) + 0.5 - lens.centre[1]) / lens.focal[1]
    wanted = np.meshgrid(u, v)
    rays = [axis.copy() for axis in wanted]
    for _ in range(50):  # a fixed point, independent of the code's Newton steps
        seen = lens.distort(*rays)
        rays = [ray + want - at for ray, want, at in zip(rays, wanted, seen, strict=True)]
    return Image.fromarray(picture(*rays).astype(np.uint8))


@pytest.mark.parametrize("size", [(96, 72), (48, 36)])
def test_the_undistorted_photograph_is_what_a_pinhole_camera_sees(size: tuple[int, int]) -> None:
    lens = Lens("OPENCV", 96, 72, (80.0, 78.0, 47.0, 37.0, -0.12, 0.02, 0.004, -0.003))
    photo = distorted_picture(lens).resize(size, Image.Resampling.BOX)
    found = np.asarray(undistort(photo, lens), np.float64)
    camera = undistorted_camera(lens)
    height, width = found.shape[:2]
    assert (width, height) == undistorted_size(lens, size)
    x = ((np.arange(width) + 0.5) * camera.width / width - camera.centre_x) / camera.focal_x
    y = ((np.arange(height) + 0.5) * camera.height / height - camera.centre_y) / camera.focal_y
    error = np.abs(found - picture(*np.meshgrid(x, y)))
    assert error.mean() < 1.0 and error.max() < 6
    stretched = np.asarray(photo.resize((width, height)), np.float64)
    assert np.abs(stretched - picture(*np.meshgrid(x, y))).mean() > 2


def test_large_photographs_are_computed_in_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = random_image(1, "RGBA", (48, 36))
    whole = np.asarray(undistort(photo, BARREL), np.int16)
    monkeypatch.setattr("scene.undistortion._STRIPE_PIXELS", 100)
    assert np.abs(np.asarray(undistort(photo, BARREL), np.int16) - whole).max() <= 1


def test_colours_under_transparent_pixels_do_not_show() -> None:
    pixels = np.zeros((36, 48, 4), np.uint8)
    pixels[:, :24] = (10, 200, 30, 255)
    pixels[:, 24:] = (255, 0, 255, 0)
    found = np.asarray(undistort(Image.fromarray(pixels), BARREL)).astype(int)
    visible = found[found[..., 3] > 8]
    assert len(visible) and np.abs(visible[:, :3] - (10, 200, 30)).max() <= 8
    assert set(np.unique(found[..., 3])) >= {0, 255}


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16"])
def test_other_modes(mode: str) -> None:
    if mode == "I;16":
        photo = Image.fromarray(np.full((36, 48), 128 * 257, np.uint16))
    else:
        photo = Image.new("RGB", (48, 36), (128, 128, 128)).convert(
            mode, palette=Image.Palette.ADAPTIVE
        )
    assert np.abs(np.asarray(undistort(photo, BARREL)).astype(int) - 128).max() <= 2


# --- The cache ------------------------------------------------------------------------------------


def save_photo(folder: Path, name: str = "a.png", seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    random_image(seed, size=(48, 36)).save(folder / name)
    return folder / name


class TestCache:
    def test_a_photograph_is_undistorted_once(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = save_photo(tmp_path / "data")
        before = files_of(tmp_path / "data")
        first = np.asarray(undistorted_photo(path, BARREL))
        np.testing.assert_array_equal(first, np.asarray(undistort(open_photo(path), BARREL)))
        assert len(list(cache.iterdir())) == 1

        def fail(*_: object) -> None:
            raise AssertionError

        monkeypatch.setattr("scene.undistortion.undistort", fail)
        np.testing.assert_array_equal(np.asarray(undistorted_photo(path, BARREL)), first)
        assert files_of(tmp_path / "data") == before

    def test_several_runs_at_once_write_one_file(self, tmp_path: Path, cache: Path) -> None:
        path = save_photo(tmp_path / "dätà")
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: np.asarray(undistorted_photo(path, BARREL)), range(8)))
        assert len(list(cache.iterdir())) == 1
        assert all(np.array_equal(pixels, found[0]) for pixels in found)

    def test_it_is_found_by_content_and_camera(self, tmp_path: Path, cache: Path) -> None:
        first = save_photo(tmp_path / "data")
        undistorted_photo(first, BARREL)
        undistorted_photo(save_photo(tmp_path / "copy", "b.png"), BARREL)
        assert len(list(cache.iterdir())) == 1
        other = Lens("SIMPLE_RADIAL", 48, 36, (40.0, 24.0, 18.0, -0.1501))
        undistorted_photo(first, other)
        changed = np.asarray(undistorted_photo(save_photo(tmp_path / "data", seed=5), BARREL))
        assert len(list(cache.iterdir())) == 3
        np.testing.assert_array_equal(changed, np.asarray(undistort(open_photo(first), BARREL)))

    @pytest.mark.parametrize("damage", ["cut", "empty", "size", "gone"])
    def test_a_damaged_entry_is_replaced(self, tmp_path: Path, cache: Path, damage: str) -> None:
        path = save_photo(tmp_path / "data")
        expected = np.asarray(undistorted_photo(path, BARREL))
        (entry,) = cache.iterdir()
        if damage == "gone":
            entry.unlink()
        elif damage == "size":
            random_image(1, size=(9, 9)).save(entry, "PNG")
        else:
            entry.write_bytes(entry.read_bytes()[:300] if damage == "cut" else b"")
        np.testing.assert_array_equal(np.asarray(undistorted_photo(path, BARREL)), expected)

    def test_a_photograph_is_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By all runs together, until it changes."""
        caplog.set_level("INFO")
        path, notes = save_photo(tmp_path / "dätà"), tmp_path / "hashes"
        times = path.stat().st_mtime_ns
        read: list[Path] = []
        whole = hashlib.file_digest
        monkeypatch.setattr(
            "scene.photo_hashes.hashlib.file_digest",
            lambda file, kind: (read.append(path), whole(file, kind))[1],
        )

        def by_another_run() -> str:
            photo_hashes._digest_of.cache_clear()
            return photo_hashes.content_digest(path, notes)

        first = by_another_run()
        assert first == hashlib.sha256(path.read_bytes()).hexdigest()
        assert by_another_run() == first and len(read) == 2  # the file may still be changing
        later = times + 10**10
        (note,) = notes.iterdir()
        os.utime(note, ns=(later, later))
        assert by_another_run() == first and len(read) == 2
        note.write_text(note.read_text()[:-9])
        os.utime(note, ns=(later, later))
        assert by_another_run() == first and len(read) == 3  # a damaged note
        os.utime(note, ns=(later, later))
        changed = path.read_bytes()[:-1] + b"x"
        path.write_bytes(changed)
        os.utime(path, ns=(times, times))  # of the same size and time
        assert by_another_run() == hashlib.sha256(changed).hexdigest()
        (tmp_path / "file").touch()
        notes = tmp_path / "file" / "hashes"
        assert by_another_run() == hashlib.sha256(changed).hexdigest()
        assert "each run reads all photographs to recognise them" in caplog.text

    def test_a_photograph_that_is_deleted_is_noticed(self, tmp_path: Path) -> None:
        path = save_photo(tmp_path / "data")
        undistorted_photo(path, BARREL)
        path.unlink()
        with pytest.raises(InputError, match=r"image a\.png is missing"):
            undistorted_photo(path, BARREL)

    def test_jpegs_stay_jpegs_and_give_the_same_pixels_each_time(
        self, tmp_path: Path, cache: Path
    ) -> None:
        path = tmp_path / "a.jpg"
        distorted_picture(BARREL).save(path, quality=95)
        first = np.asarray(undistorted_photo(path, BARREL))
        (entry,) = cache.iterdir()
        with Image.open(entry) as image:
            assert image.format == "JPEG"
        np.testing.assert_array_equal(np.asarray(undistorted_photo(path, BARREL)), first)
        exact = np.asarray(undistort(open_photo(path), BARREL)).astype(int)
        assert np.abs(first - exact).mean() < 1.5

    def test_a_folder_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("FAST3DGS_CACHE", str(tmp_path / "file"))
        with pytest.raises(InputError, match=r"cannot be written to .*file.*set FAST3DGS_CACHE"):
            undistorted_photo(save_photo(tmp_path / "data"), BARREL)

    def test_its_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert cache_folder().parent.name == "cache"
        monkeypatch.delenv("FAST3DGS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/x")
        assert cache_folder() == Path("/x/fast3dgs/undistorted")


# --- Data sets ------------------------------------------------------------------------------------


def colmap_scene(folder: Path, count: int = 3) -> Path:
    """Photographs of 48x36 pixels with the BARREL lens."""
    return make_colmap(folder, count, model=2, size=(48, 36), params=BARREL.parameters)


class TestDataSets:
    def test_cameras_of_a_distorted_reconstruction(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        folder = colmap_scene(tmp_path / "data")
        args, before = options(folder), files_of(folder)
        info = readSceneInfo(args)
        found, pinhole = info.train_cameras[1], undistorted_camera(BARREL)
        assert found.lens == BARREL
        assert (found.width, found.height) == (pinhole.width, pinhole.height)
        assert fov2focal(found.FovX, found.width) == pytest.approx(40)
        entry = camera_to_JSON(0, found)
        assert (entry["width"], entry["fx"]) == (pinhole.width, pytest.approx(40))
        check_photos(info.train_cameras, args, 1.0)
        cameras = cameraList_from_camInfos(info.train_cameras, 1.0, args)
        expected = np.asarray(undistort(random_image(1, size=(48, 36)), BARREL))
        np.testing.assert_array_equal(cameras[1].image_u8.permute(1, 2, 0), expected)
        assert (cameras[1].image_width, cameras[1].image_height) == pinhole[:2]
        assert caplog.text.count("camera model SIMPLE_RADIAL are undistorted, once, into") == 1
        assert files_of(folder) == before

    def test_scaled_photographs_and_turned_ones(self, tmp_path: Path) -> None:
        folder = colmap_scene(tmp_path / "data", 2)
        random_image(0, size=(96, 72)).save(folder / "images" / "00.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        random_image(1, size=(36, 48)).save(folder / "images" / "01.png", exif=exif)
        args = options(folder)
        cameras = cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args)
        width, height = undistorted_size(BARREL, (96, 72))
        assert (cameras[0].image_width, cameras[0].image_height) == (width, height)
        turned = random_image(1, size=(36, 48)).transpose(Image.Transpose.ROTATE_270)
        expected = np.asarray(undistort(turned, BARREL))
        np.testing.assert_array_equal(cameras[1].image_u8.permute(1, 2, 0), expected)

    def test_another_aspect_ratio_is_refused(self, tmp_path: Path) -> None:
        folder = colmap_scene(tmp_path / "data", 2)
        random_image(0, size=(48, 48)).save(folder / "images" / "01.png")
        args = options(folder)
        with pytest.raises(InputError, match=r"01\.png has 48x48 pixels, but its camera has 48x36"):
            check_photos(readSceneInfo(args).train_cameras, args, 1.0)
        with pytest.raises(InputError, match=r"01\.png has 48x48 pixels, but its camera has 48x36"):
            loadCam(args, 0, readSceneInfo(args).train_cameras[1], 1.0)

    def test_the_newest_models_in_a_binary_file(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path, 1, model=16, params=(30.0, 32.0, 12.0, 8.0, 0.6, 1.1))
        assert readSceneInfo(options(folder)).train_cameras[0].lens == Lens(
            "EUCM", 24, 16, (30.0, 32.0, 12.0, 8.0, 0.6, 1.1)
        )
        content = struct.pack("<QiiQQ2d", 1, 5, 17, 24, 16, 24.0, 16.0)
        (folder / "sparse" / "0" / "cameras.bin").write_bytes(content)
        with pytest.raises(InputError, match="not handled: EQUIRECTANGULAR"):
            readSceneInfo(options(folder))

    @pytest.mark.parametrize(
        ("shared", "lens"),
        [
            (
                {"k1": -0.1, "p2": 0.01, "k3": 0.02, "w": 24, "h": 16, "cx": 11},
                Lens("FULL_OPENCV", 24, 16, (30, 30, 11, 8, -0.1, 0, 0, 0.01, 0.02, 0, 0, 0)),
            ),
            (
                {"is_fisheye": True, "k1": 0.1, "k4": 0.02, "w": 24, "h": 16, "fl_y": 31},
                Lens("OPENCV_FISHEYE", 24, 16, (30, 31, 12, 8, 0.1, 0, 0, 0.02)),
            ),
            (
                {"camera_model": "OPENCV_FISHEYE", "w": 48, "h": 32},
                Lens("OPENCV_FISHEYE", 48, 32, (30, 30, 24, 16, 0, 0, 0, 0)),
            ),
        ],
    )
    def test_transforms_files(self, tmp_path: Path, shared: dict, lens: Lens) -> None:
        args = options(make_transforms(tmp_path / "data", 2, **shared))
        info = readSceneInfo(args)
        found = info.train_cameras[0].lens
        assert found is not None and found.model == lens.model
        assert (found.width, found.height) == (lens.width, lens.height)
        assert found.parameters == pytest.approx(lens.parameters)
        camera = loadCam(args, 0, info.train_cameras[0], 1.0)
        expected = np.asarray(undistort(random_image(0), found))
        np.testing.assert_array_equal(camera.image_u8.permute(1, 2, 0), expected)


def test_masks_are_undistorted_as_their_photographs(tmp_path: Path) -> None:
    folder = colmap_scene(tmp_path / "data", 2)
    mask = np.zeros((36, 48), np.uint8)
    mask[:, 30:] = 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "01.png.png")
    args = options(folder, masks="masks")
    camera = loadCam(args, 0, readSceneInfo(args).train_cameras[1], 1.0)
    whole = np.asarray(undistort(Image.fromarray(mask), BARREL))[..., 0] >= 128
    assert camera.mask_u8 is not None and camera.mask_u8.shape[1:] == camera.image_u8.shape[1:]
    np.testing.assert_array_equal(camera.mask_u8[0].numpy(), whole)
    assert 0 < whole.mean() < 1


def test_depth_maps_of_distorted_photographs_are_refused(tmp_path: Path) -> None:
    args = options(colmap_scene(tmp_path / "data", 2))
    camera = readSceneInfo(args).train_cameras[0]._replace(depth_path="depths/00.png")
    with pytest.raises(InputError, match=r"depths/00\.png: .*00\.png was taken with .*SIMPLE_RAD"):
        loadCam(args, 0, camera, 1.0)
