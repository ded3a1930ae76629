# SPDX-License-Identifier: Apache-2.0
"""Several processes that compute together, against one: utils.ranks and all that uses it."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from arguments import ModelOptions, OptimizationOptions, PipelineOptions
from arguments.milestones import Milestones
from gaussian_compression.finetune import Finetuner
from gaussian_compression.fingerprint import environment
from gaussian_compression.scores import SCORES, ScoreTools, accumulate_on_ranks, score_named
from gaussian_compression.sensitivity import added_error, render_sensitivity
from gaussian_compression.settings import FinetuneSettings, RateCourse, WarmRestart
from gaussian_compression.trainable import FullPrecision
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import DrawnView, evaluate, measured_on_ranks
from gaussian_renderer.view_gradients import mean_gradients
from scene import Scene
from scene.cameras import announce
from scene.exposure import attach_exposures, read_exposures
from scene.gaussian_model import GaussianModel
from scene.optimizer import take_step
from scene.raw_parameters import RawParameters
from scene.view_batches import betas_of
from splat_formats.ply import read_ply
from utils import ranks
from utils.errors import InputError
from utils.launched_ranks import rank_and_count

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


class Tools:
    """A model of the small scene, its views and the functions of its device."""

    def __init__(self, small_scene: Path, folder: Path) -> None:
        self.model = GaussianModel(1)
        self.scene = Scene(ModelOptions(
            sh_degree=1, source_path=str(small_scene), model_path=str(folder), eval=True
        ), self.model, shuffle=False)  # fmt: skip
        self.views = self.scene.getTrainCameras()
        self.raw = self.model.raw_parameters().map(lambda tensor: tensor.detach().clone())
        self.raw.features_rest.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        self.backend = backend_for(CPU, RenderOptions())
        self.background = torch.full((3,), 0.2)
        self.differentiate = partial(
            self.backend.differentiate,
            background=self.background,
            sh_degree=1,
            lambda_dssim=0.2,
        )
        self.pull_back = partial(self.backend.pull_back, sh_degree=1)

    def figures(self) -> dict[str, Any]:
        """Everything that ranks share, on all views."""
        tools = ScoreTools(self.backend, self.differentiate, self.pull_back, self.background)
        found: dict[str, Any] = {}
        for name in SCORES:
            score = score_named(name, tools)
            for _ in range(2):  # the second pass begins anew
                accumulate_on_ranks(score, self.raw, self.views, tools, lambda: None)
            found[name] = score.scores()
        measured = render_sensitivity(
            self.raw, self.views, self.pull_back, self.background, 3, lambda: None
        )
        found["squares"] = tuple(measured.per_parameter)
        found["sensitivity"] = [measured.psnr, measured.absolute_error]
        draw = partial(self.backend.draw, background=self.background, sh_degree=1)
        other = self.raw._replace(xyz=self.raw.xyz + 0.01)
        found["added"] = added_error(self.raw, other, self.views, draw, lambda: None)
        model = GaussianModel.from_raw(self.raw)
        scores = measured_on_ranks(
            self.views, model, self.backend, self.background, DrawnView.score
        )
        found["scores"] = [(s.image_name, s.psnr, s.ssim, s.l1) for s in scores]
        return found

    def expose(self) -> None:
        """Give the views exposures, after the other ranks have been sent the views."""
        exposures = self.model.get_exposure
        with torch.no_grad():
            exposures += torch.linspace(-0.1, 0.2, exposures.numel()).view_as(exposures)
        attach_exposures(self.views, self.model.get_exposure_from_name)

    def exposed_step(self) -> list[float]:
        """The mean gradients of exposures over three views together, and the PSNR of all views."""
        step = train.GradientStep(self.model, self.backend, 0.2)
        step.together([train.TrainingView(view, self.background) for view in self.views[:3]])
        train.share_exposures(self.views)
        shown = self.model, self.backend, self.background
        scores = measured_on_ranks(self.views, *shown, DrawnView.score)
        gradient = self.model.get_exposure.grad
        assert gradient is not None
        return [*gradient.flatten().tolist(), *(score.psnr for score in scores)]

    def gradients(self, count: int) -> tuple[list[float], tuple[Tensor, ...]]:
        """Losses and mean gradients of the first views."""
        out = self.raw.map(torch.empty_like)
        pairs = [(self.differentiate, view) for view in self.views[:count]]
        losses = mean_gradients(pairs, self.raw, out, attrgetter("loss"))
        return [float(loss) for loss in losses], tuple(out)

    def expected_gradients(self, count: int) -> tuple[list[float], list[Tensor]]:
        """The same, view by view."""
        losses, total = [], [torch.zeros_like(tensor) for tensor in self.raw]
        out = self.raw.map(torch.empty_like)
        for view in self.views[:count]:
            losses.append(float(self.differentiate(view, self.raw, out).loss))
            for one, part in zip(total, out, strict=True):
                one += part
        return losses, [one / count for one in total]


@pytest.fixture(scope="module")
def tools(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(small_scene, tmp_path_factory.mktemp("model"))


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ranks in this process, one after another; what they are sent is pickled."""

    def start(count: int) -> None:
        def everywhere(function, *args, **named) -> list[Any]:
            results = []
            for rank in range(count):
                monkeypatch.setattr(ranks._job, "rank", rank)
                sent = function, args, named
                if rank:
                    sent = ranks._unpacked(ranks._packed(sent))
                call, given, by_name = sent
                results.append(call(*given, **by_name))
            monkeypatch.setattr(ranks._job, "rank", 0)
            return results

        monkeypatch.setattr(ranks._job, "count", count)
        monkeypatch.setattr(ranks, "everywhere", everywhere)

    return start


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Scores and sensitivities up to the order of sums, all else bit for bit."""
    assert found.keys() == expected.keys()
    for name in (*SCORES, "squares"):
        pairs = [(found[name], expected[name])]
        if name == "squares":
            pairs = list(zip(found[name], expected[name], strict=True))
        for one, other in pairs:
            assert other.abs().max() > 0
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))
    for name in ("sensitivity", "added", "scores"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("count", [2, 9])
def test_shared_measurements_are_those_of_one_process(tools: Tools, team, count: int) -> None:
    expected = tools.figures()
    team(count)
    assert_alike(tools.figures(), expected)


def test_evaluation_is_that_of_one_process(tools: Tools, team) -> None:
    model = GaussianModel.from_raw(tools.raw)
    expected = evaluate(tools.views, model, tools.backend, tools.background)
    team(3)
    shown = model, tools.backend, tools.background
    assert measured_on_ranks(tools.views, *shown, DrawnView.score) == expected
    assert measured_on_ranks([], *shown, DrawnView.score) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradients_of_a_step_are_means(tools: Tools, team, count: int) -> None:
    losses, expected = tools.expected_gradients(count)
    team(3)
    found, gradients = tools.gradients(count)
    assert found == losses
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def finetuned(
    tools: Tools, raw: RawParameters, iterations: int, course: RateCourse
) -> tuple[float, int]:
    """Mean PSNR on the training views after a fine-tuning of `raw`, which is changed; how many
    losses were reported."""
    loss = FinetuneSettings(sh_sparsity=0.0)
    finetuner = Finetuner(tools.differentiate, tools.scene.cameras_extent, loss)
    losses: list[Tensor] = []
    model = FullPrecision(raw, loss, tools.backend)
    finetuner.run(model, tools.views, iterations, random.Random(1), losses.append, course)
    scores = evaluate(tools.views, GaussianModel.from_raw(raw), tools.backend, tools.background)
    return sum(score.psnr for score in scores) / len(scores), len(losses)


def test_steps_on_several_views_reach_the_quality_of_steps_on_one(tools: Tools, team) -> None:
    trained = tools.raw.map(torch.clone)
    before, _ = finetuned(tools, trained, 300, RateCourse(WarmRestart(3.0, 100.0)))
    course, psnr = RateCourse(WarmRestart(3.0, 10.0), end=0.1), {}
    for count in (1, 2, 4):
        team(count)
        psnr[count], reported = finetuned(tools, trained.map(torch.clone), 201, course)
        assert reported == 201
    assert psnr[1] > before + 0.2
    assert abs(psnr[2] - psnr[1]) < 0.05
    assert abs(psnr[4] - psnr[1]) < 0.05


@pytest.mark.parametrize("kind", ["kernel", "torch"])
def test_a_step_on_views_has_scaled_rates(tools: Tools, kind: str) -> None:
    """Four views: four times the rate, and moments that decay as in four steps, for this step."""
    groups = [{"params": [torch.zeros(3, 1)], "name": "x", "lr": 0.1}]
    optimizer = (
        tools.backend.adam(groups, 1e-15)
        if kind == "kernel"
        else torch.optim.Adam(groups, lr=0.1, eps=1e-15)
    )
    optimizer.param_groups[0]["lr"] = 0.1
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones(3, 1)
    take_step(optimizer, "default", torch.ones(3), 4)
    torch.testing.assert_close(parameter, torch.full((3, 1), -0.4))
    moment = optimizer.state[parameter]["exp_avg"]
    torch.testing.assert_close(moment, torch.full((3, 1), 1 - 0.9**4))
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (
        0.1, (0.9, 0.999)
    )  # fmt: skip
    assert betas_of(1) == (0.9, 0.999)


def training(tools: Tools, iterations: int, **milestones: set[int]) -> train.Training:
    optimization = OptimizationOptions(
        iterations=iterations,
        densify_from_iter=100,
        densification_interval=100,
        densify_until_iter=500,
        opacity_reset_interval=150,
    )
    places = {name: frozenset(milestones.get(name, set())) for name in ("test", "save")}
    checkpoint = frozenset(milestones.get("checkpoint", set()))
    return train.Training(
        train.Options(ModelOptions(), optimization, PipelineOptions()),
        Milestones(**places, checkpoint=checkpoint, debug_from=330),
        tools.scene,
        tools.backend,
    )


def test_no_step_spans_an_iteration_that_does_more(tools: Tools, team) -> None:
    run = training(tools, 1100, test={41}, save={63}, checkpoint={77})
    steps = {}
    for count in (1, 8):
        team(count)
        ends, iteration = [], 0
        while iteration < 1100:
            iteration += run.views_of_step(iteration + 1)
            ends.append(iteration)
        steps[count] = ends
    assert steps[1] == list(range(1, 1101))
    assert set(steps[8]) >= {41, 63, 77, 150, 200, 300, 330, 400, 450, 999, 1099, 1100}
    assert steps[8][:8] == [8, 16, 24, 32, 40, 41, 49, 57]
    assert 500 not in steps[8]  # densification has ended


def test_messages_keep_names_and_values(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors arrive without a copy of their storage in the pickle; kept objects only as names."""
    monkeypatch.setattr(ranks._job, "numbers", {})
    monkeypatch.setattr(ranks._job, "kept", [])
    camera = tools.views[0]
    raw = tools.raw._replace(xyz=torch.nn.Parameter(tools.raw.xyz[:, [2, 1, 0]].T[:, 5:].T))
    sent = {"raw": raw, "camera": camera, "none": torch.empty(0, 3), "loss": torch.tensor(2.5)}
    large = ranks._packed(sent)
    found = ranks._unpacked(large)
    assert torch.equal(found["camera"].image_u8, camera.image_u8)
    assert len(large[0]) < 20_000
    ranks._job.keep([camera])
    small = ranks._packed(sent)
    assert len(small) < len(large)
    found = ranks._unpacked(small)
    assert found["camera"] is camera
    assert isinstance(found["raw"], RawParameters)
    for one, other in zip(found["raw"], raw, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert found["none"].shape == (0, 3)
    assert float(found["loss"]) == 2.5


def test_photographs_that_are_decoded_when_used_are_decoded_by_each_rank(
    small_scene: Path, tmp_path: Path
) -> None:
    options = ModelOptions(
        sh_degree=1, source_path=str(small_scene), model_path=str(tmp_path), image_cache_gb=0.001
    )
    cameras = Scene(options, GaussianModel(1), shuffle=False).getTrainCameras()
    assert all(camera.is_cached for camera in cameras)
    announce(cameras[:1])
    sent = ranks._packed(cameras)
    assert sum(map(len, sent)) < 100_000
    found = ranks._unpacked(sent)
    for one, other in zip(found, cameras, strict=True):
        assert one.is_cached
        assert torch.equal(one.image_u8, other.image_u8)


LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_what_a_launcher_states() -> None:
    assert rank_and_count(LAUNCHED) == (1, 2)
    assert rank_and_count({"WORLD_SIZE": "4"}) == (0, 1)  # as some batch systems set it
    assert rank_and_count({"RANK": "0", "WORLD_SIZE": "1"}) == (0, 1)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"RANK": "-1"}, "RANK: expected a whole number from 0, as torchrun sets it, got '-1'"),
        ({"RANK": "one"}, "RANK: expected a whole number from 0, .* got 'one'"),
        ({"RANK": "²"}, "RANK: expected a whole number from 0"),
        ({"RANK": "9" * 5000}, "RANK: expected a whole number from 0"),
        ({"RANK": "2"}, "RANK: expected a number below WORLD_SIZE, 2, got 2"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE: expected a whole number from 0"),
        ({"WORLD_SIZE": "0"}, "RANK: expected a number below WORLD_SIZE, 0, got 1"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 2, but MASTER_ADDR is not set: .* torchrun"),
        ({"MASTER_PORT": "many"}, "process 1 of 2 finds no others: "),
    ],
)
def test_what_no_launcher_states_is_refused(
    monkeypatch: pytest.MonkeyPatch, odd: dict[str, str], message: str
) -> None:
    for name, value in {**LAUNCHED, **odd}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        ranks.shared(pytest.fail)()


