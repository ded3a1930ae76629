# SPDX-License-Identifier: Apache-2.0
"""Trains a Gaussian model from a dataset of posed photographs."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

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
from gaussian_renderer.evaluation import ViewScore, evaluate
from gaussian_renderer.photometric import photometric_loss
from scene import GaussianModel, Scene
from scene.optimizer import take_step
from scene.checkpoint import LoopState, load_checkpoint, save_checkpoint
from utils import cli
from utils.errors import InputError
from utils.general_utils import safe_state
from utils.tensorboard_log import VIEWS_SHOWN, TensorBoardLog, open_log

DEFAULT_MILESTONES = [7_000, 30_000]
MIN_OPACITY = 0.005  # densification removes what is fainter
MAX_SCREEN_SIZE = 20  # pixels; its being set prunes large Gaussians, see scene.densification
SH_INTERVAL = 1000
BAR_INTERVAL = 10
TRAIN_VIEWS_REPORTED = range(5, 30, 5)


@dataclass(frozen=True)
class Milestones:
    """At which iterations something is reported, written or switched on."""

    test: frozenset[int]
    save: frozenset[int]
    checkpoint: frozenset[int]
    debug_from: int = -1


@dataclass
class ViewQueue:
    """Training views in random order, each once per pass over the data."""

    cameras: Sequence[Any]
    left: list[Any] = field(default_factory=list)

    def draw(self) -> Any:
        """The next view."""
        if not self.left:
            self.left = list(self.cameras)
        return self.left.pop(random.randrange(len(self.left)))

    def names_left(self) -> list[str]:
        """Names of the views that this pass has still to draw."""
        return [camera.image_name for camera in self.left]

    def resume(self, names: Sequence[str]) -> None:
        """Go on with a pass of which `names` are left."""
        by_name = {camera.image_name: camera for camera in self.cameras}
        self.left = [by_name[name] for name in names if name in by_name]


@dataclass(frozen=True)
class Step:
    """What one view's forward and backward pass leaves besides the gradients."""

    loss: float
    image: Tensor
    """(3,H,W)"""
    screen_points: Tensor
    """(N,3), with its gradient."""
    visible: Tensor
    """(K,1) indices."""
    radii: Tensor
    """(N,) pixels."""


def gradient_step(
    camera: Any, gaussians: GaussianModel, pipe: Any, background: Tensor, lambda_dssim: float
) -> Step:
    """Render one view, and leave the loss's gradients in the model's parameters."""
    drawn = render(camera, gaussians, pipe, background)
    loss = photometric_loss(drawn["render"], camera, lambda_dssim)
    loss.backward()
    return Step(
        loss.item(),
        drawn["render"].detach(),
        drawn["viewspace_points"],
        drawn["visibility_filter"],
        drawn["radii"],
    )


