# SPDX-License-Identifier: Apache-2.0
"""Trains a Gaussian model from a dataset of posed photographs."""

from __future__ import annotations

import logging
import os
import time
import uuid
from argparse import ArgumentParser
from collections import deque
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import (
    NO_EXPOSURES,
    ModelOptions,
    ModelParams,
    OptimizationOptions,
    OptimizationParams,
    PipelineOptions,
    PipelineParams,
    write_cfg_args,
)
from arguments.milestones import Milestones, declare_milestones, milestones_of
from gaussian_renderer import render
from gaussian_renderer.backend import Backend, RenderOptions, ViewLoss
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import evaluate_on_ranks
from gaussian_renderer.view_gradients import mean_gradients
from scene import GaussianModel, Scene
from scene.cameras import Camera
from scene.checkpoint import LoopState, save_checkpoint
from scene.densification import accumulate, densifies, is_active, prunes_large, resets_opacity
from scene.device import device_for
from scene.optimizer import check_optimizer_type, take_step
from scene.output_folder import records_removed_on_failure
from scene.raw_parameters import RawParameters
from scene.training_start import TrainingStart, changed_options, read_start
from scene.view_queue import ViewQueue
from utils import cli, ranks
from utils.errors import InputError
from utils.folder_lock import locked
from utils.general_utils import safe_state
from utils.interruption import interruption
from utils.loss_utils import l1_loss
from utils.system_utils import announce_data_device
from utils.tensorboard_log import VIEWS_SHOWN, TensorBoardLog, open_log

logger = logging.getLogger(__name__)

MIN_OPACITY = 0.005  # densification removes Gaussians below it
MAX_SCREEN_SIZE = 20  # pixels; any number turns on the pruning of large Gaussians
SH_INTERVAL = 1000
BAR_INTERVAL = 10
TRAIN_VIEWS_REPORTED = range(5, 30, 5)


@dataclass(frozen=True)
class Options:
    """All option groups of one run."""

    model: ModelOptions
    optimization: OptimizationOptions
    pipe: PipelineOptions


class GradientStep:
    """Leaves the gradients of views' losses in the model's parameters."""

    def __init__(self, gaussians: GaussianModel, backend: Backend, lambda_dssim: float) -> None:
        self._gaussians = gaussians
        self._backend, self._lambda_dssim = backend, lambda_dssim
        self._buffers: RawParameters | None = None

    def __call__(self, camera: Camera, background: Tensor) -> ViewLoss:
        """The view's loss. The gradients are valid until the next call."""
        return self.together([(camera, background)])[0]

    def together(self, views: Sequence[tuple[Camera, Tensor]]) -> list[ViewLoss]:
        """The losses of views and their backgrounds, at most one for each rank; mean gradients."""
        raw = self._gaussians.raw_parameters()
        if self._buffers is None or self._buffers.gaussian_count != raw.gaussian_count:
            self._buffers = raw.map(torch.empty_like)
        differentiate = partial(
            self._backend.differentiate,
            sh_degree=self._gaussians.active_sh_degree,
            lambda_dssim=self._lambda_dssim,
        )
        over = [(partial(differentiate, background=colour), camera) for camera, colour in views]
        losses = mean_gradients(over, raw, self._buffers, _whole)
        for parameter, gradient in zip(raw, self._buffers, strict=True):
            parameter.grad = gradient
        return losses


def _whole(view_loss: ViewLoss) -> ViewLoss:
    return view_loss


