# SPDX-License-Identifier: Apache-2.0
"""Exposure compensation: its arithmetic, training, checkpoints, renders and compression."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reference.random_splats import random_raw
from reference.random_views import camera
from torch import Tensor

import compress
import metrics
import render
import train
from arguments import OptimizationOptions
from gaussian_compression.report import read_report, report_path
from gaussian_compression.sensitivity import render_sensitivity
from gaussian_renderer import render as draw
from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import Backend, RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene import Scene
from scene.cameras import Camera
from scene.checkpoint import LoopState, load_checkpoint, save_checkpoint
from scene.exposure import exposed, read_exposures, write_exposures
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters
from splat_formats.ply import read_ply
from utils.errors import InputError
from utils.image_metrics import score_images
from utils.image_utils import load_png

CPU = torch.device("cpu")
WHITE = torch.ones(3)
BOTH = [AutogradBackend(RenderOptions()), backend_for(CPU, RenderOptions())]
MATRIX = torch.tensor([[0.8, 0.1, 0.0, 0.05], [0.0, 1.3, -0.1, -0.1], [0.2, 0.0, 0.9, 0.0]])
HALF = 48 // 2


def some_gaussians() -> RawParameters:
    raw = random_raw(150, 1)
    return raw._replace(xyz=0.6 * raw.xyz, scaling=0.4 * raw.scaling)


def adjusted_camera(exposure: Tensor | None = MATRIX, masked: bool = True) -> Camera:
    view = camera()
    view.exposure = exposure
    if masked:
        view.mask_u8 = torch.ones(1, view.image_height, view.image_width, dtype=torch.uint8)
        view.mask_u8[..., 20:] = 0
    return view


def test_a_row_of_colours_is_multiplied_from_the_left() -> None:
    image = torch.rand(3, 4, 5)
    expected = image.permute(1, 2, 0) @ MATRIX[:, :3] + MATRIX[:, 3]
    torch.testing.assert_close(exposed(image, MATRIX), expected.permute(2, 0, 1))


@pytest.mark.parametrize("backend", BOTH)
def test_an_image_is_exposed_before_it_is_limited(backend: Backend) -> None:
    raw, view = some_gaussians(), camera()
    bright = raw._replace(features_dc=raw.features_dc + 3)
    plain = backend.draw(view, bright, WHITE, 1).clone()
    assert (plain == 1).float().mean() > 0.5
    darker = torch.eye(3, 4) * 0.5
    view.exposure = darker
    shown = backend.draw(view, bright, WHITE, 1)
    assert shown.max() > 0.6  # 0.5 at most, if colours were limited before
    nothing = raw.rows(torch.zeros(150, dtype=torch.bool))
    assert (backend.draw(view, nothing, 2 * WHITE, 1) == 1).all()


@pytest.mark.parametrize("exposure", [MATRIX, None])
def test_both_backends_agree_and_ignore_excluded_pixels(exposure: Tensor | None) -> None:
    raw, found = some_gaussians(), []
    view = adjusted_camera(exposure)
    for backend in BOTH:
        out = raw.map(torch.empty_like)
        found.append((backend.differentiate(view, raw, out, WHITE, 1, 0.2), out))
    (slow, a), (fast, b) = found
    assert float(fast.loss) == pytest.approx(float(slow.loss), rel=1e-5)
    torch.testing.assert_close(fast.image, slow.image, rtol=0, atol=1e-6)
    for one, other in zip(a, b, strict=True):
        assert (one - other).norm() <= 3e-4 * one.norm()
    if exposure is None:
        assert fast.exposure_gradient is None
    else:
        torch.testing.assert_close(
            fast.exposure_gradient, slow.exposure_gradient, rtol=1e-3, atol=1e-6
        )
    view.image_u8[..., 20:] = 0
    again = BOTH[1].differentiate(view, raw, raw.map(torch.empty_like), WHITE, 1, 0.2)
    assert float(again.loss) == float(fast.loss)


def test_gradients_of_an_exposure_are_slopes() -> None:
    raw, out = some_gaussians(), some_gaussians().map(torch.empty_like)

    def loss(matrix: Tensor) -> float:
        view = adjusted_camera(matrix, masked=False)
        return float(BOTH[1].differentiate(view, raw, out, WHITE, 1, 0.0).loss)

    view = adjusted_camera(masked=False)
    gradient = BOTH[1].differentiate(view, raw, out, WHITE, 1, 0.0).exposure_gradient
    assert gradient is not None
    for row, column in ((0, 0), (1, 2), (2, 3)):
        step = torch.zeros(3, 4)
        step[row, column] = 1e-3
        slope = (loss(MATRIX + step) - loss(MATRIX - step)) / 2e-3
        assert slope == pytest.approx(float(gradient[row, column]), rel=0.05, abs=1e-4)


def test_pull_back_goes_through_the_exposure() -> None:
    raw, weights = some_gaussians(), torch.randn(3, 37, 45)
    images, gradients = [], []
    for backend in BOTH:
        gradients.append(raw.map(torch.empty_like))
        view = adjusted_camera()
        images.append(backend.pull_back(view, weights, raw, gradients[-1], WHITE, 1).clone())
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(images[0], BOTH[0].draw(adjusted_camera(), raw, WHITE, 1))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 3e-4 * one.norm()


def test_sensitivities_are_those_of_the_exposed_image() -> None:
    """An exposure of 1/2 for a photograph of half the brightness leaves the relative errors."""
    raw, backend = some_gaussians(), BOTH[1]
    raw = raw._replace(features_dc=0.1 * raw.features_dc)

    def pull_back(view: Camera, weights: Tensor, raw: RawParameters, out: RawParameters,
                  background: Tensor) -> Tensor:  # fmt: skip
        return backend.pull_back(view, weights, raw, out, background, 1)

    found = []
    for factor in (1, 2):
        view = camera()
        view.image_u8 = view.image_u8 // 2 * 2 // factor
        if factor == 2:
            view.exposure = torch.eye(3, 4) / 2
        found.append(render_sensitivity(raw, [view], pull_back, torch.zeros(3), 0, lambda: None))
    assert found[1].psnr == pytest.approx(found[0].psnr + 20 * np.log10(2), abs=1e-3)
    for name in ("xyz", "opacity", "features_dc"):
        one, other = (getattr(sensitivity.per_parameter, name) for sensitivity in found)
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-9)


def test_exposures_are_stored_by_name_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "exposure.json"
    write_exposures(path, {"ä b.png": MATRIX})
    torch.testing.assert_close(read_exposures(path)["ä b.png"], MATRIX)
    assert path.read_text().startswith('{\n  "')
    with pytest.raises(InputError, match="not finite any more: training has diverged"):
        write_exposures(path, {"a.png": MATRIX / 0})
    assert "\\u00e4 b.png" in path.read_text()
    for text, message in {
        "": "not a JSON file",
        "[]": "expected exposures by image name, got list",
        '{"a.png": [[1, 0, 0]]}': r"exposure of a\.png: expected 3 rows of 4",
        '{"a.png": null}': r"exposure of a\.png: expected 3 rows of 4",
        '{"a.png": [[1, 0, 0, NaN], [0, 1, 0, 0], [0, 0, 1, 0]]}': "expected 3 rows of 4 finite",
        '{"a.png": [[1, 0, 0, 1e999], [0, 1, 0, 0], [0, 0, 1, 0]]}': "expected 3 rows of 4",
        '{"a.png": [[1, 0, 0, 0], [0, 1], [0, 0, 1, 0]]}': "expected 3 rows of 4",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=rf"exposure\.json.*{message}"):
            read_exposures(path)
    path.unlink()
    with pytest.raises(InputError, match=r"exposure\.json not found: .*--train_test_exp"):
        read_exposures(path)


def a_model(names: str) -> GaussianModel:
    model = GaussianModel(1, device="cpu")
    model._set_parameters(random_raw(5, 1))
    model._set_images(list(names))
    model.training_setup(OptimizationOptions())
    return model


def step(model: GaussianModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.update_learning_rate(seed)
    model.get_exposure.grad = torch.randn(model.get_exposure.shape, generator=generator)
    model.step_exposures()


def test_a_checkpoint_holds_exposures_and_their_moments(tmp_path: Path) -> None:
    model, path = a_model("abc"), tmp_path / "chkpnt2.pth"
    save_checkpoint(path, model, 2, LoopState.capture(()))
    assert torch.equal(load_checkpoint(path).model[10]["exposures"]["matrices"], model._exposure)
    for seed in (1, 2):
        step(model, seed)
    save_checkpoint(path, model, 2, LoopState.capture(()))
    same, other, empty = a_model("abc"), a_model("dcb"), GaussianModel(1, device="cpu")
    for copy in (same, other, empty):
        copy.restore(load_checkpoint(path).model, OptimizationOptions())
    assert torch.equal(same.get_exposure, model.get_exposure)
    assert torch.equal(empty.get_exposure_from_name("b"), model.get_exposure_from_name("b"))
    assert torch.equal(other.get_exposure_from_name("b"), model.get_exposure_from_name("b"))
    assert torch.equal(other.get_exposure_from_name("d"), torch.eye(3, 4))
    for each in (model, same):
        step(each, 3)
    assert torch.equal(same.get_exposure, model.get_exposure)
    values = list(model.capture())
    values[10]["exposures"]["matrices"] = torch.zeros(2, 3, 4)
    torch.save((tuple(values), 2), path)
    with pytest.raises(InputError, match="not a usable checkpoint: expected exposures"):
        load_checkpoint(path)


def test_exposures_are_trained_by_adam() -> None:
    model, generator = a_model("ab"), torch.Generator().manual_seed(0)
    twin = torch.nn.Parameter(model.get_exposure.detach().clone())
    adam = torch.optim.Adam([twin])
    for iteration in range(1, 5):
        model.update_learning_rate(iteration)
        assert model.exposure_optimizer is not None
        adam.param_groups[0]["lr"] = model.exposure_optimizer.param_groups[0]["lr"]
        if iteration == 3:
            model.step_exposures()  # nothing changes without a gradient
        else:
            twin.grad = torch.randn(twin.shape, generator=generator)
            model.get_exposure.grad = twin.grad.clone()
            model.step_exposures()
            adam.step()
    torch.testing.assert_close(model.get_exposure, twin, rtol=1e-6, atol=1e-6)
    state, expected = (o.state_dict()["state"][0] for o in (model.exposure_optimizer, adam))
    for name in ("step", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[name], expected[name], rtol=1e-6, atol=1e-7)


def test_rates_of_exposures_follow_their_schedule() -> None:
    model = a_model("a")
    options = OptimizationOptions(
        iterations=100, exposure_lr_delay_steps=50, exposure_lr_delay_mult=0.1
    )
    model.training_setup(options)
    assert model.exposure_optimizer is not None

    def rate(iteration: int) -> float:
        model.update_learning_rate(iteration)
        assert model.exposure_optimizer is not None
        return model.exposure_optimizer.param_groups[0]["lr"]

    assert rate(0) == pytest.approx(0.01 * 0.1)
    assert rate(50) == pytest.approx(0.01 * 0.1**0.5)
    assert rate(100) == pytest.approx(0.001)


# --- Whole runs -----------------------------------------------------------------------------------


def is_dark(name: str) -> bool:
    return int(name[5:8]) % 2 == 0


@pytest.fixture(scope="module")
def uneven_scene(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scene, every second photograph of half the brightness."""
    folder = tmp_path_factory.mktemp("uneven") / "scene"
    shutil.copytree(small_scene, folder)
    for path in (folder / "images").iterdir():
        if is_dark(path.name):
            Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    return folder


