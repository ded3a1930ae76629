# SPDX-License-Identifier: Apache-2.0
"""Trains a Gaussian model from a dataset of posed photographs."""

from __future__ import annotations

import os
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import (
    ModelOptions,
    ModelParams,
    OptimizationOptions,
    OptimizationParams,
    PipelineOptions,
    PipelineParams,
    write_cfg_args,
)
from gaussian_renderer import render
from gaussian_renderer.backend import Backend, RenderOptions, ViewLoss
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import evaluate
from scene import GaussianModel, Scene
from scene.cameras import Camera
from scene.checkpoint import LoopState, load_checkpoint, save_checkpoint
from scene.densification import accumulate, densifies, is_active, prunes_large, resets_opacity
from scene.device import default_device
from scene.optimizer import take_step
from scene.raw_parameters import RawParameters
from scene.view_queue import ViewQueue
from utils import cli
from utils.errors import InputError
from utils.general_utils import safe_state
from utils.interruption import interruption
from utils.loss_utils import l1_loss
from utils.tensorboard_log import VIEWS_SHOWN, TensorBoardLog, open_log

DEFAULT_MILESTONES = [7_000, 30_000]
MIN_OPACITY = 0.005  # densification removes what is fainter
MAX_SCREEN_SIZE = 20  # pixels; its being set prunes large Gaussians, see scene.densification
SH_INTERVAL = 1000
BAR_INTERVAL = 10
TRAIN_VIEWS_REPORTED = range(5, 30, 5)


@dataclass(frozen=True)
class Options:
    """All option groups of one run."""

    model: ModelOptions
    optimization: OptimizationOptions
    pipe: PipelineOptions


@dataclass(frozen=True)
class Milestones:
    """At which iterations something is reported, written or switched on."""

    test: frozenset[int]
    save: frozenset[int]
    checkpoint: frozenset[int]
    debug_from: int


class GradientStep:
    """Leaves the gradients of one view's loss in the model's parameters."""

    def __init__(self, gaussians: GaussianModel, backend: Backend, lambda_dssim: float) -> None:
        self._gaussians = gaussians
        self._backend, self._lambda_dssim = backend, lambda_dssim
        self._buffers: RawParameters | None = None

    def __call__(self, camera: Camera, background: Tensor) -> ViewLoss:
        """The view's loss. The gradients are valid until the next call."""
        raw = self._gaussians.raw_parameters()
        if self._buffers is None or self._buffers.gaussian_count != raw.gaussian_count:
            self._buffers = raw.map(torch.empty_like)
        degree = self._gaussians.active_sh_degree
        view_loss = self._backend.differentiate(
            camera, raw, self._buffers, background, degree, self._lambda_dssim
        )
        for parameter, gradient in zip(raw, self._buffers, strict=True):
            parameter.grad = gradient
        return view_loss


class Reporter:
    """What a run tells: a progress bar, printed scores, and TensorBoard where there is one."""

    def __init__(self, training: Training, log: TensorBoardLog | None, bar: tqdm) -> None:
        self._training = training
        self._log = log
        self._bar = bar
        self._average_loss: Tensor | float = 0.0

    def step(self, iteration: int, camera: Camera, view_loss: ViewLoss, seconds: float) -> None:
        """Report one iteration."""
        loss, image = view_loss.loss, view_loss.image
        self._average_loss = 0.4 * loss + 0.6 * self._average_loss
        if iteration % BAR_INTERVAL == 0:
            self._bar.set_postfix({"Loss": f"{float(self._average_loss):.7f}"}, refresh=False)
            self._bar.update(BAR_INTERVAL)
        if self._log is not None:
            truth = camera.original_image.to(image.device)
            self._log.step(iteration, l1_loss(image, truth).item(), float(loss), seconds)

    def scores(self, iteration: int) -> None:
        """Score the test views, and some of the training views."""
        scene = self._training.scene
        train = scene.getTrainCameras()
        splits = {
            "test": scene.getTestCameras(),
            "train": [train[index % len(train)] for index in TRAIN_VIEWS_REPORTED],
        }
        for name, cameras in splits.items():
            if cameras:
                self._split_scores(iteration, name, cameras)
        if self._log is not None:
            self._log.model(iteration, scene.gaussians.get_opacity.detach())

    def _split_scores(self, iteration: int, name: str, cameras: Sequence[Camera]) -> None:
        training = self._training
        scores = evaluate(cameras, training.gaussians, training.backend, training.background)
        l1, psnr = fmean(score.l1 for score in scores), fmean(score.psnr for score in scores)
        print(f"\n[ITER {iteration}] Evaluating {name}: L1 {l1} PSNR {psnr}")
        if self._log is not None:
            self._log.scores(iteration, name, l1, psnr)
            self._log_views(self._log, iteration, name, cameras[:VIEWS_SHOWN])

    @torch.no_grad()
    def _log_views(
        self, log: TensorBoardLog, iteration: int, name: str, cameras: Sequence[Camera]
    ) -> None:
        training = self._training
        for camera in cameras:
            drawn = render(camera, training.gaussians, training.options.pipe, training.background)
            log.view(iteration, name, camera.image_name, drawn["render"], camera.original_image)


