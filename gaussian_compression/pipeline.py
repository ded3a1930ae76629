# SPDX-License-Identifier: Apache-2.0
"""The order of the stages from a trained model to a file's bytes. No arithmetic here.

measure -> fine-tune unpruned (round 0, which losses are measured against) -> rounds of {gradients,
prune, fine-tune, measure the guard views} -> the model that the stopping rule chooses -> final
fine-tuning on grids that satisfy the rule (shipping.py) -> integers -> bytes.
"""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gaussian_compression.checkpoints import Checkpoint, RoundFolder
from gaussian_compression.exports import Exports, exports_of, measured
from gaussian_compression.final_model import (
    check_target,
    model_to_store,
    reduced_and_stored,
    target_figures,
    target_warnings,
)
from gaussian_compression.final_stage import FinalStage, as_published
from gaussian_compression.finetune import Finetuner, TrainableModel
from gaussian_compression.fingerprint import environment, splats_digest, views_digest
from gaussian_compression.ladder import LadderStep, StepFolder, step_count, step_name
from gaussian_compression.measuring import Measuring
from gaussian_compression.plan import Plan, TimeLeft, duration
from gaussian_compression.progress import Progress
from gaussian_compression.prune import count_after_round, rows_to_keep
from gaussian_compression.quantize import box_warnings
from gaussian_compression.report import LadderFigures, PromiseFigures, TargetFigures, ViewFigures
from gaussian_compression.report_pictures import fault_of_pillow
from gaussian_compression.round_choice import check_measured, needed_rounds, verdict_of
from gaussian_compression.rounds import (
    Cycle,
    Measurement,
    Quality,
    Round,
    SizeEstimate,
    StageTime,
)
from gaussian_compression.scores import ScoreTools, accumulate_on_ranks, score_named
from gaussian_compression.settings import (
    CompressionSettings,
    RateCourse,
    check_settings,
)
from gaussian_compression.shipping import (
    adjustments_of,
    end_warnings,
    promise_of,
    start_warnings,
)
from gaussian_compression.size_target import Stored, estimated_with, is_near
from gaussian_compression.stage_times import Clock, StageClock
from gaussian_compression.stopping import Verdict, allowed_on_guard, round_line
from gaussian_compression.targets import Reducer, no_checkpoint
from gaussian_compression.trainable import FullPrecision, Trainable
from gaussian_compression.validation_split import ViewSplit, split_off_guard
from gaussian_compression.view_figures import Pictures, Scores, pictures_of, view_figures
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import decode
from splat_formats.decoded import to_splats
from splat_formats.file_description import from_entries
from splat_formats.outliers import Adjustments, with_limited_colours
from splat_formats.repairs import showable
from splat_formats.scene import SplatScene
from splat_formats.splats import Splats
from utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompressionJob:
    """The inputs of a compression: model, photographs and settings."""

    start: Splats
    training_views: Sequence[Camera]
    test_views: Sequence[Camera]
    extent: float
    background: torch.Tensor
    """(3,) RGB in 0..1, on the device of the compression."""
    render_options: RenderOptions
    settings: CompressionSettings
    rounds_folder: Path
    identity: dict[str, Any]
    """What else the result depends on (resolution, ...): a run continues only from checkpoints with
    the same values. Instead of `source_path`, the photographs themselves are compared."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The metadata to store in the file."""
    exports: tuple[str, ...] = ()
    """Names of files of other formats to make of the decoded model."""
    plan: Plan | None = None
    """For the time left after each round; None: it is not shown."""


@dataclass(frozen=True)
class CompressionResult:
    """The file's bytes, the model that they decode to, and the figures of the compression."""

    data: bytes
    stored: Stored
    """The integers in `data`."""
    decoded: Splats
    rounds: list[Round]
    shipped_round: int
    stop_reason: str
    iterations: int
    """Of fine-tuning, from the start model to the stored one."""
    guard_views: list[str]
    start_guard: Quality
    start_test: Quality
    final_guard: Quality
    final_test: Quality
    dropped_non_finite: int
    stage_times: list[StageTime]
    environments: list[dict[str, Any]]
    """Machine and software, each from its round `from_round` on."""
    promise: PromiseFigures
    target: TargetFigures | None
    warnings: tuple[str, ...]
    """Sentences for the report, which have also been logged."""
    views: tuple[ViewFigures, ...]
    pictures: Pictures
    exports: Exports
    ladder: tuple[LadderStep, ...]