@dataclass
class Training:
    """A run: the data, the model, and the options that steer it."""

    scene: Scene
    gaussians: GaussianModel
    model: ModelOptions
    optimization: OptimizationOptions
    pipe: PipelineOptions
    milestones: Milestones
    log: TensorBoardLog | None
    first_iteration: int = 0
    average_loss: float = 0.0

    def __post_init__(self) -> None:
        self.queue = ViewQueue(self.scene.getTrainCameras())
        if not self.queue.cameras:
            raise InputError(f"{self.model.source_path}: the dataset has no training views")
        white = 1.0 if self.model.white_background else 0.0
        self.background = torch.full((3,), white, device=self.gaussians.device)

    def start_from(self, path: str) -> None:
        """Go on from a checkpoint, or start from the Gaussians of a PLY."""
        if path.lower().endswith(".ply"):
            self.gaussians.load_ply(path)
            self.gaussians.spatial_lr_scale = self.scene.cameras_extent
            self.gaussians.training_setup(self.optimization)
            return
        checkpoint = load_checkpoint(path)
        self.gaussians.restore(checkpoint.model, self.optimization)
        self.first_iteration = checkpoint.iteration
        if checkpoint.loop is not None:
            checkpoint.loop.apply()
            self.queue.resume(checkpoint.loop.views_left)

    def run(self) -> None:
        """Iterate to the end. Ctrl-C saves after the iteration at hand and then interrupts."""
        iterations = range(self.first_iteration + 1, self.optimization.iterations + 1)
        with interruption() as interrupted, progress_bar(iterations) as bar:
            for iteration in iterations:
                self.iterate(iteration, bar)
                if interrupted.is_set and iteration < iterations[-1]:
                    bar.close()
                    self.save(iteration)
                    self.save_checkpoint(iteration)
                    raise KeyboardInterrupt

    def iterate(self, iteration: int, bar: tqdm) -> None:
        """One iteration, in the published order: see the tests for what depends on it."""
        started = time.perf_counter()
        self.gaussians.update_learning_rate(iteration)
        if iteration % SH_INTERVAL == 0:
            self.gaussians.oneupSHdegree()
        if iteration - 1 == self.milestones.debug_from:
            self.pipe.debug = True
        camera = self.queue.draw()
        step = gradient_step(
            camera,
            self.gaussians,
            self.pipe,
            self.draw_background(),
            self.optimization.lambda_dssim,
        )
        self.show(iteration, step, bar)
        self.report(iteration, step, camera, time.perf_counter() - started)
        if iteration in self.milestones.save:
            self.save(iteration)
        if iteration < self.optimization.densify_until_iter:
            self.densify(iteration, step)
        if iteration < self.optimization.iterations:
            self.update(step)
        if iteration in self.milestones.checkpoint:
            self.save_checkpoint(iteration)

    def draw_background(self) -> Tensor:
        """The colour (3,) behind the Gaussians."""
        if self.optimization.random_background:
            return torch.rand(3).to(self.gaussians.device)
        return self.background

    def densify(self, iteration: int, step: Step) -> None:
        """Keep the statistics; at intervals change the number of Gaussians, or reset opacities."""
        options, gaussians = self.optimization, self.gaussians
        torch.maximum(gaussians.max_radii2D, step.radii, out=gaussians.max_radii2D)
        gaussians.add_densification_stats(step.screen_points, step.visible)
        if (
            iteration > options.densify_from_iter
            and iteration % options.densification_interval == 0
        ):
            gaussians.densify_and_prune(
                options.densify_grad_threshold,
                MIN_OPACITY,
                self.scene.cameras_extent,
                MAX_SCREEN_SIZE if iteration > options.opacity_reset_interval else None,
                step.radii,
            )
            if gaussians.get_xyz.shape[0] == 0:
                raise InputError(
                    f"no Gaussian is left after the densification of iteration {iteration}: "
                    "check the dataset's poses and background"
                )
        if iteration % options.opacity_reset_interval == 0 or (
            self.model.white_background and iteration == options.densify_from_iter
        ):
            gaussians.reset_opacity()

    def update(self, step: Step) -> None:
        """Step the optimiser and drop the gradients."""
        take_step(self.gaussians.trained_by, step.radii)

    def show(self, iteration: int, step: Step, bar: tqdm) -> None:
        """Move the progress bar every tenth iteration."""
        self.average_loss = 0.4 * step.loss + 0.6 * self.average_loss
        if iteration % BAR_INTERVAL == 0:
            bar.set_postfix({"Loss": f"{self.average_loss:.7f}"}, refresh=False)
            bar.update(BAR_INTERVAL)
        if iteration == self.optimization.iterations:
            bar.close()

    def report(self, iteration: int, step: Step, camera: Any, seconds: float) -> None:
        """Log the step, and score test and some train views where that is asked for."""
        if self.log is not None:
            l1 = (step.image - camera.original_image.to(step.image.device)).abs().mean().item()
            self.log.step(iteration, l1, step.loss, seconds)
        if iteration not in self.milestones.test:
            return
        train = self.scene.getTrainCameras()
        reported = {
            "test": self.scene.getTestCameras(),
            "train": [train[index % len(train)] for index in TRAIN_VIEWS_REPORTED],
        }
        for name, cameras in reported.items():
            if cameras:
                scores = evaluate(cameras, self.gaussians, self.pipe, self.background)
                self.report_scores(iteration, name, cameras, scores)
        if self.log is not None:
            self.log.model(iteration, self.gaussians.get_opacity.detach())

    def report_scores(
        self, iteration: int, name: str, cameras: Sequence[Any], scores: Sequence[ViewScore]
    ) -> None:
        """Print, and log, the means over the views of one split."""
        l1, psnr = fmean(score.l1 for score in scores), fmean(score.psnr for score in scores)
        print(f"\n[ITER {iteration}] Evaluating {name}: L1 {l1} PSNR {psnr}")
        if self.log is not None:
            self.log.scores(iteration, name, l1, psnr)
            self.log_views(iteration, name, cameras[:VIEWS_SHOWN])

    @torch.no_grad()
    def log_views(self, iteration: int, name: str, cameras: Sequence[Any]) -> None:
        """Log renders beside their photographs."""
        for camera in cameras:
            image = render(camera, self.gaussians, self.pipe, self.background)["render"]
            self.log.view(iteration, name, camera.image_name, image, camera.original_image)

    def save(self, iteration: int) -> None:
        """Write the Gaussians."""
        print(f"\n[ITER {iteration}] Saving Gaussians")
        self.scene.save(iteration)

    def save_checkpoint(self, iteration: int) -> None:
        """Write all that a later run needs to go on exactly from here."""
        print(f"\n[ITER {iteration}] Saving Checkpoint")
        path = Path(self.scene.model_path) / f"chkpnt{iteration}.pth"
        loop = LoopState.capture(self.queue.names_left())
        save_checkpoint(path, self.gaussians, iteration, loop)