def test_several_ranks_need_cpus(team) -> None:
    ranks.check_device(torch.device("cuda"))
    team(2)
    ranks.check_device(CPU)
    with pytest.raises(InputError, match="work together on CPUs only"):
        ranks.check_device(torch.device("cuda"))


def test_a_run_that_goes_on_with_other_ranks_is_noted(team) -> None:
    assert "processes" not in environment(CPU)
    team(3)
    assert environment(CPU)["processes"] == 3


PROGRAM = """
import atexit, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from utils import cli, ranks

def main():
    assert ranks.is_writer() and ranks.count() == 3
    from tests.test_ranks import Tools
    tools = Tools(Path(sys.argv[2]), Path(sys.argv[3]))
    ranks.keep(tools.views)
    figures, gradients = tools.figures(), tools.gradients(3)
    tools.expose()
    torch.save((figures, gradients, tools.exposed_step()), sys.argv[4])
    first, second, third = ranks.everywhere(os.getpid)
    assert first == os.getpid()
    os.kill(third, signal.SIGTERM)  # which only concerns rank 0
    assert ranks.everywhere(os.getpid) == [first, second, third]
    os.kill(second, signal.SIGKILL)
    atexit.register(os.abort)  # as threads of the broken connection may do in an orderly end
    while True:
        ranks.everywhere(os.getpid)

cli.run(ranks.shared(main))
"""