RATES = ("--exposure_lr_init", 0.05, "--exposure_lr_final", 0.02)


def trained(scene: Path, folder: Path, *words: object) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", sys.stdout)
        argv = ["-s", scene, "-m", folder, "--eval", "--disable_viewer", *words]
        patched.setattr(sys, "argv", ["train.py", *map(str, argv)])
        train.main()
    return folder


@pytest.fixture(scope="module")
def model(uneven_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exposed") / "model"
    return trained(
        *(uneven_scene, folder, "--train_test_exp", *RATES, "--iterations", 60),
        *("--checkpoint_iterations", 30, "--test_iterations", 60, "--quiet"),
    )


def test_dark_photographs_get_dark_exposures(model: Path) -> None:
    exposures = read_exposures(model / "exposure.json")
    assert len(exposures) == 10
    sums = {name: float(matrix[:, :3].trace()) for name, matrix in exposures.items()}
    dark = [value for name, value in sums.items() if is_dark(name)]
    bright = [value for name, value in sums.items() if not is_dark(name)]
    assert np.mean(dark) < np.mean(bright) - 0.3


def test_a_resumed_training_ends_with_the_same_exposures(
    model: Path, uneven_scene: Path, tmp_path: Path
) -> None:
    resumed = trained(
        *(uneven_scene, tmp_path / "resumed", "--train_test_exp", *RATES, "--iterations", 60),
        *("--start_checkpoint", model / "chkpnt30.pth", "--test_iterations", -1, "--quiet"),
    )
    for name in ("exposure.json", "point_cloud/iteration_60/point_cloud.ply"):
        assert (resumed / name).read_bytes() == (model / name).read_bytes(), name


def test_without_the_option_exposures_are_written_and_change_nothing(
    small_scene: Path, tmp_path: Path
) -> None:
    words = ("--iterations", 3, "--test_iterations", -1, "--quiet")
    folder = trained(small_scene, tmp_path / "model", *words)
    stored = json.loads((folder / "exposure.json").read_text())
    assert sorted(stored) == [f"view_{i:03d}.png" for i in range(10) if i % 8]
    assert all(matrix == np.eye(3, 4).tolist() for matrix in stored.values())


def test_the_right_halves_of_test_images_train_nothing(uneven_scene: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(uneven_scene, changed)
    for name in ("view_000.png", "view_008.png"):
        pixels = np.array(Image.open(changed / "images" / name))
        pixels[:, HALF:] = 255 - pixels[:, HALF:]
        Image.fromarray(pixels).save(changed / "images" / name)
    words = ("--train_test_exp", "--iterations", 12, "--test_iterations", -1, "--quiet")
    one = trained(uneven_scene, tmp_path / "one", *words)
    other = trained(changed, tmp_path / "other", *words)
    ply = "point_cloud/iteration_12/point_cloud.ply"
    assert (one / ply).read_bytes() == (other / ply).read_bytes()
    assert (one / "exposure.json").read_bytes() == (other / "exposure.json").read_bytes()


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "model"


def test_the_saved_and_measured_images_are_exposed_right_halves(
    copied: Path, uneven_scene: Path, command_line, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_line("-m", copied)
    render.main()
    assert len(list((copied / "train" / "ours_60" / "renders").iterdir())) == 10
    folder = copied / "test" / "ours_60"
    photograph = load_png(uneven_scene / "images" / "view_008.png")
    assert torch.equal(load_png(folder / "gt" / "00001.png"), photograph[..., HALF:])
    monkeypatch.setattr(metrics, "load_lpips", lambda options: None)
    command_line("-m", copied)
    metrics.main()
    exposed_psnr = json.loads((copied / "results.json").read_text())["ours_60"]["PSNR"]
    (copied / "exposure.json").write_text(
        json.dumps({name: np.eye(3, 4).tolist() for name in read_exposures(model_file(copied))})
    )
    command_line("-m", copied, "--skip_train")
    render.main()
    command_line("-m", copied)
    metrics.main()
    plain_psnr = json.loads((copied / "results.json").read_text())["ours_60"]["PSNR"]
    assert exposed_psnr > plain_psnr + 1


def model_file(folder: Path) -> Path:
    return folder / "exposure.json"


def test_an_image_without_an_exposure_is_named(copied: Path, command_line) -> None:
    exposures = json.loads(model_file(copied).read_text())
    del exposures["view_008.png"]
    model_file(copied).write_text(json.dumps(exposures))
    command_line("-m", copied)
    with pytest.raises(InputError, match=r"no exposure of the image view_008\.png"):
        render.main()
    model_file(copied).unlink()
    with pytest.raises(InputError, match=r"exposure\.json not found"):
        render.main()


SHORT = (
    *("--warmup_iterations", 1, "--finetune_iterations", 1, "--max_psnr_drop", 100),
    *("--max_rounds", 1, "--final_iterations", 1),
)


@pytest.fixture
def run_compress(uneven_scene: Path, command_line) -> Callable[..., None]:
    def run(*words: object) -> None:
        command_line("-s", uneven_scene, *words, *SHORT)
        compress.main()

    return run


def test_compression_compares_exposed_colours(
    copied: Path, run_compress: Callable[..., None], tmp_path: Path, command_line
) -> None:
    command_line("-m", copied, "--skip_train", "--quiet")
    render.main()
    saved = copied / "test" / "ours_60"
    expected = np.mean([
        score_images(*(load_png(saved / kind / f"0000{i}.png") for kind in ("renders", "gt")))[0]
        for i in (0, 1)
    ])  # fmt: skip
    out = tmp_path / "compressed"
    with pytest.raises(InputError, match=r"compressed/exposure\.json holds other exposures"):
        (out / "point_cloud").mkdir(parents=True)
        model_file(out).write_text("{}")
        run_compress("-m", out, "--pretrained_dir", copied, "--eval", "--train_test_exp")
    model_file(out).unlink()
    run_compress("-m", out, "--pretrained_dir", copied)
    report = read_report(report_path(out))
    assert report.start.test.psnr == pytest.approx(expected, abs=1e-3)
    assert model_file(out).read_bytes() == model_file(copied).read_bytes()
    command_line("-m", out, "--skip_train", "--quiet")
    render.main()  # the decoded model, with its exposures
    assert load_png(next((out / "test").rglob("renders/00000.png"))).shape == (3, 36, HALF)


def test_a_loaded_scene_can_be_rendered_by_scripts_of_others(
    model: Path, uneven_scene: Path
) -> None:
    options = train.ModelOptions(
        source_path=str(uneven_scene), model_path=str(model), eval=True, train_test_exp=True
    )
    gaussians = GaussianModel(3, device="cpu")
    before = model_file(model).read_bytes()
    scene = Scene(options, gaussians, load_iteration=-1, shuffle=False)
    name = scene.getTestCameras()[0].image_name
    assert torch.equal(gaussians.get_exposure_from_name(name), gaussians.pretrained_exposures[name])
    assert model_file(model).read_bytes() == before
    assert read_ply(model / "point_cloud/iteration_60/point_cloud.ply").count == 300


def test_a_training_loop_of_others_trains_exposures(uneven_scene: Path, tmp_path: Path) -> None:
    """With its own loss, autograd and the optimisers' steps, as training scripts of 2024 do."""
    options = train.ModelOptions(
        source_path=str(uneven_scene), model_path=str(tmp_path), eval=True, train_test_exp=True
    )
    gaussians = GaussianModel(1, device="cpu")
    scene = Scene(options, gaussians)
    gaussians.training_setup(OptimizationOptions())
    cameras = [view for view in scene.getTrainCameras() if view.is_test_view]
    for iteration in range(1, 4):
        view = cameras[iteration % len(cameras)]
        gaussians.update_learning_rate(iteration)
        drawn = draw(view, gaussians, SimpleNamespace(), torch.zeros(3), use_trained_exp=True)
        image, mask = drawn["render"], view.alpha_mask
        assert mask is not None
        (image * mask - view.original_image * mask).abs().mean().backward()
        gaussians.optimizer.step()
        gaussians.optimizer.zero_grad(set_to_none=True)
        gaussians.exposure_optimizer.step()
        gaussians.exposure_optimizer.zero_grad(set_to_none=True)
    changed = {
        name: not torch.equal(gaussians.get_exposure_from_name(name), torch.eye(3, 4))
        for name in gaussians.exposure_mapping
    }
    assert sorted(name for name in changed if changed[name]) == ["view_000.png", "view_008.png"]
    scene.save(3)
    assert len(read_exposures(tmp_path / "exposure.json")) == 10