class Reporter:
    """Reports of a run: a progress bar, printed scores, and TensorBoard if it is installed."""

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
        scores = evaluate_on_ranks(
            cameras, training.gaussians, training.backend, training.background
        )
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
        self.waiting: deque[tuple[Camera, ViewLoss]] = deque()
        """Views of the present step that have been differentiated."""
        self.radii: list[Tensor] = []
        """Of the views of the present step so far."""
        self.background = torch.full(
            (3,), float(options.model.white_background), device=self.gaussians.device
        )

    def start_from(self, start: TrainingStart) -> None:
        """Go on from a checkpoint, or start from a file of Gaussians."""
        start.apply(self.gaussians, self.queue, self.options.optimization)
        self.first_iteration = start.iteration

    def run(self, quiet: bool = False) -> None:
        """Iterate to the end. After Ctrl-C, SIGTERM or SIGHUP save and end."""
        last = self.options.optimization.iterations
        log = open_log(self.scene.model_path)
        with (
            interruption() as stop,
            tqdm(
                initial=self.first_iteration,
                total=last,
                desc="Training progress",
                disable=quiet,
            ) as bar,
            nullcontext() if log is None else closing(log),
        ):
            reporter = Reporter(self, log, bar)
            for iteration in range(self.first_iteration + 1, last + 1):
                self.iterate(iteration, reporter)
                if stop.requested and iteration < last and not self.waiting:
                    self.stop(iteration, stop.error())

    def stop(self, iteration: int, error: KeyboardInterrupt) -> NoReturn:
        """Save, print how to go on, and raise `error`."""
        self.save(iteration)
        self.save_checkpoint(iteration)
        print(f"Stopped; to go on: --start_checkpoint {self.checkpoint_path(iteration)}")
        raise error

    def iterate(self, iteration: int, reporter: Reporter) -> None:
        """One iteration, in the published order: a model is saved before its iteration's update."""
        started = time.perf_counter()
        optimization = self.options.optimization
        self.gaussians.update_learning_rate(iteration)
        if iteration % SH_INTERVAL == 0:
            self.gaussians.oneupSHdegree()
        if iteration - 1 == self.milestones.debug_from:
            self.options.pipe.debug = True
            self.backend = choose_backend(self.options)
            self.gradient_step = self._gradient_step()
        camera, view_loss = self.next_view(iteration)
        reporter.step(iteration, camera, view_loss, time.perf_counter() - started)
        if iteration in self.milestones.test:
            reporter.scores(iteration)
        if iteration in self.milestones.save:
            self.save(iteration)
        if is_active(iteration, optimization):
            self.control_density(iteration, view_loss)
        self.radii.append(view_loss.radii)
        if not self.waiting:
            if iteration < optimization.iterations:
                kind, views = optimization.optimizer_type, len(self.radii)
                radii = self.radii[0] if views == 1 else torch.stack(self.radii).amax(dim=0)
                take_step(self.gaussians.trained_by, kind, radii, views)
            self.radii = []
        if iteration in self.milestones.checkpoint:
            self.save_checkpoint(iteration)

    def next_view(self, iteration: int) -> tuple[Camera, ViewLoss]:
        """The view of this iteration; several are differentiated together by as many ranks."""
        if not self.waiting:
            views = [self.draw_view() for _ in range(self.views_of_step(iteration))]
            if len(views) == 1:
                losses = [self.gradient_step(*views[0])]
            else:
                losses = self.gradient_step.together(views)
            self.waiting.extend(
                (camera, loss) for (camera, _), loss in zip(views, losses, strict=True)
            )
        return self.waiting.popleft()

    def draw_view(self) -> tuple[Camera, Tensor]:
        """The next view, and the colour behind the Gaussians."""
        background = self.draw_background()
        camera = self.queue.draw()
        if self.options.optimization.random_background:
            camera = camera.over(background)
        return camera, background

    def views_of_step(self, first: int) -> int:
        """How many iterations, from this one on, are one step of the optimiser.

        One for each rank, but none after an iteration that does more than a step.
        """
        last = first
        while last - first + 1 < ranks.count() and not self.ends_step(last):
            last += 1
        return last - first + 1

    def ends_step(self, iteration: int) -> bool:
        """Whether the next iteration needs the parameters that this one leaves."""
        optimization, milestones = self.options.optimization, self.milestones
        return (
            iteration >= optimization.iterations - 1
            or iteration == milestones.debug_from
            or iteration in milestones.test | milestones.save | milestones.checkpoint
            or (iteration + 1) % SH_INTERVAL == 0
            or densifies(iteration, optimization)
            or resets_opacity(iteration, optimization, self.options.model.white_background)
        )

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
                    f"densification removed all Gaussians at iteration {iteration}: check the "
                    "dataset's poses, its initial points, and the background colour"
                )
        if resets_opacity(iteration, options, self.options.model.white_background):
            gaussians.reset_opacity()

    def save(self, iteration: int) -> None:
        """Write the Gaussians. InputError if none of them has finite values."""
        broken = self.gaussians.raw_parameters().count_not_finite()
        if broken == self.gaussians.get_xyz.shape[0]:
            raise InputError(
                f"at iteration {iteration} no Gaussian has finite values any more: training has "
                "diverged; lower the learning rates"
            )
        if broken:
            logger.warning("iteration %d: %d Gaussians are not finite", iteration, broken)
        print(f"\n[ITER {iteration}] Saving Gaussians")
        self.scene.save(iteration)

    def save_checkpoint(self, iteration: int) -> None:
        """Write everything that a later run needs to continue exactly from here."""
        print(f"\n[ITER {iteration}] Saving Checkpoint")
        loop = LoopState.capture(self.queue.left())
        save_checkpoint(self.checkpoint_path(iteration), self.gaussians, iteration, loop)

    def checkpoint_path(self, iteration: int) -> Path:
        """Where the checkpoint of `iteration` is written."""
        return Path(self.scene.model_path) / f"chkpnt{iteration}.pth"