@dataclass
class Interruption:
    """Whether Ctrl-C has been pressed."""

    is_set: bool = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Note the first Ctrl-C, so that no half-done iteration is saved; a second stops at once."""
    noted = Interruption()

    def note(signum: int, frame: FrameType | None) -> None:
        noted.is_set = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def progress_bar(iterations: range) -> Iterator[tqdm]:
    """The bar over all iterations."""
    with tqdm(total=len(iterations), desc="Training progress") as bar:
        yield bar


def build_parser() -> tuple[ArgumentParser, ModelParams, OptimizationParams, PipelineParams]:
    """The command line and its three option groups."""
    parser = ArgumentParser(description="Training script parameters")
    model = ModelParams(parser)
    optimization = OptimizationParams(parser)
    pipeline = PipelineParams(parser)
    parser.add_argument("--ip", default="127.0.0.1", help="viewer server: address (no server yet)")
    parser.add_argument("--port", type=int, default=6009, help="viewer server: port")
    parser.add_argument("--disable_viewer", action="store_true", help="open no viewer server")
    parser.add_argument("--debug_from", type=int, default=-1, help="turn --debug on from there")
    parser.add_argument("--detect_anomaly", action="store_true", help="find NaNs' origins, slowly")
    for kind, default in (
        ("test", DEFAULT_MILESTONES),
        ("save", DEFAULT_MILESTONES),
        ("checkpoint", []),
    ):
        parser.add_argument(f"--{kind}_iterations", nargs="+", type=int, default=default)
    parser.add_argument("--start_checkpoint", help="go on from a chkpnt*.pth, or start from a PLY")
    parser.add_argument("--quiet", action="store_true", help="print nothing on stdout")
    return parser, model, optimization, pipeline


def default_model_path() -> str:
    """A fresh folder under ./output, named after the batch job if there is one."""
    name = os.environ.get("OAR_JOB_ID") or str(uuid.uuid4())
    return str(Path("./output") / name[:10])


def check_supported(options: ModelOptions) -> None:
    """Refuse what would otherwise be ignored."""
    if options.depths:
        raise InputError("depth regularisation (--depths) is not yet supported")
    if options.train_test_exp:
        raise InputError("exposure compensation (--train_test_exp) is not yet supported")


def prepare_output(options: ModelOptions) -> None:
    """Create the model folder and record the loading options in it."""
    options.model_path = options.model_path or default_model_path()
    print(f"Output folder: {options.model_path}")
    Path(options.model_path).mkdir(parents=True, exist_ok=True)
    write_cfg_args(options.model_path, options)


def milestones_of(args: Namespace) -> Milestones:
    """The iterations asked for; the last one is always saved."""
    return Milestones(
        test=frozenset(args.test_iterations),
        save=frozenset([*args.save_iterations, args.iterations]),
        checkpoint=frozenset(args.checkpoint_iterations),
        debug_from=args.debug_from,
    )


def main() -> None:
    """Parse the command line and train."""
    cli.show_messages()
    parser, model_group, optimization_group, pipeline_group = build_parser()
    args = parser.parse_args(sys.argv[1:])
    options = model_group.extract(args)
    check_supported(options)
    options.model_path = options.model_path or default_model_path()
    print(f"Optimizing {options.model_path}")
    safe_state(args.quiet)
    torch.autograd.set_detect_anomaly(args.detect_anomaly)
    prepare_output(options)
    optimization = optimization_group.extract(args)
    gaussians = GaussianModel(options.sh_degree, optimization.optimizer_type)
    scene = Scene(options, gaussians)
    gaussians.training_setup(optimization)
    training = Training(
        scene=scene,
        gaussians=gaussians,
        model=options,
        optimization=optimization,
        pipe=pipeline_group.extract(args),
        milestones=milestones_of(args),
        log=open_log(options.model_path),
    )
    if args.start_checkpoint:
        training.start_from(args.start_checkpoint)
    training.run()
    print("\nTraining complete.")


if __name__ == "__main__":
    cli.run(main)
