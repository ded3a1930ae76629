# SPDX-License-Identifier: Apache-2.0
"""Trains a Gaussian model from a dataset of posed photographs."""

from __future__ import annotations

import logging
import os
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NoReturn

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
from arguments.milestones import Milestones, declare_milestones, milestones_of
from gaussian_renderer import render
from gaussian_renderer.backend import Backend, Differentiate, RenderOptions, ViewLoss
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.evaluation import DrawnView, draw_views, measured_on_ranks
from gaussian_renderer.view_gradients import mean_gradients, whole
from gaussian_renderer.viewer_socket import TrainingViewer, ViewRequest, listening_socket
from scene import GaussianModel, Scene
from scene.cameras import Camera
from scene.checkpoint import LoopState, save_checkpoint
from scene.densification import accumulate, densifies, is_active, prunes_large, resets_opacity
from scene.device import device_for
from scene.exposure import attach_exposures, set_exposures
from scene.optimizer import check_optimizer_type, take_step
from scene.output_folder import records_removed_on_failure
from scene.raw_parameters import RawParameters
from scene.run_memory import TRAINED_BYTES
from scene.training_start import TrainingStart, changed_options, read_start
from scene.view_queue import ViewQueue
from utils import cli, ranks
from utils.errors import InputError
from utils.folder_lock import locked
from utils.general_utils import get_expon_lr_func, safe_state
from utils.image_utils import to_u8
from utils.interruption import interruption
from utils.loss_utils import l1_loss
from utils.system_utils import announce_data_device
from utils.tensorboard_log import VIEWS_SHOWN, TensorBoardLog, open_log
from utils.training_table import TrainingTable

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


@dataclass(frozen=True)
class TrainingView:
    """A view to differentiate."""

    camera: Camera
    background: Tensor
    """The colour (3,) behind the Gaussians."""
    depth_weight: float = 0.0


class GradientStep:
    """Leaves the gradients of views' losses in the model's parameters."""

    def __init__(self, gaussians: GaussianModel, backend: Backend, lambda_dssim: float) -> None:
        self._gaussians = gaussians
        self._backend, self._lambda_dssim = backend, lambda_dssim
        self._buffers: RawParameters | None = None

    def __call__(self, camera: Camera, background: Tensor, depth_weight: float = 0.0) -> ViewLoss:
        """The view's loss. The gradients are valid until the next call."""
        return self.together([TrainingView(camera, background, depth_weight)])[0]

    def together(self, views: Sequence[TrainingView]) -> list[ViewLoss]:
        """The losses of the views, at most one for each rank; the gradients are their means."""
        raw = self._gaussians.raw_parameters()
        if self._buffers is None or self._buffers.gaussian_count != raw.gaussian_count:
            self._buffers = raw.map(torch.empty_like)
        share_exposures([view.camera for view in views])
        losses = mean_gradients(
            [(self._differentiate(view), view.camera) for view in views], raw, self._buffers, whole
        )
        for parameter, gradient in zip(raw, self._buffers, strict=True):
            parameter.grad = gradient
        self._expose([
            (view.camera, view_loss.exposure_gradient)
            for view, view_loss in zip(views, losses, strict=True)
        ])  # fmt: skip
        return losses

    def _differentiate(self, view: TrainingView) -> Differentiate:
        return partial(
            self._backend.differentiate,
            background=view.background,
            sh_degree=self._gaussians.active_sh_degree,
            lambda_dssim=self._lambda_dssim,
            depth_weight=view.depth_weight,
        )

    def _expose(self, found: Sequence[tuple[Camera, Tensor | None]]) -> None:
        """Leaves the mean gradients of the exposures, if the cameras have any."""
        if all(gradient is None for _, gradient in found):
            return
        exposures = self._gaussians.get_exposure
        exposures.grad = torch.zeros_like(exposures)
        for camera, gradient in found:
            if gradient is not None:
                row = self._gaussians.exposure_mapping[camera.image_name]
                exposures.grad[row] += gradient / len(found)


def share_exposures(cameras: Sequence[Camera]) -> None:
    """Let the other ranks use the exposures that the cameras have now."""
    if ranks.count() > 1 and any(camera.exposure is not None for camera in cameras):
        ranks.everywhere(set_exposures, cameras, [camera.exposure for camera in cameras])