class Training:
    """A run over one scene."""

    def __init__(
        self, options: Options, milestones: Milestones, scene: Scene, backend: Backend
    ) -> None:
        self.backend = backend
        self.options = options
        self.milestones = milestones
        self.scene = scene
        self.gaussians = scene.gaussians
        self.first_iteration = 0
        self.gradient_step = self._gradient_step()
        self.queue = ViewQueue(scene.getTrainCameras())
        self.background = torch.full(
            (3,), float(options.model.white_background), device=self.gaussians.device
        )

    def start_from(self, path: str) -> None:
        """Go on from a checkpoint, or start from the Gaussians of a PLY."""
        if path.lower().endswith(".ply"):
            self.gaussians.load_ply(path)
            self.gaussians.training_setup(self.options.optimization)
            return
        checkpoint = load_checkpoint(path)
        self.gaussians.restore(checkpoint.model, self.options.optimization)
        self.first_iteration = checkpoint.iteration
        if checkpoint.loop is not None:
            checkpoint.loop.apply()
            self.queue.resume(checkpoint.loop.views_left)

    def run(self) -> None:
        """Iterate to the end. Ctrl-C saves after the iteration at hand and then interrupts."""
        last = self.options.optimization.iterations
        log = open_log(self.scene.model_path)
        with (
            interruption() as stop,
            tqdm(initial=self.first_iteration, total=last, desc="Training progress") as bar,
            nullcontext() if log is None else closing(log),
        ):
            reporter = Reporter(self, log, bar)
            for iteration in range(self.first_iteration + 1, last + 1):
                self.iterate(iteration, reporter)
                if stop.requested and iteration < last:
                    self.stop(iteration)

    def stop(self, iteration: int) -> NoReturn:
        """Save, say how to go on, and interrupt."""
        self.save(iteration)
        self.save_checkpoint(iteration)
        print(f"Stopped; to go on: --start_checkpoint {self.checkpoint_path(iteration)}")
        raise KeyboardInterrupt

    def iterate(self, iteration: int, reporter: Reporter) -> None:
        """One iteration, in the published order: a saved model lacks its iteration's update."""
        started = time.perf_counter()
        optimization = self.options.optimization
        self.gaussians.update_learning_rate(iteration)
        if iteration % SH_INTERVAL == 0:
            self.gaussians.oneupSHdegree()
        if iteration - 1 == self.milestones.debug_from:
            self.options.pipe.debug = True
            self.backend = choose_backend(self.options)
            self.gradient_step = self._gradient_step()
        background = self.draw_background()
        camera = self.queue.draw()
        if self.options.optimization.random_background:
            camera = camera.over(background)
        view_loss = self.gradient_step(camera, background)
        reporter.step(iteration, camera, view_loss, time.perf_counter() - started)
        if iteration in self.milestones.test:
            reporter.scores(iteration)
        if iteration in self.milestones.save:
            self.save(iteration)
        if is_active(iteration, optimization):
            self.control_density(iteration, view_loss)
        if iteration < optimization.iterations:
            take_step(self.gaussians.trained_by, optimization.optimizer_type, view_loss.radii)
        if iteration in self.milestones.checkpoint:
            self.save_checkpoint(iteration)

    def _gradient_step(self) -> GradientStep:
        lambda_dssim = self.options.optimization.lambda_dssim
        return GradientStep(self.gaussians, self.backend, lambda_dssim)

    def draw_background(self) -> Tensor:
        """The colour (3,) behind the Gaussians."""
        if self.options.optimization.random_background:
            return torch.rand(3).to(self.gaussians.device)
        return self.background

    @torch.no_grad()
    def control_density(self, iteration: int, view_loss: ViewLoss) -> None:
        """Keep the statistics; when due, change the number of Gaussians or reset opacities."""
        options, gaussians = self.options.optimization, self.gaussians
        accumulate(gaussians, view_loss.screen_gradient, view_loss.radii)
        if densifies(iteration, options):
            gaussians.densify_and_prune(
                options.densify_grad_threshold,
                MIN_OPACITY,
                self.scene.cameras_extent,
                MAX_SCREEN_SIZE if prunes_large(iteration, options) else None,
                view_loss.radii,
            )
            if gaussians.get_xyz.shape[0] == 0:
                raise InputError(
                    f"densification left no Gaussian at iteration {iteration}: check the "
                    "dataset's poses, its initial points, and the background colour"
                )
        if resets_opacity(iteration, options, self.options.model.white_background):
            gaussians.reset_opacity()

    def save(self, iteration: int) -> None:
        """Write the Gaussians."""
        print(f"\n[ITER {iteration}] Saving Gaussians")
        self.scene.save(iteration)

    def save_checkpoint(self, iteration: int) -> None:
        """Write all that a later run needs to go on exactly from here."""
        print(f"\n[ITER {iteration}] Saving Checkpoint")
        loop = LoopState.capture(self.queue.left())
        save_checkpoint(self.checkpoint_path(iteration), self.gaussians, iteration, loop)

    def checkpoint_path(self, iteration: int) -> Path:
        """Where the checkpoint of `iteration` is written."""
        return Path(self.scene.model_path) / f"chkpnt{iteration}.pth"


