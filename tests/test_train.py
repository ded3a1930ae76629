# SPDX-License-Identifier: Apache-2.0
"""train.py on a tiny scene: what it writes, in which order it works, how it stops and goes on."""

import json
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from arguments import read_cfg_args
from scene.densification import densifies, prunes_large, resets_opacity
from scene.view_queue import ViewQueue
from splat_formats.ply import read_ply
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.interruption import Terminated

Train = Callable[..., Path]


@pytest.fixture
def run_train(small_scene: Path, tmp_path: Path, command_line) -> Train:
    """Trains into a fresh folder (or `model`), without evaluation unless asked for."""

    def run(*arguments: object, model: str = "model") -> Path:
        folder = tmp_path / model
        never = () if "--test_iterations" in arguments else ("--test_iterations", -1)
        command_line("-s", small_scene, "-m", folder, "--eval", *never, *arguments)
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


def test_quiet_prints_nothing_after_the_start(run_train: Train, capsys) -> None:
    run_train("--iterations", 3, "--quiet")
    assert "complete" not in capsys.readouterr().out


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

    def recording(self, iteration, camera, said, seconds) -> None:
        losses.append(said.loss)
        reported(self, iteration, camera, said, seconds)

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


def test_a_ply_can_be_trained_on(run_train: Train) -> None:
    start = run_train("--iterations", 5, model="start")
    ply = start / "point_cloud" / "iteration_5" / "point_cloud.ply"
    model = run_train(
        *("--iterations", 3, "--save_iterations", 1, "--start_checkpoint", ply), model="tuned"
    )
    assert same(saved(model, 1), read_ply(ply))
    assert not same(saved(model, 3), read_ply(ply))
    assert (saved(model, 3).features_rest != 0).any()


def test_resuming_at_the_end_does_nothing(run_train: Train) -> None:
    model = run_train("--iterations", 4, "--checkpoint_iterations", 4)
    before = saved(model, 4)
    run_train("--iterations", 4, "--start_checkpoint", model / "chkpnt4.pth")
    assert same(before, saved(model, 4))


@pytest.mark.parametrize("argument", [("-d", "depths"), ("--train_test_exp",)])
def test_options_without_effect_are_refused(run_train: Train, tmp_path, argument) -> None:
    with pytest.raises(InputError, match="not yet supported"):
        run_train("--iterations", 1, *argument)
    assert not (tmp_path / "model").exists()


def test_losing_all_gaussians_is_explained(
    run_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MIN_OPACITY", 2.0)
    with pytest.raises(InputError, match="no Gaussian at iteration 5"):
        run_train("--iterations", 9, *DENSIFY)


def test_folder_without_a_name_is_under_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAR_JOB_ID", "1234567890123")
    assert Path(train.default_model_path()) == Path("output/1234567890")
    monkeypatch.delenv("OAR_JOB_ID")
    assert train.default_model_path() != train.default_model_path()


def test_default_milestones() -> None:
    args = train.build_parser()[0].parse_args(["--iterations", "900"])
    milestones = train.milestones_of(args)
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