class Reporter:
    """Reports of a run: a progress bar, scores, training.csv, and TensorBoard if it is there."""

    def __init__(
        self, training: Training, log: TensorBoardLog | None, table: TrainingTable, bar: tqdm
    ) -> None:
        self._training = training
        self._log, self._table, self._bar = log, table, bar
        self._average_loss: Tensor | float = 0.0
        self._average_depth_loss: Tensor | float = 0.0
        self._losses: list[tuple[Tensor, Tensor | float]] = []  # since the last row
        self._seconds = table.seconds
        self._row: dict[str, float | int] = {}

    def step(self, iteration: int, camera: Camera, view_loss: ViewLoss, seconds: float) -> None:
        """Report one iteration."""
        self.write_row()
        loss, image = view_loss.loss, view_loss.image
        self._average_loss = 0.4 * loss + 0.6 * self._average_loss
        depth_loss = 0.0 if view_loss.depth_loss is None else view_loss.depth_loss
        self._average_depth_loss = 0.4 * depth_loss + 0.6 * self._average_depth_loss
        self._losses.append((loss, depth_loss))
        self._seconds += seconds
        if iteration % BAR_INTERVAL == 0:
            averages = {"Loss": self._average_loss, "Depth Loss": self._average_depth_loss}
            shown = {name: f"{float(value):.7f}" for name, value in averages.items()}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(BAR_INTERVAL)
            self._begin_row(iteration)
        if self._log is not None:
            truth = camera.original_image.to(image.device)
            self._log.step(iteration, l1_loss(image, truth).item(), float(loss), seconds)

    def write_row(self) -> None:
        """Write the row of the last iteration, if it has one, to training.csv."""
        if self._row:
            self._table.add(self._row)
        self._row = {}

    def _begin_row(self, iteration: int) -> None:
        if self._row:
            return
        losses, depth_losses = zip(*self._losses, strict=True)
        self._losses = []
        self._row = {
            "iteration": iteration,
            "seconds": round(self._seconds, 3),
            "loss": fmean(map(float, losses)),
            "depth_loss": fmean(map(float, depth_losses)),
            "gaussians": self._training.gaussians.get_xyz.shape[0],
        }

    def scores(self, iteration: int) -> None:
        """Score the test views, and some of the training views."""
        self._begin_row(iteration)
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
        share_exposures(cameras)
        shown = training.gaussians, training.backend, training.background
        scores, unrounded = zip(
            *measured_on_ranks(cameras, *shown, DrawnView.measured), strict=True
        )
        if self._log is not None:
            for view in draw_views(cameras[:VIEWS_SHOWN], *shown):
                self._log.view(iteration, name, view.image_name, view.image, view.truth_u8)
        l1, psnr = (fmean(values) for values in zip(*unrounded, strict=True))
        print(f"\n[ITER {iteration}] Evaluating {name}: L1 {l1} PSNR {psnr}")
        rounded = fmean(score.psnr for score in scores), fmean(score.ssim for score in scores)
        print(f"  as metrics.py measures the saved images: PSNR {rounded[0]} SSIM {rounded[1]}")
        self._row |= {f"{name}_l1": l1, f"{name}_psnr": psnr}
        if self._log is not None:
            self._log.scores(iteration, name, l1, psnr)


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
        self.attach_exposures()
        self.gradient_step = self._gradient_step()
        self.depth_weight = get_expon_lr_func(
            options.optimization.depth_l1_weight_init,
            options.optimization.depth_l1_weight_final,
            max_steps=options.optimization.iterations,
        )
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
        self.attach_exposures()

    def attach_exposures(self) -> None:
        """Make all cameras use the exposures that are trained, if any are."""
        if self.options.model.train_test_exp:
            cameras = [*self.scene.getTrainCameras(), *self.scene.getTestCameras()]
            attach_exposures(cameras, self.gaussians.get_exposure_from_name)

    def run(self, quiet: bool = False, viewer: TrainingViewer | None = None) -> None:
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
            closing(TrainingTable(self.scene.model_path, self.first_iteration)) as table,
        ):
            reporter = Reporter(self, log, table, bar)
            for iteration in range(self.first_iteration + 1, last + 1):
                if viewer is not None:
                    viewer.serve(self.draw_for_viewer, iteration == last, lambda: stop.requested)
                self.iterate(iteration, reporter)
                if stop.requested and iteration < last and not self.waiting:
                    reporter.write_row()
                    self.stop(iteration, stop.error())
            reporter.write_row()

    @torch.no_grad()
    def draw_for_viewer(self, request: ViewRequest) -> bytes:
        """The pixels of a view that the network viewer asks for, without exposure."""
        pipe = replace(
            self.options.pipe,
            convert_SHs_python=request.convert_SHs_python,
            compute_cov3D_python=request.compute_cov3D_python,
        )
        drawn = render(
            request.camera, self.gaussians, pipe, self.background, request.scaling_modifier
        )
        return to_u8(drawn["render"]).permute(1, 2, 0).cpu().numpy().tobytes()

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
                self.take_step()
            self.radii = []
        if iteration in self.milestones.checkpoint:
            self.save_checkpoint(iteration)

    def take_step(self) -> None:
        """Update the parameters by the mean gradients of the step's views."""
        views = len(self.radii)
        radii = self.radii[0] if views == 1 else torch.stack(self.radii).amax(dim=0)
        kind = self.options.optimization.optimizer_type
        take_step(self.gaussians.trained_by, kind, radii, views)
        self.gaussians.step_exposures(views)

    def next_view(self, iteration: int) -> tuple[Camera, ViewLoss]:
        """The view of this iteration; several are differentiated together by as many ranks."""
        if not self.waiting:
            last = iteration + self.views_of_step(iteration)
            views = [self.draw_view(number) for number in range(iteration, last)]
            if len(views) == 1:
                (only,) = views
                losses = [self.gradient_step(only.camera, only.background, only.depth_weight)]
            else:
                losses = self.gradient_step.together(views)
            cameras = (view.camera for view in views)
            self.waiting.extend(zip(cameras, losses, strict=True))
        return self.waiting.popleft()

    def draw_view(self, iteration: int) -> TrainingView:
        """The view of an iteration, the next of the queue."""
        background = self.draw_background()
        camera = self.queue.draw()
        if self.options.optimization.random_background:
            camera = camera.over(background)
        return TrainingView(camera, background, self.depth_weight(iteration))

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
    add("--ip", default="127.0.0.1", help="address on which the network viewer can connect")
    add("--port", type=int, default=6009, help="port on which it can connect")
    add("--disable_viewer", action="store_true", help="let no network viewer connect")
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