def choose_backend(options: Options) -> Backend:
    """The backend for these options on this machine."""
    device = device_for(options.pipe.rasterizer)
    return backend_for(device, RenderOptions(**asdict(options.pipe)))


def build_parser() -> tuple[ArgumentParser, ModelParams, OptimizationParams, PipelineParams]:
    """The command line and its three option groups."""
    parser = ArgumentParser(allow_abbrev=False, description=__doc__)
    model = ModelParams(parser)
    optimization = OptimizationParams(parser)
    pipeline = PipelineParams(parser)
    add = parser.add_argument
    add("--ip", default="127.0.0.1", help="without effect: there is no viewer server yet")
    add("--port", type=int, default=6009, help="without effect: there is no viewer server yet")
    add(
        "--disable_viewer",
        action="store_true",
        help="without effect: there is no viewer server yet",
    )
    add("--detect_anomaly", action="store_true", help="stop at the operation that gives NaN; slow")
    declare_milestones(parser)
    add(
        "--start_checkpoint",
        help="a chkpnt<N>.pth to go on from, or a PLY, SPZ, ... to start from",
    )
    add("--quiet", action="store_true", help="print errors only")
    return parser, model, optimization, pipeline


def default_model_path() -> str:
    """A fresh folder under ./output, named after the batch job if there is one."""
    name = os.environ.get("OAR_JOB_ID") or str(uuid.uuid4())
    return str(Path("./output") / name[:10])


def check_options(options: Options) -> None:
    """Raise `InputError` for bad values and for options that are not supported."""
    cli.check_ranges(options.model, options.optimization, options.pipe)
    if not options.model.source_path:
        raise InputError("-s/--source_path is required: the folder of the dataset")
    if options.model.depths:
        raise InputError("depth regularisation (-d/--depths) is not yet supported")
    if options.model.train_test_exp:
        raise InputError(NO_EXPOSURES)
    check_optimizer_type(options.optimization.optimizer_type)


def chosen_start(path: str | None, options: Options) -> TrainingStart | None:
    """The content of the file to start from; an antialiased model turns on --antialiasing."""
    if not path:
        return None
    start = read_start(path, options.model.sh_degree, options.optimization.iterations)
    if start.antialiasing and not options.pipe.antialiasing:
        logger.warning("%s holds an antialiased model: training uses --antialiasing", path)
        options.model.antialiasing = options.pipe.antialiasing = True
    if start.iteration and (changed := changed_options(path, options.model)):
        logger.warning("%s is from a training with other options: this one has %s", path,
                       "; ".join(changed))  # fmt: skip
    return start


def train(
    options: Options, milestones: Milestones, start: TrainingStart | None, quiet: bool
) -> None:
    """Load the scene, record the loading options in the model folder, and train."""
    backend = choose_backend(options)
    ranks.check_device(device_for(options.pipe.rasterizer))
    gaussians = GaussianModel(
        options.model.sh_degree,
        options.optimization.optimizer_type,
        device=device_for(options.pipe.rasterizer),
        operations=backend,
    )
    scene = Scene(options.model, gaussians)
    ranks.keep([*scene.getTrainCameras(), *scene.getTestCameras()])
    print(f"Output folder: {options.model.model_path}")
    write_cfg_args(options.model.model_path, options.model)
    gaussians.training_setup(options.optimization)
    training = Training(options, milestones, scene, backend)
    if start is not None:
        training.start_from(start)
    training.run(quiet)


def main() -> None:
    """Parse the command line and train."""
    parser, model_group, optimization_group, pipeline_group = build_parser()
    args = parser.parse_args()
    cli.show_messages(args.quiet)
    options = Options(
        model_group.extract(args), optimization_group.extract(args), pipeline_group.extract(args)
    )
    check_options(options)
    milestones = milestones_of(args, options.optimization.iterations)
    start = chosen_start(args.start_checkpoint, options)
    options.model.model_path = options.model.model_path or default_model_path()
    if not args.quiet:
        print(f"Optimizing {options.model.model_path}")
    safe_state(args.quiet)
    announce_data_device(args.data_device, device_for(options.pipe.rasterizer))
    torch.autograd.set_detect_anomaly(args.detect_anomaly)
    folder = Path(options.model.model_path)
    with locked(folder) as made, records_removed_on_failure(folder, made):
        train(options, milestones, start, args.quiet)
    print("\nTraining complete.")


if __name__ == "__main__":
    cli.run(ranks.shared(main))
