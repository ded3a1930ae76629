# SPDX-License-Identifier: Apache-2.0
"""The file of each photograph, and how its pixels are rotated, scaled and composited."""

import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from made_datasets import HEIGHT, WIDTH, make_blender, make_colmap, names, options, random_image
from PIL import Image

from arguments import OptimizationOptions, PipelineOptions
from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import RenderOptions
from scene import GaussianModel, Scene
from scene.camera_loading import cameraList_from_camInfos, loadCam
from scene.dataset_readers import readSceneInfo
from train import Milestones, Options, Training
from utils.errors import InputError
from utils.photo_files import find_photos
from utils.photos import MOST_MEGAPIXELS, open_photo, photo_size, same_shape

ROOT = Path(__file__).parents[1]
COMPOSED = unicodedata.normalize("NFC", "zürich.jpg")


@pytest.mark.parametrize(
    ("on_disk", "name"),
    [
        ("a.JPG", "a.jpg"),
        ("A.jpg", "a.jpg"),
        ("a.png", "a.jpg"),
        ("a.v1.png", "a.v1.JPEG"),
        ("a", "a.jpg"),
        ("a.jpeg", "a"),
        ("left/a.jpg", "left\\a.jpg"),
        ("left/a.jpg", "./LEFT/a.png"),
        ("left/a.jpg", "C:\\Users\\me\\capture\\images\\left\\a.jpg"),
        ("a.jpg", "D:/capture/images/a.jpg"),
        ("a.jpg", "/home/someone/capture/images/a.jpg"),
        ("a.jpg", "../images/a.jpg"),
        (unicodedata.normalize("NFD", COMPOSED), COMPOSED),
    ],
)
def test_names_that_differ_from_those_on_disk(tmp_path: Path, on_disk: str, name: str) -> None:
    path = tmp_path / on_disk
    path.parent.mkdir(exist_ok=True)
    for file in (path, tmp_path / "other.jpg", tmp_path / "a.json"):
        file.write_bytes(b"")
    assert find_photos(tmp_path, [name, "other.jpg"]) == {
        name: path,
        "other.jpg": tmp_path / "other.jpg",
    }


def test_a_file_serves_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert find_photos(tmp_path, ["a.jpg", "a.png"]) == {"a.jpg": tmp_path / "a.jpg"}
    assert find_photos(tmp_path, ["a.tif", "a.png"]) == {}
    assert find_photos(tmp_path, ["img.001"]) == {}


def test_several_files_that_could_be_meant(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"image a\.tif is missing.*a\.jpg.*a\.png"):
        find_photos(tmp_path, ["a.tif"])


def test_photographs_with_another_ending_are_loaded(tmp_path: Path) -> None:
    folder = make_colmap(tmp_path, 3)
    for path in sorted((folder / "images").iterdir()):
        Image.open(path).save(path.with_suffix(".JPG"), "JPEG")
        path.unlink()
    args = options(folder)
    cameras = cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args)
    assert [camera.image_name for camera in cameras] == ["00.png", "01.png", "02.png"]


def test_frames_of_jpegs_named_without_ending(tmp_path: Path) -> None:
    folder = make_blender(tmp_path)
    for path in sorted((folder / "train").iterdir()):
        Image.open(path).convert("RGB").save(path.with_suffix(""), "JPEG")
        path.unlink()
    assert names(readSceneInfo(options(folder, eval=True)).train_cameras) == ["r_0", "r_1", "r_2"]


