# SPDX-License-Identifier: Apache-2.0
"""train.py on a tiny scene: what it writes, in which order it works, how it stops and goes on."""

import csv
import json
import random
import re
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import render
import scene
import train
from arguments import ModelOptions, read_cfg_args
from gaussian_renderer import render as draw
from scene.colmap_loader import qvec2rotmat, read_extrinsics_binary
from scene.densification import densifies, prunes_large, resets_opacity
from scene.view_queue import ViewQueue
from splat_formats.files import read_splats, write_splats
from splat_formats.ply import read_ply
from splat_formats.splats import Splats
from utils import logged_once
from utils.errors import InputError
from utils.folder_lock import locked
from utils.interruption import Terminated
from utils.training_table import TrainingTable

Train = Callable[..., Path]


@pytest.fixture
def run_train(small_scene: Path, tmp_path: Path, command_line) -> Train:
    """Trains into a fresh folder (or `model`), by default without evaluation."""

    def run(*arguments: object, model: str = "model", source: Path = small_scene) -> Path:
        folder = tmp_path / model
        never = () if "--test_iterations" in arguments else ("--test_iterations", -1)
        # The port of the viewer may be in use by another program of this machine.
        command_line("-s", source, "-m", folder, "--eval", "--disable_viewer", *never, *arguments)
        train.main()
        return folder

    return run


def saved(model: Path, iteration: int) -> Splats:
    return read_ply(model / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply")


def same(one: Splats, other: Splats) -> bool:
    return all(np.array_equal(value, vars(other)[name]) for name, value in vars(one).items())


def test_model_folder_has_the_published_layout(run_train: Train, small_scene: Path) -> None:
    model = run_train(
        *("--iterations", 12, "--save_iterations", 5, "--checkpoint_iterations", 10), "-w"
    )
    files = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("events.out.tfevents.")}
    assert files - events == {
        "cfg_args",
        "cameras.json",
        "input.ply",
        "exposure.json",
        "training.csv",
        "chkpnt10.pth",
        "point_cloud/iteration_5/point_cloud.ply",
        "point_cloud/iteration_12/point_cloud.ply",
    }
    recorded = read_cfg_args(model)
    assert recorded["source_path"] == str(small_scene)
    assert recorded["eval"] is True
    assert recorded["white_background"] is True


def test_cameras_file_lists_test_views_first(run_train: Train) -> None:
    model = run_train("--iterations", 1)
    cameras = json.loads((model / "cameras.json").read_text())
    assert [camera["id"] for camera in cameras] == list(range(10))
    assert [camera["img_name"] for camera in cameras[:2]] == ["view_000.png", "view_008.png"]
    assert set(cameras[0]) == {
        *("id", "img_name", "width", "height", "position", "rotation", "fy", "fx")
    }


def test_stdout_has_the_lines_that_scripts_parse(run_train: Train, capsys) -> None:
    model = run_train(
        *("--iterations", 6, "--test_iterations", 3, "--checkpoint_iterations", 4),
    )
    out = capsys.readouterr().out
    for line in (
        f"Optimizing {model}",
        f"Output folder: {model}",
        "Reading camera 10/10",
        "Loading Training Cameras",
        "Number of points at initialisation :  300",
        "[ITER 3] Evaluating test: L1 0.",
        "[ITER 3] Evaluating train: L1 0.",
        "[ITER 4] Saving Checkpoint",
        "[ITER 6] Saving Gaussians",
        "Training complete.",
    ):
        assert line in out


def test_printed_psnr_is_the_mean_of_the_channels_without_rounding(
    run_train: Train, small_scene: Path, capsys
) -> None:
    model = run_train("--iterations", 5, "--save_iterations", 4, "--test_iterations", 4)
    out = capsys.readouterr().out
    found = re.search(r"Evaluating test: L1 (\S+) PSNR (\S+)", out)
    rounded = re.search(r"as metrics.py measures .*\n?.*Evaluating train", out, re.S)
    assert found and rounded
    options = ModelOptions(source_path=str(small_scene), model_path=str(model), eval=True)
    loaded = scene.Scene(options, scene.GaussianModel(3), 4, splits=["test"])
    loaded.gaussians.active_sh_degree = 0
    l1, decibels, pooled = [], [], []
    for view in loaded.getTestCameras():
        with torch.no_grad():
            image = draw(view, loaded.gaussians, SimpleNamespace(), torch.zeros(3))["render"]
        error = (image - view.original_image).double()
        l1.append(float(error.abs().mean()))
        decibels.append(float(-10 * error.square().mean(dim=(1, 2)).log10().mean()))
        pooled.append(float(-10 * error.square().mean().log10()))
    assert float(found[1]) == pytest.approx(np.mean(l1), rel=1e-4)
    assert float(found[2]) == pytest.approx(np.mean(decibels), rel=1e-5)
    assert np.mean(decibels) > np.mean(pooled) + 1e-3
    second = re.search(r"saved images: PSNR (\S+) SSIM", out)
    assert second and float(second[1]) == pytest.approx(np.mean(pooled), abs=0.02)