def compress(job: CompressionJob, progress: Progress) -> CompressionResult:
    """Run all stages; continues from the rounds of an earlier run that was killed."""
    check_settings(job.settings)
    return _Run(job, progress).result()


class _Run:
    """One run. Its methods are the stages that the module's docstring lists."""

    def __init__(self, job: CompressionJob, progress: Progress) -> None:
        self._job, self._progress, self._settings = job, progress, job.settings
        self._trajectory = job.settings.trajectory
        shown = showable(job.start)
        for notice in shown.notices:
            logger.warning("start model: %s", notice)
        self._start, self._dropped = shown.splats, shown.dropped
        if not self._start.count:
            raise InputError(
                "start model: expected Gaussians that an image can show, found none among "
                f"{job.start.count:,}"
            )
        check_target(job.settings.stopping, self._start, job.metadata)
        self._warnings = list(shown.notices)
        if self._settings.grids is None:  # version 1 has no place for exact values
            self._start, limited = with_limited_colours(self._start)
            Adjustments(colours_limited=limited).log()
            if (quantization := self._trajectory.quantization) is not None:
                self._warn(box_warnings(self._start.xyz, quantization.position_bits))
        self._views = self._split_views()
        self._device = job.background.device
        self._backend = backend_for(self._device, job.render_options)
        background, sh_degree = job.background, self._start.sh_degree
        self._differentiate = partial(
            self._backend.differentiate,
            background=background,
            sh_degree=sh_degree,
            lambda_dssim=self._trajectory.finetune.lambda_dssim,
        )
        ms_ssim = job.settings.stopping.max_ms_ssim_drop is not None
        self._measure = Measuring(self._backend, background, sh_degree, progress, ms_ssim)
        pull_back = partial(self._backend.pull_back, sh_degree=sh_degree)
        self._tools = ScoreTools(self._backend, self._differentiate, pull_back, background)
        self._score = score_named(self._trajectory.score, self._tools)
        self._finetuner = Finetuner(self._differentiate, job.extent, self._trajectory.finetune)
        self._final = FinalStage(
            job.settings, self._views, self._measure, self._backend, self._run, job.metadata
        )
        # The stored round may be `patience` rounds before the last one.
        keep = None if job.settings.keep_rounds else job.settings.stopping.patience + 1
        self._ladder = tuple(step_count(part, self._start.count) for part in job.settings.ladder)
        self._folder = RoundFolder(
            job.rounds_folder,
            self._fingerprint(),
            keep,
            environment(self._device),
            partial(needed_rounds, rule=job.settings.stopping, ladder=self._ladder),
        )
        self._stages = StageClock()
        self._time_left = None if job.plan is None else TimeLeft(job.plan)

    def result(self) -> CompressionResult:
        start = RawParameters.from_splats(self._start, self._device)
        with self._stages.timed("measure the start model"):
            start_scores = self._scores(start, "start")
        start_guard, start_test = start_scores.means()
        self._warn(start_warnings(start_guard))
        with self._stages.timed("rounds"):
            rounds, verdict = self._all_rounds(start)
        with self._stages.timed("final fine-tuning"):
            reducer = self._reducer(rounds)
            made = model_to_store(verdict, reducer, self._final)
        stored = made.stored
        if isinstance(stored, GridSplats):
            adjustments = adjustments_of(made.before, stored)
            adjustments.log()
            self._warnings += filter(None, [str(adjustments)])
        with self._stages.timed("encode, decode and compare"):
            data = self._final.encoded(stored)
        decoded = to_splats(decode(data).splats)
        with self._stages.timed("measure the decoded model"):
            final = RawParameters.from_splats(decoded, self._device)
            final_scores = self._scores(final, "decoded")
        final_guard, final_test = final_scores.means()
        views = view_figures(start_scores, final_scores)
        with self._stages.timed("pictures for the report"):
            pictures = self._pictures(views, final)
        with self._stages.timed("export"):
            exports = self._exports(decoded)
        with self._stages.timed("ladder"):
            ladder = self._ladder_steps(reducer)
        promise = self._promise(rounds, made.base, final_guard)
        target = target_figures(self._settings.stopping, made, len(data))
        if target is None:
            both = (start_guard, final_guard), (start_test, final_test)
            self._warn(end_warnings(promise, *both))
        else:
            self._warn(target_warnings(target))
        return CompressionResult(
            data=data,
            stored=stored,
            decoded=decoded,
            rounds=rounds,
            shipped_round=made.base,
            stop_reason=verdict.reason,
            iterations=made.iterations,
            guard_views=[view.image_name for view in self._views.guard],
            start_guard=start_guard,
            start_test=start_test,
            final_guard=final_guard,
            final_test=final_test,
            dropped_non_finite=self._dropped,
            stage_times=self._stages.times,
            environments=self._folder.environments,
            promise=promise,
            target=target,
            warnings=tuple(self._warnings),
            views=views,
            pictures=pictures,
            exports=exports,
            ladder=ladder,
        )

    def _scores(self, raw: RawParameters, name: str) -> Scores:
        return Scores(
            self._measure.scores(self._views.guard, raw, f"{name}, guard views"),
            self._measure.scores(self._job.test_views, raw, f"{name}, test views"),
        )

    def _pictures(self, figures: tuple[ViewFigures, ...], final: RawParameters) -> Pictures:
        if fault := fault_of_pillow():
            self._warn([fault])
            return Pictures()
        cameras = [*self._views.guard, *self._job.test_views]
        # Fine-tuning has changed the tensors that the start model was measured with.
        start = RawParameters.from_splats(self._start, self._device)
        return pictures_of(figures, cameras, start, final, self._measure)

    def _exports(self, decoded: Splats) -> Exports:
        scene = SplatScene(decoded, from_entries(self._job.metadata))
        made = exports_of(scene, self._job.exports)
        self._warn(list(made.faults))
        return measured(made, self._quality)

    def _quality(self, splats: Splats, name: str) -> tuple[Quality, Quality]:
        return self._scores(RawParameters.from_splats(splats, self._device), name).means()

    def _promise(self, rounds: list[Round], base: int, shipped: Quality) -> PromiseFigures:
        trained_on = self._trajectory.guard == "train" and self._settings.final_iterations > 0
        rule, on_guard = self._settings.stopping, None
        if rule.guard_memory and not rule.has_target:
            on_guard = allowed_on_guard(rounds[0], rounds[base], rule)
        return promise_of(
            rounds[0].guard, shipped, rule, guard_was_trained_on=trained_on, on_guard=on_guard
        )

    def _warn(self, sentences: list[str]) -> None:
        self._warnings += sentences
        for sentence in sentences:
            logger.warning("%s", sentence)

    def _split_views(self) -> ViewSplit[Camera]:
        if self._trajectory.guard == "train":
            return split_off_guard(self._job.training_views)
        if not self._job.test_views:
            raise InputError(
                "--guard test: expected test views, found none: the model was trained without "
                "--eval"
            )
        return ViewSplit(list(self._job.training_views), list(self._job.test_views))

    def _all_rounds(self, start: RawParameters) -> tuple[list[Round], Verdict]:
        checkpoint = self._resumed() or self._round_zero(start)
        rounds, rule = checkpoint.rounds, self._settings.stopping
        while (verdict := verdict_of(rounds, self._next_count(rounds), rule, self._ladder)) is None:
            self._next_round(checkpoint)
        if not self._folder.has(verdict.ship):
            raise no_checkpoint(f"this stopping rule chooses round {verdict.ship}")
        self._progress.note(f"chosen: round {verdict.ship}, as {verdict.reason}")
        return rounds, verdict

    def _next_count(self, rounds: Sequence[Round]) -> int:
        """The number of Gaussians after one more round."""
        fraction = self._trajectory.prune_fraction
        return count_after_round(rounds[-1].gaussians, fraction)

    def _resumed(self) -> Checkpoint | None:
        number = self._folder.latest()
        if number is None:
            return None
        self._progress.note(f"continues after round {number} in {self._job.rounds_folder}")
        self._warn(self._folder.warnings)
        checkpoint = self._folder.load(number, self._device)
        check_measured(checkpoint.rounds, self._settings.stopping, self._job.rounds_folder)
        *earlier, last = estimated_with(checkpoint.rounds, self._file_settings())
        if last.estimate is None:  # the rounds may have been made for another target or none
            last = replace(last, estimate=self._estimate(checkpoint.model, last.guard, earlier))
        return Checkpoint(checkpoint.model, [*earlier, last])

    def _round_zero(self, start: RawParameters) -> Checkpoint:
        model = TrainableModel.start_from(start, self._trajectory.quantization)
        checkpoint = Checkpoint(model, [])
        began = Clock()
        cycles = self._warm_up(checkpoint.model)
        self._close_round(checkpoint, self._trajectory.warmup_iterations, began, cycles)
        return checkpoint

    def _warm_up(self, model: TrainableModel) -> tuple[Cycle, ...]:
        trajectory, name = self._trajectory, "round 0, unpruned"
        if not trajectory.warmup_cycles:
            course = RateCourse(start=trajectory.warmup_restart)
            self._finetune(model, trajectory.warmup_iterations, name, course)
            return ()
        lengths, cycles = trajectory.cycle_lengths, []
        for number, iterations in enumerate(lengths, start=1):
            cycle = f"{name}, {number} of {len(lengths)}"
            self._finetune(model, iterations, cycle, trajectory.round_rates)
            if number < len(lengths):
                done = sum(lengths[:number])
                cycles.append(Cycle(done, *self._guard_and_training(model, cycle)))
        return tuple(cycles)

    def _guard_and_training(self, model: TrainableModel, name: str) -> tuple[Quality, Quality]:
        seen = model.seen(self._trajectory.quantization)
        return (
            self._measure.quality(self._views.guard, seen, f"{name}, guard views"),
            self._measure.quality(self._views.sample(), seen, f"{name}, training views"),
        )

    def _next_round(self, checkpoint: Checkpoint) -> None:
        number = len(checkpoint.rounds)
        began = Clock()
        count = self._next_count(checkpoint.rounds)
        self._prune(checkpoint.model, count, f"round {number}, scores")
        iterations = self._trajectory.finetune_iterations
        name, course = f"round {number}, fine-tuning", self._trajectory.round_rates
        self._finetune(checkpoint.model, iterations, name, course)
        self._close_round(checkpoint, iterations, began)

    def _prune(self, model: TrainableModel, count: int, name: str) -> None:
        """Leaves `count` Gaussians in `model`."""
        seen, views = model.seen(self._trajectory.quantization), self._views.training
        with self._progress.stage(name, len(views)) as advance:
            accumulate_on_ranks(self._score, seen, views, self._tools, lambda: advance(None))
        keep = rows_to_keep(self._score.scores(), count)
        model.raw = model.raw.rows(keep)

    def _finetune(
        self, model: TrainableModel, iterations: int, name: str, course: RateCourse
    ) -> None:
        """Fine-tuning of a round; changes `model`."""
        # Adam's moments start at 0 each time: the published method discards them at each pruning.
        if model.ranges is None:
            loss, decay = self._trajectory.finetune, course.opacity_decay
            trained = FullPrecision(model.raw, loss, self._backend, decay)
            self._run(trained, self._views.training, iterations, name, course)
            return
        quantized = as_published(model, self._trajectory, self._backend)
        self._run(quantized, self._views.training, iterations, name, course)
        model.ranges = quantized.ranges

    def _ladder_steps(self, reducer: Reducer) -> tuple[LadderStep, ...]:
        settings = self._settings.to_json()
        depends_on = {
            "rounds": self._fingerprint(),
            "file": {name: settings[name] for name in ("grids", "final_iterations")},
            "metadata": self._job.metadata,
        }
        folder = StepFolder(self._job.rounds_folder, depends_on)
        steps = zip(self._settings.ladder, self._ladder, strict=True)
        return tuple(
            folder.step(part, partial(self._ladder_step, part, count, reducer), self._progress.note)
            for part, count in steps
        )

    def _ladder_step(self, part: float, count: int, reducer: Reducer) -> LadderStep:
        made = reduced_and_stored(count, reducer, self._final)
        data = self._final.encoded(made.stored)
        decoded = to_splats(decode(data).splats)
        guard, test = self._quality(decoded, step_name(part))
        figures = LadderFigures(
            part, step_name(part), decoded.count, len(data), made.base, guard, test
        )
        return LadderStep(data, decoded, figures)

    def _reducer(self, rounds: list[Round]) -> Reducer:
        load = partial(self._folder.load, device=self._device)
        return Reducer(rounds, load, self._folder.has, self._reduce)

    def _reduce(self, model: TrainableModel, count: int) -> tuple[Quality, int]:
        name, iterations = f"{count:,} Gaussians", self._trajectory.finetune_iterations
        self._prune(model, count, f"{name}, scores")
        self._finetune(model, iterations, f"{name}, fine-tuning", self._trajectory.round_rates)
        seen = model.seen(self._trajectory.quantization)
        return self._measure.quality(self._views.guard, seen, f"{name}, guard views"), iterations

    def _estimate(
        self, model: TrainableModel, guard: Quality, earlier: Sequence[Round]
    ) -> SizeEstimate | None:
        """The size of the file of the round after `earlier`, if a target needs it."""
        target = self._settings.stopping.target_bytes
        if not is_near(earlier, model.raw.gaussian_count, target):
            return None
        return SizeEstimate(self._bytes_of(model, guard), self._file_settings())

    def _bytes_of(self, model: TrainableModel, guard: Quality) -> int:
        """The size of the file if the model were stored without the final fine-tuning."""
        return len(self._final.encoded(self._final.as_stored(model, guard)))

    def _file_settings(self) -> str:
        """What the size of a round's file depends on besides the round."""
        return json.dumps(self._settings.to_json()["grids"])

    def _run(
        self,
        model: Trainable,
        views: Sequence[Camera],
        iterations: int,
        name: str,
        course: RateCourse,
    ) -> None:
        order = random.Random(f"{self._trajectory.seed} {name}")
        with self._progress.stage(name, iterations) as advance:
            self._finetuner.run(model, views, iterations, order, advance, course)

    def _close_round(
        self,
        checkpoint: Checkpoint,
        iterations: int,
        began: Clock,
        cycles: tuple[Cycle, ...] = (),
    ) -> None:
        rounds, model = checkpoint.rounds, checkpoint.model
        number = len(rounds)
        guard, training = self._guard_and_training(model, f"round {number}")
        rounds.append(
            Round(
                number=number,
                gaussians=model.raw.gaussian_count,
                iterations=iterations + (rounds[-1].iterations if rounds else 0),
                guard=guard,
                training=training,
                cycles=cycles,
                wall_seconds=began.wall_seconds(),
                cpu_seconds=began.cpu_seconds(),
                measurement=self._measurement(number, model, guard),
                estimate=self._estimate(model, guard, rounds),
            )
        )
        self._folder.save(checkpoint)
        line = round_line(rounds, self._start.count, self._settings.stopping)
        if self._time_left is not None:
            left = self._time_left.after(number, rounds[-1].wall_seconds)
            line += f", about {duration(left)} left"
        self._progress.note(line)

    def _measurement(
        self, number: int, model: TrainableModel, guard: Quality
    ) -> Measurement | None:
        """Test quality and file size, if this round were stored without final fine-tuning."""
        every = self._settings.measure_test_every
        if not every or number % every:
            return None
        stored = self._final.as_stored(model, guard)
        decoded = RawParameters.from_splats(to_splats(stored), self._device)
        test = self._measure.quality(self._job.test_views, decoded, f"round {number}, test views")
        return Measurement(test, len(self._final.encoded(stored)))

    def _fingerprint(self) -> dict[str, Any]:
        settings = self._settings.to_json()["trajectory"]
        return {
            **{name: value for name, value in self._job.identity.items() if name != "source_path"},
            **settings,
            "start_model": splats_digest(self._start),
            "training_views": views_digest(self._views.training),
            "guard_views": views_digest(self._views.guard),
            "background": self._job.background.tolist(),
            "antialiasing": self._job.render_options.antialiasing,
        }