def choose_backend(options: Options) -> Backend:
    """What draws and trains, by the options and the machine."""
    return backend_for(default_device(), RenderOptions(**asdict(options.pipe)))


def build_parser() -> tuple[ArgumentParser, ModelParams, OptimizationParams, PipelineParams]:
    """The command line and its three option groups."""
    parser = ArgumentParser(description="Training script parameters")
    model = ModelParams(parser)
    optimization = OptimizationParams(parser)
    pipeline = PipelineParams(parser)
    add = parser.add_argument
    add("--ip", default="127.0.0.1", help="accepted; there is no viewer server yet")
    add("--port", type=int, default=6009, help="accepted; there is no viewer server yet")
    add("--disable_viewer", action="store_true", help="accepted; there is no viewer server yet")
    add("--debug_from", type=int, default=-1, help="turn --debug on after this iteration")
    add("--detect_anomaly", action="store_true", help="find where NaNs come from, slowly")
    several: dict[str, Any] = {"nargs": "+", "type": int, "metavar": "N"}
    add("--test_iterations", **several, default=DEFAULT_MILESTONES, help="score views; -1: never")
    add("--save_iterations", **several, default=DEFAULT_MILESTONES, help="besides the last")
    add("--checkpoint_iterations", **several, default=[], help="write chkpnt<N>.pth")
    add("--start_checkpoint", help="go on from a chkpnt<N>.pth, or start from a PLY's Gaussians")
    add("--quiet", action="store_true", help="print nothing on stdout")
    return parser, model, optimization, pipeline


def milestones_of(args: Namespace) -> Milestones:
    """The iterations asked for; the last one is always saved."""
    return Milestones(
        test=frozenset(args.test_iterations),
        save=frozenset([*args.save_iterations, args.iterations]),
        checkpoint=frozenset(args.checkpoint_iterations),
        debug_from=args.debug_from,
    )


def default_model_path() -> str:
    """A fresh folder under ./output, named after the batch job if there is one."""
    name = os.environ.get("OAR_JOB_ID") or str(uuid.uuid4())
    return str(Path("./output") / name[:10])


def check_supported(options: ModelOptions) -> None:
    """Refuse what would otherwise be ignored."""
    if options.depths:
        raise InputError("depth regularisation (-d/--depths) is not yet supported")
    if options.train_test_exp:
        raise InputError("exposure compensation (--train_test_exp) is not yet supported")


def prepare_output(options: ModelOptions) -> None:
    """Create the model folder and record the loading options in it."""
    print(f"Output folder: {options.model_path}")
    Path(options.model_path).mkdir(parents=True, exist_ok=True)
    write_cfg_args(options.model_path, options)


def main() -> None:
    """Parse the command line and train."""
    cli.show_messages()
    parser, model_group, optimization_group, pipeline_group = build_parser()
    args = parser.parse_args()
    options = Options(
        model_group.extract(args), optimization_group.extract(args), pipeline_group.extract(args)
    )
    check_supported(options.model)
    options.model.model_path = options.model.model_path or default_model_path()
    print(f"Optimizing {options.model.model_path}")
    safe_state(args.quiet)
    torch.autograd.set_detect_anomaly(args.detect_anomaly)
    prepare_output(options.model)
    backend = choose_backend(options)
    gaussians = GaussianModel(
        options.model.sh_degree, options.optimization.optimizer_type, operations=backend
    )
    scene = Scene(options.model, gaussians)
    gaussians.training_setup(options.optimization)
    training = Training(options, milestones_of(args), scene, backend)
    if args.start_checkpoint:
        training.start_from(args.start_checkpoint)
    training.run()
    print("\nTraining complete.")


if __name__ == "__main__":
    cli.run(main)