def rows(model: Path) -> list[dict[str, str]]:
    with (model / "training.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_course_of_a_training_is_written_as_a_table(run_train: Train) -> None:
    words = ("--iterations", 24, "--test_iterations", 15, 20)
    whole = run_train(*words, "--checkpoint_iterations", 13, model="whole")
    found = rows(whole)
    assert [int(row["iteration"]) for row in found] == [10, 15, 20]
    assert [bool(row["test_psnr"]) for row in found] == [False, True, True]
    assert all(0 < float(row["loss"]) < 1 and row["gaussians"] == "300" for row in found)
    assert found[1]["train_l1"] and 0 < float(found[0]["seconds"]) < float(found[2]["seconds"])
    resumed = run_train(*words, "--start_checkpoint", whole / "chkpnt13.pth", model="whole")
    again = rows(resumed)
    assert again[0] == found[0]
    for name in ("iteration", "test_l1", "train_psnr"):
        assert [row[name] for row in again] == [row[name] for row in found]
    with (whole / "training.csv").open("a") as file:
        file.write("30,0.1")  # the computer stopped here
    table = TrainingTable(whole, 40)
    table.add({"iteration": 40, "loss": 0.5})
    table.close()
    assert [row["iteration"] for row in rows(whole)] == ["10", "15", "20", "40"]
    (whole / "training.csv").write_bytes(b"another,table\n1,\xff\n")
    TrainingTable(whole, 40).close()
    assert rows(whole) == []


def test_quiet_prints_nothing(run_train: Train, capfd, command_line) -> None:
    model = run_train(
        *("--iterations", 3, "--test_iterations", 2, "--checkpoint_iterations", 2, "--quiet"),
        *("-r", 4000, "--data_device", "cuda:9", "--save_iterations", 99),
    )
    assert (model / "chkpnt2.pth").exists()
    command_line("-m", model, "--quiet")
    render.main()
    assert capfd.readouterr() == ("", "")


def test_the_device_of_photographs_is_printed_only_if_it_was_given(
    run_train: Train, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_once, "_logged", set())
    run_train("--iterations", 1)
    assert "Photos are kept" not in capsys.readouterr().out
    monkeypatch.setattr(train, "device_for", lambda rasterizer: torch.device("cpu"))
    run_train("--iterations", 1, "--data_device", "cuda", model="chosen")
    assert capsys.readouterr().out.count("Photos are kept on cpu: no usable cuda device") == 1


def test_a_model_is_saved_before_its_iterations_update(run_train: Train) -> None:
    model = run_train("--iterations", 3, "--save_iterations", 1, 2)
    first, second, last = (saved(model, iteration) for iteration in (1, 2, 3))
    assert (first.rotation == [1, 0, 0, 0]).all()
    assert (first.features_rest == 0).all()
    moved = np.abs(second.opacity - first.opacity).max()
    assert moved == pytest.approx(0.025, rel=1e-3)
    assert not same(second, last)


def test_training_reduces_the_loss(run_train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    reported = train.Reporter.step

    def recording(self, iteration, camera, view_loss, seconds) -> None:
        losses.append(view_loss.loss)
        reported(self, iteration, camera, view_loss, seconds)

    monkeypatch.setattr(train.Reporter, "step", recording)
    run_train("--iterations", 120)
    assert np.mean(losses[-16:]) < 0.8 * np.mean(losses[:16])


def test_same_command_gives_the_same_model(run_train: Train) -> None:
    first = run_train("--iterations", 12, model="a")
    second = run_train("--iterations", 12, model="b")
    assert same(saved(first, 12), saved(second, 12))


DENSIFY = (
    *("--densify_from_iter", 4, "--densification_interval", 5, "--opacity_reset_interval", 14),
    *("--densify_grad_threshold", 1e-7, "--random_background"),
)


def test_a_model_for_antialiasing_is_trained_and_saved_with_it(run_train: Train, capsys) -> None:
    start = run_train("--iterations", 1, "--antialiasing", model="start")
    assert read_cfg_args(start)["antialiasing"] is True
    ply = start / "point_cloud" / "iteration_1" / "point_cloud.ply"
    assert b"SplatRenderMode: mip" in ply.read_bytes()
    capsys.readouterr()
    model = run_train("--iterations", 1, "--start_checkpoint", ply)
    assert "holds an antialiased model" in capsys.readouterr().err
    assert read_cfg_args(model)["antialiasing"] is True
    again = run_train("--iterations", 1, "--antialiasing", "--start_checkpoint", ply, model="again")
    assert "holds an antialiased model" not in capsys.readouterr().err
    assert same(saved(model, 1), saved(again, 1))


def test_a_folder_in_use_is_refused_before_anything_is_loaded(
    run_train: Train, tmp_path: Path, no_photographs: None
) -> None:
    with locked(tmp_path / "model"), pytest.raises(InputError, match="is in use by"):
        run_train("--iterations", 1)
    (tmp_path / "model").write_text("no folder")
    with pytest.raises(InputError, match="model is a file: expected a folder"):
        run_train("--iterations", 1)


def test_resumed_training_ends_where_uninterrupted_training_does(run_train: Train) -> None:
    options = ("--iterations", 24, *DENSIFY)
    whole = run_train(*options, "--checkpoint_iterations", 13, model="whole")
    resumed = run_train(*options, "--start_checkpoint", whole / "chkpnt13.pth", model="resumed")
    assert saved(whole, 24).count > 300
    assert same(saved(whole, 24), saved(resumed, 24))


@pytest.mark.parametrize("optimizer_type", ["default", "sparse_adam"])
def test_density_control_changes_the_number_of_gaussians(
    run_train: Train, optimizer_type: str
) -> None:
    model = run_train(
        *("--iterations", 12, "--save_iterations", 10, *DENSIFY),
        *("--optimizer_type", optimizer_type),
    )
    assert saved(model, 10).count > 300
    assert saved(model, 12).count > saved(model, 10).count
    assert all(np.isfinite(array).all() for array in vars(saved(model, 12)).values())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_saves_a_state_to_go_on_from(
    run_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    iterate, done = train.Training.iterate, []

    def interrupted(self, iteration, reporter) -> None:
        if iteration == 5:
            signal.raise_signal(sent)
        iterate(self, iteration, reporter)
        done.append(iteration)

    whole = run_train("--iterations", 9, model="whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as end:
        patched.setattr(train.Training, "iterate", interrupted)
        run_train("--iterations", 9, model="broken")
    assert isinstance(end.value, Terminated) == (sent != signal.SIGINT)
    broken = tmp_path / "broken"
    assert done == [1, 2, 3, 4, 5]
    assert saved(broken, 5).count == 300
    resumed = run_train(
        *("--iterations", 9, "--start_checkpoint", broken / "chkpnt5.pth"), model="broken"
    )
    assert same(saved(whole, 9), saved(resumed, 9))


@pytest.mark.parametrize("ending", [".ply", ".spz"])
def test_gaussians_can_be_trained_on(run_train: Train, ending: str) -> None:
    start = run_train("--iterations", 5, model="start")
    ply = start / "point_cloud" / "iteration_5" / "point_cloud.ply"
    file = ply.with_name(f"start{ending}")
    write_splats(file, read_splats(ply))
    model = run_train(
        *("--iterations", 3, "--save_iterations", 1, "--start_checkpoint", file), model="tuned"
    )
    assert same(saved(model, 1), read_splats(file).splats)
    assert not same(saved(model, 3), read_splats(file).splats)
    assert (saved(model, 3).features_rest != 0).any()


@pytest.fixture
def no_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError("photographs are loaded")

    monkeypatch.setattr(scene.Scene, "_load_photos", load)


@pytest.fixture(scope="module")
def checkpoint(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of iteration 2; beside it is the model of iteration 3."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", sys.stdout)
        words = ("-s", small_scene, "-m", folder, "--eval", "--iterations", 3)
        words += ("--checkpoint_iterations", 2, "--quiet")
        patched.setattr(sys, "argv", ["train.py", *map(str, words)])
        train.main()
    return folder / "chkpnt2.pth"


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_checkpoint_at_or_beyond_the_end_is_an_error(
    run_train: Train, checkpoint: Path, tmp_path: Path, no_photographs: None, iterations: int
) -> None:
    with pytest.raises(
        InputError, match=rf"iteration 2, and --iterations {iterations} is the last"
    ):
        run_train("--iterations", iterations, "--start_checkpoint", checkpoint)
    assert not (tmp_path / "model").exists()


def test_options_that_change_between_two_parts_of_a_training_are_named(
    run_train: Train, checkpoint: Path, capsys
) -> None:
    run_train("--iterations", 3, "--start_checkpoint", checkpoint)
    assert capsys.readouterr().err.count("warning") == 0
    run_train("--iterations", 3, "--start_checkpoint", checkpoint, "-r", 2, "--antialiasing")
    changes = "resolution 2, not -1; antialiasing True, not False"
    assert f"other options: this one has {changes}\n" in capsys.readouterr().err


def test_starts_that_cannot_be_used_are_found_before_photographs_are_loaded(
    run_train: Train, checkpoint: Path, tmp_path: Path, no_photographs: None
) -> None:
    broken, empty = tmp_path / "broken.pth", tmp_path / "empty.ply"
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    empty.write_bytes(checkpoint.with_name("input.ply").read_bytes()[:90])
    (tmp_path / "folder").mkdir()
    faults = {
        tmp_path / "none.pth": "there is no such file",
        tmp_path / "folder": "expected a checkpoint or a file of Gaussians, not a folder",
        checkpoint.parent: r"expected a file, not a folder: give .*/chkpnt2\.pth",
        broken: "not a readable checkpoint",
        empty: r"empty\.ply",
    }
    for path, message in faults.items():
        with pytest.raises(InputError, match=message):
            run_train("--iterations", 5, "--start_checkpoint", path)
    ply = checkpoint.parent / "point_cloud" / "iteration_3" / "point_cloud.ply"
    for path in (checkpoint, ply):
        with pytest.raises(InputError, match=r"degree 3, .* use degree 1: give --sh_degree 3"):
            run_train("--iterations", 5, "--sh_degree", 1, "--start_checkpoint", path)
    assert not (tmp_path / "model").exists()


UNUSABLE = [
    *(("--iterations", 0), ("--iterations", -5), ("--sh_degree", -1), ("--sh_degree", 4)),
    *(("--densification_interval", 0), ("--opacity_reset_interval", 0), ("-r", 0), ("-r", -2)),
    *(("-r", 3), ("-r", 16)),
    *(("--position_lr_max_steps", 0), ("--lambda_dssim", 1.5), ("--lambda_dssim", "nan")),
    *(("--feature_lr", "inf"), ("--opacity_lr", -0.1), ("--percent_dense", "nan")),
    *(("--position_lr_init", 0), ("--position_lr_final", 0), ("--densify_from_iter", -2)),
    *(("--densify_grad_threshold", "nan"), ("--optimizer_type", "sgd")),
    *(("--test_iterations", 0), ("--save_iterations", 5, -2), ("--checkpoint_iterations", 0)),
    ("--debug_from", -2),
]


@pytest.mark.parametrize("words", UNUSABLE, ids=lambda words: "".join(map(str, words)))
def test_values_that_cannot_be_used_are_refused_at_once(
    run_train: Train, tmp_path: Path, no_photographs: None, words: tuple
) -> None:
    name = {"-r": "--resolution"}.get(words[0], words[0])
    with pytest.raises(InputError, match=f"{name} .*: expected "):
        run_train(*words)
    assert not (tmp_path / "model").exists()


def test_both_position_rates_may_be_zero(run_train: Train) -> None:
    model = run_train(
        *("--iterations", 3, "--save_iterations", 1),
        *("--position_lr_init", 0, "--position_lr_final", 0),
    )
    assert np.array_equal(saved(model, 1).xyz, saved(model, 3).xyz)


def test_iterations_that_are_not_reached_are_named(run_train: Train, capsys) -> None:
    run_train("--iterations", 2, "--save_iterations", 1, 7, "--save_iterations", 8)
    printed = capsys.readouterr()
    assert "warning: --save_iterations 7 8: not reached, training ends at 2\n" in printed.err
    assert "[ITER 1] Saving" in printed.out
    run_train("--iterations", 2, model="defaults")
    assert "not reached" not in capsys.readouterr().err


def test_a_dataset_is_required(tmp_path, monkeypatch, small_scene: Path, command_line) -> None:
    monkeypatch.chdir(small_scene)
    command_line("-m", tmp_path / "model")
    with pytest.raises(InputError, match="-s/--source_path is required"):
        train.main()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("flag", ["-s", "-m"])
def test_two_folders_for_one_option_are_refused(run_train: Train, capsys, flag: str) -> None:
    with pytest.raises(SystemExit):
        run_train(flag, "other")
    assert "expected one value, but " in capsys.readouterr().err


def test_a_failed_run_leaves_no_folder(
    run_train: Train, tmp_path: Path, small_scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(small_scene, damaged)
    (damaged / "images" / "view_004.png").write_bytes(b"no image")
    for model in ("model", "new/folder/model"):
        with pytest.raises(InputError, match="view_004"):
            run_train("--iterations", 1, model=model, source=damaged)
    assert not (tmp_path / "model").exists() and not (tmp_path / "new").exists()
    monkeypatch.setattr(train, "MIN_OPACITY", 2.0)
    with pytest.raises(InputError, match="removed all Gaussians at iteration 5"):
        run_train("--iterations", 9, *DENSIFY)
    assert not (tmp_path / "model").exists()
    with pytest.raises(InputError, match="removed all Gaussians at iteration 5"):
        run_train("--iterations", 9, "--save_iterations", 2, *DENSIFY)
    assert saved(tmp_path / "model", 2).count == 300


def test_a_failed_run_leaves_an_older_model_as_it_was(
    run_train: Train, tmp_path: Path, small_scene: Path
) -> None:
    model = run_train("--iterations", 2)
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    damaged = tmp_path / "damaged"
    shutil.copytree(small_scene, damaged)
    (damaged / "images" / "view_004.png").unlink()
    with pytest.raises(InputError, match="view_004"):
        run_train("--iterations", 2, "-w", source=damaged)
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def test_a_model_without_a_finite_number_is_an_error(
    run_train: Train, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = train.Training.iterate
    rows = 1

    def spoiling(self, iteration, reporter) -> None:
        with torch.no_grad():
            self.gaussians.get_xyz[:rows] = torch.nan
        iterate(self, iteration, reporter)

    monkeypatch.setattr(train.Training, "iterate", spoiling)
    run_train("--iterations", 1)
    assert "warning: iteration 1: 1 Gaussians are not finite" in capsys.readouterr().err
    rows = 300
    with pytest.raises(InputError, match="at iteration 1 no Gaussian has finite values"):
        run_train("--iterations", 1, model="spoilt")
    assert not (tmp_path / "spoilt").exists()


@pytest.mark.parametrize("views", [2, 9])
def test_cameras_at_one_place_train_beyond_the_pruning_of_large_gaussians(
    small_scene: Path, tmp_path: Path, run_train: Train, capsys, views: int
) -> None:
    tripod = tmp_path / "tripod"
    shutil.copytree(small_scene, tripod)
    path = tripod / "sparse" / "0" / "images.bin"
    images = sorted(read_extrinsics_binary(path).values(), key=lambda image: image.name)
    write_on_a_tripod(path, images[:views])
    model = run_train("--iterations", 16, *DENSIFY, source=tripod)
    assert saved(model, 16).count > 100
    assert "all training cameras are at one place" in capsys.readouterr().err


def write_on_a_tripod(path: Path, images: list) -> None:
    """The images as an images.bin, all at the centre of the first one."""
    centre = -qvec2rotmat(images[0].qvec).T @ images[0].tvec
    data = struct.pack("<Q", len(images))
    for image in images:
        shift = -qvec2rotmat(image.qvec) @ centre
        data += struct.pack("<i7di", image.id, *image.qvec, *shift, image.camera_id)
        data += image.name.encode() + b"\0" + struct.pack("<Q", 0)
    path.write_bytes(data)


def test_losing_all_gaussians_is_explained(
    run_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MIN_OPACITY", 2.0)
    with pytest.raises(InputError, match="removed all Gaussians at iteration 5"):
        run_train("--iterations", 9, *DENSIFY)


def test_folder_without_a_name_is_under_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAR_JOB_ID", "1234567890123")
    assert Path(train.default_model_path()) == Path("output/1234567890")
    monkeypatch.delenv("OAR_JOB_ID")
    assert train.default_model_path() != train.default_model_path()


def test_default_milestones() -> None:
    args = train.build_parser()[0].parse_args(["--iterations", "900"])
    milestones = train.milestones_of(args, 900)
    assert milestones.test == {7000, 30000}
    assert milestones.save == {900, 7000, 30000}
    assert milestones.checkpoint == frozenset()


class RecordingWriter:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.tags: dict[str, list[int]] = {}
        self.closed = False

    def _add(self, tag: str, value: object, iteration: int) -> None:
        self.tags.setdefault(tag, []).append(iteration)

    add_scalar = add_image = add_histogram = _add

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_the_published_tags(
    run_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[RecordingWriter] = []

    def make_writer(folder: str) -> RecordingWriter:
        writers.append(RecordingWriter(folder))
        return writers[-1]

    module = SimpleNamespace(SummaryWriter=make_writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    model = run_train("--iterations", 4, "--test_iterations", 2, 4)
    [writer] = writers
    assert writer.folder == str(model)
    assert writer.closed
    tags = writer.tags
    steps = {"train_loss_patches/l1_loss", "train_loss_patches/total_loss", "iter_time"}
    assert all(tags.pop(tag) == [1, 2, 3, 4] for tag in steps)
    for view in ("view_000.png", "view_008.png"):
        assert tags.pop(f"test_view_{view}/ground_truth") == [2]
        assert tags.pop(f"test_view_{view}/render") == [2, 4]
    rest = {tag: where for tag, where in tags.items() if not tag.startswith("train_view_")}
    assert rest == {
        "test/loss_viewpoint - l1_loss": [2, 4],
        "test/loss_viewpoint - psnr": [2, 4],
        "train/loss_viewpoint - l1_loss": [2, 4],
        "train/loss_viewpoint - psnr": [2, 4],
        "scene/opacity_histogram": [2, 4],
        "total_points": [2, 4],
    }


def cameras(names: str) -> list:
    return [SimpleNamespace(image_name=name) for name in names]


def test_each_view_is_drawn_once_per_pass() -> None:
    random.seed(1)
    queue = ViewQueue(cameras("abcde"))
    passes = ["".join(queue.draw().image_name for _ in range(5)) for _ in range(3)]
    assert [sorted(names) for names in passes] == [list("abcde")] * 3
    assert len(set(passes)) == 3


def test_a_pass_can_be_resumed_in_another_process() -> None:
    random.seed(2)
    queue = ViewQueue(cameras("abcde"))
    queue.draw()
    state, left = random.getstate(), queue.left()
    rest = [queue.draw().image_name for _ in range(9)]
    other = ViewQueue(cameras("abcde"))
    other.resume(left)
    random.setstate(state)
    assert [other.draw().image_name for _ in range(9)] == rest


DEFAULTS = SimpleNamespace(
    densify_from_iter=500,
    densify_until_iter=15_000,
    densification_interval=100,
    opacity_reset_interval=3000,
)


def test_density_is_controlled_at_the_published_iterations() -> None:
    every = range(1, 30_001)
    assert [i for i in every if densifies(i, DEFAULTS)] == list(range(600, 15_000, 100))
    assert [i for i in every if resets_opacity(i, DEFAULTS, False)] == [3000, 6000, 9000, 12_000]
    assert [i for i in every if resets_opacity(i, DEFAULTS, True)][:2] == [500, 3000]
    assert [i for i in every if not prunes_large(i, DEFAULTS)][-1] == 3000


def test_gradients_of_the_step_match_the_loss() -> None:
    """The step's loss is what the stored photograph and the image give by definition."""
    from gaussian_renderer.photometric import photometric_loss
    from utils.loss_utils import l1_loss, ssim

    torch.manual_seed(0)
    photograph = (torch.rand(3, 20, 24) * 255).to(torch.uint8)
    camera = SimpleNamespace(image_u8=photograph, original_image=photograph.float() / 255)
    image = torch.rand(3, 20, 24, requires_grad=True)
    other = image.detach().clone().requires_grad_()
    loss = photometric_loss(image, camera, 0.2)
    truth = camera.original_image
    expected = 0.8 * l1_loss(other, truth) + 0.2 * (1 - ssim(other, truth))
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(image.grad, other.grad, rtol=1e-3, atol=1e-7)
