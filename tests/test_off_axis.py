# SPDX-License-Identifier: Apache-2.0
"""Principal points off the middle: a cropped camera's image is the crop of the full image."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_datasets import make_colmap, options
from PIL import Image

from gaussian_renderer import render
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.camera_loading import cameraList_from_camInfos
from scene.cameras import Camera
from scene.dataset_readers import readSceneInfo
from scene.gaussian_model import GaussianModel
from splat_formats.splats import Splats
from utils import logged_once
from utils.graphics_utils import focal2fov

# Single precision: a pixel's distance to a centre is rounded to 1e-5 pixels.
TOLERANCE = 2e-5
FOCAL = 80.0


def splats(count: int = 300) -> Splats:
    """Gaussians of a pixel or two in front of a camera at the origin, along z."""
    random = np.random.default_rng(3)
    depth = random.uniform(2, 5, (count, 1))
    beside = random.uniform((-0.9, -0.5), (0.9, 0.5), (count, 2)) * depth * 0.8
    return Splats(
        xyz=np.hstack([beside, depth]).astype(np.float32),
        features_dc=random.normal(size=(count, 1, 3)).astype(np.float32),
        features_rest=np.zeros((count, 0, 3), np.float32),
        opacity=random.normal(size=(count, 1)).astype(np.float32),
        scaling=random.normal(-3.3, 0.3, (count, 3)).astype(np.float32),
        rotation=random.normal(size=(count, 4)).astype(np.float32),
    )


def camera(width: int, height: int, cx: float, cy: float) -> Camera:
    return Camera(
        (width, height),
        0,
        np.eye(3),
        np.zeros(3),
        focal2fov(FOCAL, width),
        focal2fov(FOCAL, height),
        None,
        None,
        None,
        "a",
        0,
        image_u8=torch.zeros(3, height, width, dtype=torch.uint8),
        principal_point=(cx / width, cy / height),
    )


@torch.no_grad()
def picture(view: Camera, model: GaussianModel) -> torch.Tensor:
    image = render(view, model, RenderOptions(), torch.zeros(3))["render"]
    backend, black = backend_for(model.device, RenderOptions()), torch.zeros(3)
    drawn = backend.draw(view, model.raw_parameters(), black, model.active_sh_degree)
    torch.testing.assert_close(drawn, image, rtol=0, atol=TOLERANCE)
    return image


# Whole tiles of 16 pixels are cut off: a Gaussian is drawn in all of each tile that it touches.
@pytest.mark.parametrize(
    ("left", "top", "width", "height"),
    [(32, 0, 96, 64), (0, 0, 96, 64), (0, 16, 128, 48), (48, 32, 80, 32)],
)
def test_an_off_axis_view_is_the_crop_of_the_full_one(
    left: int, top: int, width: int, height: int
) -> None:
    model = GaussianModel.from_splats(splats(), device=torch.device("cpu"))
    full = picture(camera(128, 64, 64, 32), model)
    assert (full > 0.1).float().mean() > 0.2
    cropped = picture(camera(width, height, 64 - left, 32 - top), model)
    error = (cropped - full[:, top : top + height, left : left + width]).abs()
    # At single pixels an alpha is so close to 1/255 that only one of the images counts it.
    assert error.mean() < 1e-6
    assert (error > TOLERANCE).float().mean() < 5e-4


@pytest.mark.parametrize("resolution", [1, 2])
def test_photos_cropped_on_one_side_with_a_moved_principal_point(
    tmp_path: Path, resolution: int
) -> None:
    full_folder = make_colmap(
        tmp_path / "full", 3, size=(128, 64), params=(FOCAL, FOCAL, 64.0, 32.0)
    )
    crop_folder = make_colmap(
        tmp_path / "crop", 3, size=(96, 64), params=(FOCAL, FOCAL, 32.0, 32.0)
    )
    for path in sorted((full_folder / "images").iterdir()):
        Image.open(path).crop((32, 0, 128, 64)).save(crop_folder / "images" / path.name)
    model = GaussianModel.from_splats(splats(), device=torch.device("cpu"))
    pairs = []
    for folder in (full_folder, crop_folder):
        args = options(folder, resolution=resolution)
        pairs.append(cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args))
    for full, cropped in zip(*pairs, strict=True):
        cut = 32 // resolution
        if resolution == 1:
            assert torch.equal(cropped.image_u8, full.image_u8[:, :, cut:])
        error = (picture(cropped, model) - picture(full, model)[:, :, cut:]).abs()
        assert error.mean() < 1e-6


def test_the_principal_point_is_logged_and_can_be_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_once, "_logged", set())
    folder = make_colmap(tmp_path, 2, size=(96, 64), params=(FOCAL, FOCAL, 32.0, 30.0))
    caplog.set_level("INFO")
    seen = readSceneInfo(options(folder)).train_cameras[0]
    assert seen.principal_point == (32 / 96, 30 / 64)
    assert "up to 16.0 pixels off the middle" in caplog.text
    assert seen.FovX == pytest.approx(2 * math.atan(96 / 160))
    ignored = readSceneInfo(options(folder, ignore_principal_point=True)).train_cameras[0]
    assert ignored.principal_point == (0.5, 0.5)