@contextmanager
def open_viewer(args: Namespace, source_path: str) -> Iterator[TrainingViewer | None]:
    """The server of the network viewer; None if it is disabled or its port is in use."""
    listener = None if args.disable_viewer else listening_socket(args.ip, args.port)
    if listener is None:
        yield None
        return
    with closing(TrainingViewer(listener, source_path)) as viewer:
        yield viewer


def train(
    options: Options, milestones: Milestones, start: TrainingStart | None, args: Namespace
) -> None:
    """Load the scene, record the loading options in the model folder, and train."""
    ranks.check_device(device_for(options.pipe.rasterizer))
    backend = choose_backend(options)
    gaussians = GaussianModel(
        options.model.sh_degree,
        options.optimization.optimizer_type,
        device=device_for(options.pipe.rasterizer),
        operations=backend,
    )
    scene = Scene(options.model, gaussians, gaussian_bytes=TRAINED_BYTES)
    ranks.keep([*scene.getTrainCameras(), *scene.getTestCameras()])
    print(f"Output folder: {options.model.model_path}")
    write_cfg_args(options.model.model_path, options.model)
    gaussians.training_setup(options.optimization)
    training = Training(options, milestones, scene, backend)
    if start is not None:
        training.start_from(start)
    with open_viewer(args, options.model.source_path) as viewer:
        training.run(args.quiet, viewer)


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
    if not 0 <= args.port < 1 << 16:
        raise InputError(f"--port {args.port}: expected a whole number from 0 to 65535")
    start = chosen_start(args.start_checkpoint, options)
    options.model.model_path = options.model.model_path or default_model_path()
    if not args.quiet:
        print(f"Optimizing {options.model.model_path}")
    safe_state(args.quiet)
    announce_data_device(args.data_device, device_for(options.pipe.rasterizer))
    torch.autograd.set_detect_anomaly(args.detect_anomaly)
    folder = Path(options.model.model_path)
    with locked(folder) as made, records_removed_on_failure(folder, made):
        train(options, milestones, start, args)
    print("\nTraining complete.")


if __name__ == "__main__":
    cli.run(ranks.shared(main))
