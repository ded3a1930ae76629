# SPDX-License-Identifier: Apache-2.0
"""How long an iteration takes on this machine, measured on copies of the start model."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median

from torch import Tensor

from gaussian_compression.budget import choice_line, chosen_settings
from gaussian_compression.finetune import Finetuner, TrainableModel
from gaussian_compression.pipeline import CompressionJob
from gaussian_compression.plan import Costs, ViewCounts, plan_lines, plan_of
from gaussian_compression.straight_through import straight_through
from gaussian_compression.trainable import FullPrecision, Trainable
from gaussian_compression.validation_split import split_off_guard
from gaussian_renderer.backend import Backend
from gaussian_renderer.choose_backend import backend_for
from scene.raw_parameters import RawParameters
from splat_formats.repairs import showable
from splat_formats.splats import Splats
from utils import ranks

_ITERATIONS = 6
"""The first is not counted: it loads kernels and allocates."""
_EVERY = (1, 4)
"""The model is timed as a whole, and with every fourth Gaussian."""


def planned(job: CompressionJob, began: float, note: Callable[[str], None]) -> CompressionJob:
    """The job with its plan and, if there is a budget, with the settings that keep to it.

    `began`: the time.monotonic() at which the program began. `note` gets what the run will do and
    how long it takes, in lines.
    """
    start, views, costs = showable(job.start).splats.count, view_counts(job), measured_costs(job)
    plan_with = partial(plan_of, start=start, views=views, costs=costs)
    settings = job.settings
    if settings.budget_minutes is not None:
        seconds = 60 * settings.budget_minutes - (time.monotonic() - began)
        settings = chosen_settings(settings, job.rounds_folder, seconds, plan_with)
        note(choice_line(settings))
    plan = plan_with(settings)
    for line in plan_lines(plan):
        note(line)
    return replace(job, settings=settings, plan=plan)


def view_counts(job: CompressionJob) -> ViewCounts:
    """The numbers of views of a run."""
    training, guard = job.training_views, job.test_views
    if job.settings.trajectory.guard == "train":
        split = split_off_guard(job.training_views)
        training, guard = split.training, split.guard
    return ViewCounts(len(training), len(guard), len(job.test_views))


def measured_costs(job: CompressionJob) -> Costs:
    """The times of iterations of the rounds' fine-tuning. The job's model is not changed."""
    backend = backend_for(job.background.device, job.render_options)
    start = showable(job.start).splats
    counts, seconds = [], []
    for every in _EVERY:
        part = start.rows(slice(None, None, every))
        counts.append(part.count)
        seconds.append(_seconds(job, part, backend))
    if counts[0] == counts[-1]:
        return Costs(seconds[0], 0.0)
    slope = max(0.0, (seconds[0] - seconds[1]) / (counts[0] - counts[1]))
    return Costs(max(0.0, seconds[0] - slope * counts[0]), slope)


def _seconds(job: CompressionJob, splats: Splats, backend: Backend) -> float:
    """The median time of an iteration."""
    trajectory = job.settings.trajectory
    differentiate = partial(
        backend.differentiate,
        background=job.background,
        sh_degree=splats.sh_degree,
        lambda_dssim=trajectory.finetune.lambda_dssim,
    )
    finetuner = Finetuner(differentiate, job.extent, trajectory.finetune)
    raw = RawParameters.from_splats(splats, job.background.device).map(Tensor.clone)
    times = [time.monotonic()]

    def note(loss: Tensor) -> None:
        float(loss)  # waits for the device
        times.append(time.monotonic())

    trained = _trainable(job, raw, backend)
    iterations = ranks.count() * _ITERATIONS
    finetuner.run(trained, job.training_views, iterations, random.Random(0), note)
    steps = times[1 :: ranks.count()]  # the views of a step end together
    return median(after - before for before, after in pairwise(steps)) / ranks.count()


def _trainable(job: CompressionJob, raw: RawParameters, backend: Backend) -> Trainable:
    trajectory = job.settings.trajectory
    model = TrainableModel.start_from(raw, trajectory.quantization)
    if model.ranges is None or trajectory.quantization is None:
        return FullPrecision(raw, trajectory.finetune, backend)
    return straight_through(
        raw, model.ranges, trajectory.finetune, trajectory.quantization, backend
    )