def exposed_alone(small_scene: Path, folder: Path) -> list[float]:
    """What `Tools.exposed_step` gives, without other ranks, by means of the views' gradients."""
    tools = Tools(small_scene, folder)
    tools.expose()
    step = train.GradientStep(tools.model, tools.backend, 0.2)
    total = torch.zeros_like(tools.model.get_exposure)
    for view in tools.views[:3]:
        step(view, tools.background)
        total += tools.model.get_exposure.grad / 3
    shown = tools.model, tools.backend, tools.background
    scores = evaluate(tools.views, *shown)
    return [*total.flatten().tolist(), *(score.psnr for score in scores)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_three_processes_and_the_end_of_one(
    tools: Tools, small_scene: Path, tmp_path: Path
) -> None:
    """Real processes: their figures, and how all end when one is killed."""
    result = tmp_path / "found.pt"
    port, words = free_port(), [str(ROOT), str(small_scene), str(tmp_path / "m"), str(result)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "3",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    ended = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [1, -signal.SIGKILL, 1], ended
    assert "error: another process of the job has ended" in ended[0][1]
    assert "rank 2: rank 0 has ended, so that this one cannot go on" in ended[2][1]
    assert "Traceback" not in ended[0][1] + ended[2][1]
    assert ended[1][0] == ended[2][0] == ""
    found, (losses, gradients), exposed = torch.load(result, weights_only=False)
    assert exposed == pytest.approx(exposed_alone(small_scene, tmp_path / "alone"), rel=1e-5)
    assert_alike(found, tools.figures())
    expected_losses, expected = tools.expected_gradients(3)
    assert losses == expected_losses
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_torchrun_trains_and_one_process_goes_on(
    small_scene: Path, tmp_path: Path, command_line
) -> None:
    model = tmp_path / "model"
    options = [
        *("-s", small_scene, "-m", model, "--eval", "--iterations", 30, "--test_iterations", 9),
        *("--densify_from_iter", 4, "--densification_interval", 7, "--densify_until_iter", 15),
        *("--disable_viewer", "--save_iterations", 20, "--random_background", "--train_test_exp"),
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = ["--nproc_per_node", 2, ROOT / "train.py", *options, "--checkpoint_iterations", 20]
    command = [*launcher, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training complete.") == 1
    assert done.stdout.count("[ITER 9] Evaluating test") == 1
    ply = model / "point_cloud" / "iteration_30" / "point_cloud.ply"
    together = read_ply(ply)
    exposures = read_exposures(model / "exposure.json")
    assert all((matrix != torch.eye(3, 4)).any() for matrix in exposures.values())
    command_line(*options, "--quiet", "--start_checkpoint", model / "chkpnt20.pth")
    train.main()
    alone = read_ply(ply)
    assert together.count == alone.count != 300
    assert not (together.xyz == alone.xyz).all()
