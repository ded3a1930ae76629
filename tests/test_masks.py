# SPDX-License-Identifier: Apache-2.0
"""Masks beside the photographs: which files, and that excluded pixels count nowhere."""

import logging
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_datasets import make_blender, make_colmap, options
from PIL import Image
from reference.random_splats import random_raw
from reference.random_views import camera

import render
import train
from gaussian_compression.scores import RemovalError, ScoredView, ScoreTools
from gaussian_compression.sensitivity import added_error, render_sensitivity
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import evaluate
from scene.camera_loading import loadCam
from scene.dataset_readers import readSceneInfo
from scene.gaussian_model import GaussianModel
from utils.errors import InputError
from utils.image_utils import load_png

BLACK = torch.zeros(3)
BACKEND = backend_for(BLACK.device, RenderOptions())


def save_mask(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


LEFT = np.repeat(np.array([[255] * 12 + [0] * 12], np.uint8), 16, axis=0)


@pytest.mark.parametrize("name", ["01.png", "01.png.png", "01.PNG"])
def test_masks_are_found_by_the_names_of_their_images(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = make_colmap(tmp_path, count=3)
    save_mask(scene / "masks ä" / name, LEFT)
    loading = options(scene, masks="masks ä")
    views = [loadCam(loading, 0, info, 1.0) for info in readSceneInfo(loading).train_cameras]
    assert [view.mask_u8 is None for view in views] == [True, False, True]
    assert "2 images have no mask in" in caplog.text
    mask = views[1].alpha_mask
    assert mask is not None and mask.shape == (1, 16, 24)
    assert mask[..., :12].all() and not mask[..., 12:].any()
    assert views[0].alpha_mask is None


def test_masks_of_any_common_kind_and_size(tmp_path: Path) -> None:
    scene = make_colmap(tmp_path, count=3)
    large = LEFT.repeat(2, axis=0).repeat(2, axis=1)
    save_mask(scene / "masks/00.png", np.stack([large] * 3, axis=-1))
    save_mask(scene / "masks/01.png", LEFT.astype(np.uint16) * 257)
    Image.fromarray(LEFT).convert("1").save(scene / "masks/02.png")
    loading = options(scene, masks="masks", eval=True)
    info = readSceneInfo(loading)
    for camera_info in (*info.train_cameras, *info.test_cameras):
        mask = loadCam(loading, 0, camera_info, 1.0).mask_u8
        assert mask[..., :12].all() and not mask[..., 12:].any()
    half = loadCam(options(scene, masks="masks", resolution=2), 0, info.test_cameras[0], 1.0)
    assert half.mask_u8.shape == (1, 8, 12) and half.mask_u8[..., :6].all()


def test_masks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    scene = make_colmap(tmp_path, count=2)
    loading = options(scene, masks="masks")
    with pytest.raises(InputError, match=r"--masks: expected masks named .* in .*masks"):
        readSceneInfo(loading)
    for pixels, message in (
        (np.zeros((16, 24), np.uint8), r"00\.png excludes all pixels"),
        (np.full((16, 17), 255, np.uint8), r"00\.png has 17x16 pixels, but its camera has 24x16"),
    ):
        save_mask(scene / "masks/00.png", pixels)
        with pytest.raises(InputError, match=message):
            loadCam(loading, 0, readSceneInfo(loading).train_cameras[0], 1.0)
    (scene / "masks/00.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"00\.png .* cannot be read"):
        loadCam(loading, 0, readSceneInfo(loading).train_cameras[0], 1.0)


def test_masks_are_used_beside_transparency(tmp_path: Path) -> None:
    scene = make_blender(tmp_path)
    save_mask(scene / "masks/r_0.png", LEFT)
    loading = options(scene, masks="masks")
    view = loadCam(loading, 0, readSceneInfo(loading).train_cameras[0], 1.0)
    assert view.opacity_u8 is not None and view.mask_u8 is not None
    assert view.over(torch.ones(3)).mask_u8 is view.mask_u8


def test_excluded_pixels_count_nowhere() -> None:
    """Neither the photograph nor the render there changes a loss, a score or a sensitivity."""
    raw = random_raw(60, 1)
    raw = raw._replace(xyz=0.6 * raw.xyz)
    other = raw._replace(features_dc=raw.features_dc + 0.1)
    pull_back = partial(BACKEND.pull_back, sh_degree=1)
    draw = partial(BACKEND.draw, background=BLACK, sh_degree=1)
    differentiate = partial(BACKEND.differentiate, background=BLACK, sh_degree=1, lambda_dssim=0.2)
    tools = ScoreTools(BACKEND, differentiate, pull_back, BLACK)

    def measured(photograph: int) -> list[float]:
        view = camera()
        view.mask_u8 = torch.ones(1, 37, 45, dtype=torch.uint8)
        view.mask_u8[..., 20:] = 0
        view.image_u8[..., 20:] = photograph
        out = raw.map(torch.empty_like)
        loss = differentiate(view, raw, out).loss
        (score,) = evaluate([view], GaussianModel.from_raw(raw), BACKEND, BLACK)
        sensitivity = render_sensitivity(raw, [view], pull_back, BLACK, 0, lambda: None)
        error = added_error(raw, other, [view], draw, lambda: None)
        removal = RemovalError(tools)
        removal.start(raw)
        removal.add(ScoredView(view, raw, tools, out))
        figures = [loss, out.xyz.sum(), score.psnr, score.l1, sensitivity.psnr, error]
        parts = [sensitivity.per_parameter.xyz.sum(), removal.scores().sum()]
        return [float(figure) for figure in (*figures, *parts)]

    assert measured(0) == measured(255)


def test_a_training_ignores_excluded_pixels(
    small_scene: Path, tmp_path: Path, command_line
) -> None:
    models = []
    for number, shade in enumerate((0, 255)):
        scene = tmp_path / f"scene{number}"
        shutil.copytree(small_scene, scene)
        for path in (scene / "images").iterdir():
            mask = np.full((36, 48), 255, np.uint8)
            mask[:, 30:] = 0
            save_mask(scene / "masks" / f"{path.name}.png", mask)
            pixels = np.array(Image.open(path))
            pixels[:, 30:] = shade
            Image.fromarray(pixels).save(path)
        models.append(tmp_path / f"model{number}")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdout", sys.stdout)
            words = ["-s", scene, "-m", models[-1], "--eval", "--iterations", 5, "--masks", "masks"]
            words += ["--test_iterations", -1, "--disable_viewer", "--quiet"]
            patched.setattr(sys, "argv", ["train.py", *map(str, words)])
            train.main()
    plys = [model / "point_cloud/iteration_5/point_cloud.ply" for model in models]
    assert plys[0].read_bytes() == plys[1].read_bytes()
    command_line("-m", models[1], "--skip_train", "--quiet")
    render.main()
    for kind in ("renders", "gt"):
        image = load_png(models[1] / "test/ours_5" / kind / "00000.png")
        assert not image[..., 30:].any() and image[..., :30].any()
    command_line("-m", models[1], "--skip_train", "--quiet", "--masks", "")
    render.main()
    assert load_png(models[1] / "test/ours_5/gt/00000.png")[..., 30:].all()
