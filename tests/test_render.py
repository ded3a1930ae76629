# SPDX-License-Identifier: Apache-2.0
"""render.py and the evaluation loop on a tiny model folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import render as script
import train
from arguments import ModelOptions, read_cfg_args
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import evaluate
from scene import LATEST, GaussianModel, Scene
from scene.raw_parameters import RawParameters
from splat_formats.ply import read_ply
from utils.errors import InputError
from utils.image_metrics import score_images

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture
def model(small_scene: Path, tmp_path: Path, command_line) -> Path:
    folder = tmp_path / "model"
    command_line(
        *("-s", small_scene, "-m", folder, "--eval", "-r", 2),
        *("--iterations", 9, "--save_iterations", 5, "--test_iterations", -1, "--quiet"),
    )
    train.main()
    return folder


def pngs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def read_png(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def test_views_are_written_in_camera_order_beside_their_photographs(
    model: Path, command_line
) -> None:
    command_line("-m", model)
    script.main()
    expected = [f"test/ours_9/{kind}/0000{i}.png" for kind in ("gt", "renders") for i in (0, 1)]
    expected += [f"train/ours_9/{kind}/0000{i}.png" for kind in ("gt", "renders") for i in range(8)]
    assert pngs(model) == expected
    scene = Scene(options_of(model), GaussianModel(3), LATEST, shuffle=False)
    for name, cameras in (("test", scene.getTestCameras()), ("train", scene.getTrainCameras())):
        for index, camera in enumerate(cameras):
            path = model / name / "ours_9" / "gt" / f"{index:05d}.png"
            assert torch.equal(read_png(path), camera.image_u8.cpu())


def options_of(model: Path) -> ModelOptions:
    return ModelOptions(**read_cfg_args(model))


def test_evaluation_equals_scoring_the_saved_images(model: Path, command_line) -> None:
    command_line("-m", model, "--skip_train")
    script.main()
    gaussians = GaussianModel(3)
    scene = Scene(options_of(model), gaussians, LATEST, shuffle=False)
    black = torch.zeros(3, device=gaussians.device)
    scores = evaluate(
        scene.getTestCameras(), gaussians, backend_for(black.device, RenderOptions()), black
    )
    folder = model / "test" / "ours_9"
    for index, score in enumerate(scores):
        render, truth = (read_png(folder / k / f"{index:05d}.png") for k in ("renders", "gt"))
        assert (score.psnr, score.ssim) == score_images(render, truth)
        difference = (render.double() - truth.double()).abs().mean().item() / 255
        assert score.l1 == pytest.approx(difference, rel=1e-5)
    assert [score.image_name for score in scores] == ["view_000.png", "view_008.png"]


def test_splits_can_be_skipped_and_iterations_chosen(
    model: Path, command_line, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    render = script.render
    monkeypatch.setattr(
        script, "render", lambda view, *a, **b: (drawn.append(view), render(view, *a, **b))[1]
    )
    command_line("-m", model, "--iteration", 5, "--skip_test")
    script.main()
    assert len(drawn) == 8  # each view once: a CPU has nothing to warm up
    assert {path.split("/renders")[0].split("/gt")[0] for path in pngs(model)} == {"train/ours_5"}


def test_command_line_overrides_cfg_args(model: Path, command_line) -> None:
    command_line("-m", model, "--skip_train", "-r", 4, "-w")
    script.main()
    assert read_png(model / "test" / "ours_9" / "gt" / "00000.png").shape == (3, 9, 12)


def test_a_model_trained_with_antialiasing_is_rendered_with_it(model: Path, command_line) -> None:
    def rendered(*options: str) -> torch.Tensor:
        command_line("-m", model, "--skip_train", *options)
        script.main()
        return read_png(model / "test" / "ours_9" / "renders" / "00000.png")

    without, repeated = rendered(), rendered("--antialiasing")
    cfg_args = (model / "cfg_args").read_text()
    (model / "cfg_args").write_text(cfg_args.replace("antialiasing=False", "antialiasing=True"))
    assert not torch.equal(without, repeated)
    assert torch.equal(rendered(), repeated)


def test_model_folder_must_be_given(command_line, capsys) -> None:
    command_line("--skip_train")
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2
    assert "-m/--model_path is required" in capsys.readouterr().err


def test_a_model_without_cfg_args_needs_the_dataset_only(
    model: Path, small_scene: Path, command_line
) -> None:
    command_line("-m", model / "other")
    with pytest.raises(InputError, match="other: there is no such folder"):
        script.main()
    (model / "cfg_args").unlink()
    command_line("-m", model)
    with pytest.raises(InputError, match=r"cfg_args not found: give .* -s/--source_path"):
        script.main()
    command_line("-m", model, "-s", small_scene, "--eval", "--skip_train")
    script.main()
    assert len(pngs(model)) == 4
    (model / "cfg_args").write_text("Namespace(sh_degree=3)")
    command_line("-m", model)
    with pytest.raises(InputError, match="-s/--source_path is required"):
        script.main()


def test_the_degree_is_the_models_and_not_the_recorded_one(
    model: Path, command_line, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg_args = (model / "cfg_args").read_text()
    (model / "cfg_args").write_text(cfg_args.replace("sh_degree=3", "sh_degree=1"))
    command_line("-m", model, "--skip_train")
    script.main()
    assert len(pngs(model)) == 4
    monkeypatch.delattr(Scene, "_load_photos")  # what cannot be rendered is found before
    command_line("-m", model, "--sh_degree", 2)
    with pytest.raises(InputError, match=r"--sh_degree 2: .*point_cloud\.ply .* of degree 3"):
        script.main()
    (model / "point_cloud" / "iteration_9" / "point_cloud.ply").write_bytes(b"ply")
    command_line("-m", model)
    with pytest.raises(InputError, match=r"point_cloud\.ply"):
        script.main()


@pytest.mark.parametrize(
    ("words", "message"), [(("-r", 0), "--resolution 0"), ((), "--sh_degree 9")]
)
def test_bad_values_are_refused_from_any_source(
    model: Path, command_line, words: tuple, message: str
) -> None:
    cfg_args = (model / "cfg_args").read_text()
    if not words:
        (model / "cfg_args").write_text(cfg_args.replace("sh_degree=3", "sh_degree=9"))
    command_line("-m", model, *words)
    with pytest.raises(InputError, match=f"{message}: expected"):
        script.main()


def test_missing_iteration_is_named(model: Path, command_line) -> None:
    command_line("-m", model, "--iteration", 7)
    with pytest.raises(InputError, match=r"no iteration 7 .*iteration_7"):
        script.main()


def test_nothing_to_render_is_an_error(model: Path, command_line) -> None:
    cfg_args = (model / "cfg_args").read_text()
    (model / "cfg_args").write_text(cfg_args.replace("eval=True", "eval=False"))
    command_line("-m", model, "--skip_train")
    with pytest.raises(InputError, match="no views to render in test: --eval"):
        script.main()
    command_line("-m", model, "--skip_train", "--skip_test")
    with pytest.raises(InputError, match="no views to render: --skip_train"):
        script.main()


def test_python_paths_give_the_same_images(model: Path, command_line) -> None:
    images = []
    for option in ([], ["--convert_SHs_python"], ["--compute_cov3D_python"]):
        command_line("-m", model, "--skip_train", *option)
        script.main()
        images.append(read_png(model / "test" / "ours_9" / "renders" / "00001.png").int())
    assert images[0].float().std() > 10
    for image in images[1:]:
        assert (image - images[0]).abs().max() <= 1


def test_scene_does_not_change_a_given_model_or_its_folder(
    small_scene: Path, tmp_path: Path
) -> None:
    raw = RawParameters(
        xyz=torch.zeros(5, 3),
        features_dc=torch.zeros(5, 1, 3),
        features_rest=torch.zeros(5, 0, 3),
        opacity=torch.zeros(5, 1),
        scaling=torch.zeros(5, 3),
        rotation=torch.ones(5, 4),
    )
    options = ModelOptions(source_path=str(small_scene), model_path=str(tmp_path), eval=True)
    gaussians = GaussianModel.from_splats(raw.to_splats())
    scene = Scene(options, gaussians, shuffle=False)
    assert gaussians.get_xyz.shape == (5, 3)
    assert len(scene.getTrainCameras()) == 8
    assert not list(tmp_path.iterdir())


def test_scene_without_shuffle_keeps_the_order_of_names(small_scene: Path, tmp_path: Path) -> None:
    options = ModelOptions(source_path=str(small_scene), model_path=str(tmp_path))
    scene = Scene(options, GaussianModel(0), shuffle=False, resolution_scales=[1.0, 2.0])
    names = [camera.image_name for camera in scene.getTrainCameras()]
    assert names == [f"view_{i:03d}.png" for i in range(10)]
    assert scene.getTrainCameras(2.0)[0].image_u8.shape == (3, 18, 24)
    assert scene.getTestCameras() == []


@pytest.mark.data
def test_real_model_has_its_published_scores() -> None:
    """fox_model: 32.06 dB on its test views, measured on floats; 8-bit renders cost a little."""
    if not SHARED_DATA.exists():
        pytest.skip(f"no real captures in {SHARED_DATA}")
    folder = SHARED_DATA / "fox_model"
    options = ModelOptions(
        source_path=str(SHARED_DATA / "fox"), resolution=2, eval=True, model_path=str(folder)
    )
    ply = next(folder.rglob("point_cloud.ply"))
    gaussians = GaussianModel.from_splats(read_ply(ply))
    scene = Scene(options, gaussians, shuffle=False)
    black = torch.zeros(3, device=gaussians.device)
    scores = evaluate(
        scene.getTestCameras(), gaussians, backend_for(black.device, RenderOptions()), black
    )
    assert np.mean([score.psnr for score in scores]) == pytest.approx(32.06, abs=0.05)
