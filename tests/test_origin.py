# SPDX-License-Identifier: Apache-2.0
"""Models and cameras far from 0 give the same images as near 0."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import compress as script
import scene as scene_module
import train
from arguments import ModelOptions, PipelineOptions
from gaussian_compression.model_folder import start_from_file
from gaussian_compression.settings import CompressionSettings
from gaussian_renderer import render
from gaussian_renderer.backend import RenderOptions
from scene import GaussianModel, Scene
from scene.cameras import Camera
from scene.dataset_readers import readSceneInfo
from scene.origin import relative_to
from splat_formats.files import read_splats, write_splats
from splat_formats.scene import NO_ORIGIN, SplatMetadata, SplatScene
from splat_formats.splats import Splats
from tests.test_ply import random_splats
from utils.errors import InputError

UTM = (453_218.0, 5_411_022.5, 131.0)


@pytest.fixture
def near() -> Splats:
    splats = random_splats(150, 0)
    scaling = np.full((150, 3), -2.5, np.float32)
    return replace(splats, xyz=splats.xyz * np.float32(0.5), scaling=scaling)


@pytest.fixture
def far_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set is read with its cameras moved by UTM."""
    moved_back = tuple(-x for x in UTM)

    def read(options: ModelOptions, with_points: bool = True):
        return relative_to(readSceneInfo(options, with_points=False), moved_back)

    monkeypatch.setattr(scene_module, "readSceneInfo", read)


def images(cameras: list[Camera], gaussians: GaussianModel) -> list[torch.Tensor]:
    black = torch.zeros(3, device=gaussians.device)
    with torch.no_grad():
        return [render(view, gaussians, PipelineOptions(), black)["render"] for view in cameras]


def options_for(source: Path, model: Path) -> ModelOptions:
    return ModelOptions(source_path=str(source), model_path=str(model), sh_degree=0)


def test_a_saved_model_far_from_0_renders_as_near_0(
    small_scene: Path, tmp_path: Path, near: Splats, monkeypatch: pytest.MonkeyPatch, far_cameras
) -> None:
    model = GaussianModel.from_splats(near)
    model.metadata = SplatMetadata(origin=UTM)
    ply = tmp_path / "point_cloud/iteration_1/point_cloud.ply"
    model.save_ply(ply)
    far = GaussianModel(0)
    options = options_for(small_scene, tmp_path)
    scene = Scene(options, far, 1, shuffle=False)
    assert far.metadata.origin != NO_ORIGIN
    found = images(scene.getTrainCameras()[:2], far)
    monkeypatch.undo()
    plain = Scene(options, GaussianModel.from_splats(near), shuffle=False)
    expected = images(plain.getTrainCameras()[:2], plain.gaussians)
    assert expected[0].std() > 0.05
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-3
    assert scene.cameras_extent == pytest.approx(plain.cameras_extent, rel=1e-5)


def test_compression_starts_from_it_with_its_cameras(
    small_scene: Path, tmp_path: Path, near: Splats, far_cameras
) -> None:
    write_splats(tmp_path / "far.ply", SplatScene(near, SplatMetadata(True, UTM)))
    start = start_from_file(tmp_path / "far.ply")
    options = script.check_options(options_for(small_scene, tmp_path), start, None)
    assert options.antialiasing
    job = script.build_job(options, PipelineOptions(), start, CompressionSettings())
    assert job.render_options == RenderOptions(
        **{**asdict(PipelineOptions()), "antialiasing": True}
    )
    assert job.identity["origin"] == list(start.metadata.origin)
    centres = torch.stack([view.camera_center for view in job.training_views])
    assert centres.abs().max() < 1000
    job = script.with_metadata(job, "balanced", start.metadata.origin)
    assert job.metadata["origin"] == list(start.metadata.origin)
    assert job.metadata["antialiasing"] is True


def test_training_refuses_a_start_far_from_0(
    small_scene: Path, tmp_path: Path, near: Splats, command_line
) -> None:
    ply = tmp_path / "far.ply"
    write_splats(ply, SplatScene(near, SplatMetadata(origin=UTM)))
    command_line(
        *("-s", small_scene, "-m", tmp_path / "model", "--start_checkpoint", ply),
        *("--iterations", 2, "--sh_degree", 0, "--quiet"),
    )
    with pytest.raises(InputError, match="training needs positions near 0"):
        train.main()


def test_training_with_antialiasing_marks_its_models(small_scene: Path, tmp_path: Path) -> None:
    options = replace(options_for(small_scene, tmp_path), antialiasing=True)
    scene = Scene(options, GaussianModel(0), shuffle=False)
    scene.save(1)
    saved = tmp_path / "point_cloud/iteration_1/point_cloud.ply"
    assert read_splats(saved).metadata.antialiasing