class TestMissingPhotographs:
    def test_all_are_named_and_counted(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path, 20)
        for i in range(12):
            (folder / "images" / f"{i:02}.png").unlink()
        with pytest.raises(InputError, match=r"12 of 20 .*00\.png, .*09\.png and 2 more") as error:
            readSceneInfo(options(folder))
        assert "--skip_missing" in str(error.value)

    def test_they_can_be_skipped(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = make_colmap(tmp_path)
        whole = readSceneInfo(options(folder, eval=True))
        for i in (0, 3):
            (folder / "images" / f"{i:02}.png").unlink()
        scene = readSceneInfo(options(folder, eval=True, skip_missing=True))
        assert "2 of 10 photographs are missing" in caplog.text
        # The split and the extent are those of the whole data set.
        assert names(scene.test_cameras) == ["08.png"]
        assert names(scene.train_cameras) == [f"{i:02}.png" for i in (1, 2, 4, 5, 6, 7, 9)]
        radius = scene.nerf_normalization["radius"]
        assert radius == whole.nerf_normalization["radius"]

    def test_frames_of_transforms(self, tmp_path: Path) -> None:
        folder = make_blender(tmp_path)
        (folder / "train" / "r_1.png").unlink()
        with pytest.raises(InputError, match=r"1 of 5 photographs are missing .*train/r_1"):
            readSceneInfo(options(folder))
        assert len(readSceneInfo(options(folder, skip_missing=True)).train_cameras) == 4

    def test_photographs_that_are_not_undistorted_yet(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        (folder / "images").rename(folder / "input")
        with pytest.raises(InputError, match=r"10 of 10 .*input holds .*convert\.py -s"):
            readSceneInfo(options(folder, skip_missing=True))

    def test_another_folder_of_images_is_proposed(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path)
        (folder / "images").rename(folder / "images_4")
        with pytest.raises(InputError, match="choose another folder with -i, such as images_4"):
            readSceneInfo(options(folder))

    def test_nothing_is_written_before_that(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path / "data")
        (folder / "images" / "04.png").write_bytes(b"no image")
        args = options(folder, model_path=str(tmp_path / "model"))
        with pytest.raises(InputError, match=r"image 04\.png .* cannot be read"):
            Scene(args, GaussianModel(0))
        assert not (tmp_path / "model").exists()


def save_turned(path: Path, image: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


class TestRotationsAndShapes:
    @pytest.mark.parametrize("orientation", [5, 6, 7, 8])
    def test_a_rotation_that_gives_the_camera_s_shape(
        self, tmp_path: Path, orientation: int
    ) -> None:
        args = options(make_colmap(tmp_path, 1))
        stored = random_image(0, size=(HEIGHT, WIDTH))
        save_turned(tmp_path / "images" / "00.png", stored, orientation)
        camera = loadCam(args, 0, readSceneInfo(args).train_cameras[0], 1.0)
        assert (camera.image_width, camera.image_height) == (WIDTH, HEIGHT)
        turns = {
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }
        expected = np.asarray(stored.transpose(turns[orientation]))
        np.testing.assert_array_equal(camera.image_u8.permute(1, 2, 0), expected)

    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_pixels_whose_shape_fits_stay(self, tmp_path: Path, orientation: int) -> None:
        """COLMAP finds poses for the pixels as stored, and its undistorter copies the tag."""
        save_turned(tmp_path / "a.png", random_image(0), orientation)
        pixels = open_photo(tmp_path / "a.png", (2 * WIDTH, 2 * HEIGHT))
        np.testing.assert_array_equal(np.asarray(pixels), np.asarray(random_image(0)))
        assert photo_size(tmp_path / "a.png", (2 * WIDTH, 2 * HEIGHT)) == (WIDTH, HEIGHT)

    @pytest.mark.parametrize("size", [(HEIGHT, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT // 2)])
    def test_another_aspect_ratio_is_refused(self, tmp_path: Path, size: tuple[int, int]) -> None:
        args = options(make_colmap(tmp_path, 2), model_path=str(tmp_path / "model"))
        random_image(0, size=size).save(tmp_path / "images" / "01.png")
        pixels = rf"01\.png has {size[0]}x{size[1]} pixels, but its camera has {WIDTH}x{HEIGHT}"
        with pytest.raises(InputError, match=pixels):
            Scene(args, GaussianModel(0))
        with pytest.raises(InputError, match=pixels):
            loadCam(args, 0, readSceneInfo(args).train_cameras[1], 1.0)

    @pytest.mark.parametrize(
        ("size", "camera", "same"),
        [
            ((1237, 822), (4946, 3286), True),  # images_4 of Mip-NeRF 360's garden
            ((1236, 821), (4946, 3286), True),
            ((1297, 840), (5187, 3361), True),
            ((640, 480), (320, 240), True),
            ((319, 240), (320, 240), True),
            ((240, 240), (320, 240), False),
            ((240, 320), (320, 240), False),
            ((316, 240), (320, 240), False),
            ((1237, 815), (4946, 3286), False),
        ],
    )
    def test_rounding_to_pixels_is_no_other_shape(
        self, size: tuple[int, int], camera: tuple[int, int], same: bool
    ) -> None:
        assert same_shape(size, camera) is same


class TestHugePhotographs:
    def test_120_megapixels(self, tmp_path: Path) -> None:
        Image.new("1", (12_000, 10_000)).save(tmp_path / "a.png")
        assert photo_size(tmp_path / "a.png") == (12_000, 10_000)

    @pytest.mark.parametrize("side", [24_000, 60_000])
    def test_absurd_sizes(self, tmp_path: Path, side: int) -> None:
        # A header alone: Pillow decides by it.
        header = f"P4 {side} {side}\n".encode()
        (tmp_path / "a.ppm").write_bytes(header)
        # In a process of its own: here pytest makes errors of all warnings.
        code = "import sys; from utils.photos import photo_size; photo_size(sys.argv[1])"
        command = [sys.executable, "-c", code, str(tmp_path / "a.ppm")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        last = done.stderr.splitlines()[-1]
        assert last.endswith(f"a.ppm in {tmp_path} has more than {MOST_MEGAPIXELS} megapixels")


class TestTransparentPhotographs:
    def test_they_can_be_put_over_any_colour(self, tmp_path: Path) -> None:
        args = options(make_blender(tmp_path), white_background=True)
        camera = loadCam(args, 0, readSceneInfo(args).train_cameras[0], 1.0)
        colour = torch.tensor([0.2, 0.9, 0.5])
        rgba = torch.from_numpy(np.array(random_image(0, "RGBA"))).permute(2, 0, 1) / 255.0
        expected = rgba[:3] * rgba[3:] + colour.view(3, 1, 1) * (1 - rgba[3:])
        over = camera.over(colour)
        torch.testing.assert_close(over.original_image, expected, rtol=0, atol=1.01 / 255)
        assert torch.equal(over.full_proj_transform, camera.full_proj_transform)
        white = rgba[:3] * rgba[3:] + 1 - rgba[3:]
        torch.testing.assert_close(camera.original_image, white, rtol=0, atol=0.51 / 255)

    def test_opaque_photographs_stay(self, tmp_path: Path) -> None:
        args = options(make_colmap(tmp_path, 1))
        camera = loadCam(args, 0, readSceneInfo(args).train_cameras[0], 1.0)
        assert camera.opacity_u8 is None and camera.over(torch.rand(3)) is camera

    def test_training_draws_one_colour_for_photograph_and_render(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_blender(tmp_path / "data")
        for path in folder.glob("*/*.png"):
            Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)).save(path)
        args = options(folder, model_path=str(tmp_path / "model"))
        optimization = OptimizationOptions(random_background=True, iterations=1)
        scene = Scene(args, GaussianModel(0))
        scene.gaussians.training_setup(optimization)
        none: frozenset[int] = frozenset()
        run = Training(
            Options(args, optimization, PipelineOptions()),
            Milestones(none, none, none, -1),
            scene,
            AutogradBackend(RenderOptions()),
        )
        drawn = []

        def record(camera, background, depth_weight):
            drawn.append((camera, background))
            raise KeyboardInterrupt

        monkeypatch.setattr(run, "gradient_step", record)
        with pytest.raises(KeyboardInterrupt):
            run.run()
        ((camera, background),) = drawn
        expected = background.view(3, 1, 1).expand(3, HEIGHT, WIDTH)
        torch.testing.assert_close(camera.original_image, expected, rtol=0, atol=0.51 / 255)
