# SPDX-License-Identifier: Apache-2.0
"""Which model a run stores: that of the stopping rule, or one that meets the target."""

from dataclasses import dataclass
from typing import Any

from gaussian_compression.final_stage import FinalStage
from gaussian_compression.finetune import TrainableModel
from gaussian_compression.grid_straight_through import GridStraightThrough
from gaussian_compression.report import PromiseFigures, TargetFigures
from gaussian_compression.rounds import WHATEVER, Quality
from gaussian_compression.settings import StoppingRule
from gaussian_compression.size_target import (
    TOLERANCE,
    SizeTools,
    Stored,
    first_count,
    model_of_size,
)
from gaussian_compression.stopping import Verdict, allowed_on_guard, least_quality
from gaussian_compression.targets import Reduced, Reducer
from gaussian_compression.trainable import StraightThrough
from scene.raw_parameters import RawParameters
from splat_codec.model_file import ModelFile, encode
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.repairs import gaussians
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.units import MEGABYTE

_SETTLE_DIVISOR = 4
"""Fine-tuning is this many times shorter on grids that differ little from those before."""


@dataclass(frozen=True)
class FinalModel:
    """The model to store."""

    stored: Stored
    before: RawParameters
    """The model before the final fine-tuning."""
    base: int
    """The round that it was made of."""
    iterations: int
    """Of fine-tuning, from the start model."""
    noise: float | None
    """Of its grids; None: version 1."""


def model_to_store(verdict: Verdict, reducer: Reducer, stage: FinalStage) -> FinalModel:
    """The finally fine-tuned model."""
    rule, zero = stage.settings.stopping, reducer.rounds[0]
    if rule.target_gaussians is not None:
        return reduced_and_stored(rule.target_gaussians, reducer, stage)
    if rule.target_bytes is None:
        most = allowed_on_guard(zero, reducer.rounds[verdict.ship], rule)
        least = least_quality(zero.guard, most)
        return _stored(reducer.round(verdict.ship), least, stage)
    count = first_count(reducer, rule.target_bytes)
    if count is None:  # not even the unpruned model is large enough
        return _stored(reducer.round(0), WHATEVER, stage)
    tools = _size_tools(reducer, stage)
    sized = model_of_size(rule.target_bytes, count, stage.noise, tools)
    before, base = sized.reduced.model.raw, sized.reduced.base
    return FinalModel(sized.stored, before, base, sized.iterations, sized.noise)


def reduced_and_stored(count: int, reducer: Reducer, stage: FinalStage) -> FinalModel:
    """A model of `count` Gaussians, whatever it loses."""
    return _stored(reducer.to(count), WHATEVER, stage)


def _stored(reduced: Reduced, least: Quality, stage: FinalStage) -> FinalModel:
    stored = stage.finally_finetuned(reduced.model, reduced.guard, least)
    iterations = reduced.iterations + stage.settings.final_iterations
    return FinalModel(stored, reduced.model.raw, reduced.base, iterations, stage.noise)


def _size_tools(reducer: Reducer, stage: FinalStage) -> SizeTools:
    def finetune(optimizer: StraightThrough) -> int:
        stage.finetune(optimizer)
        return stage.settings.final_iterations

    def settle(optimizer: StraightThrough, repeat: int) -> int:
        iterations = stage.settings.final_iterations // _SETTLE_DIVISOR
        stage.settle(optimizer, iterations, f"final fine-tuning, correction {repeat}")
        return iterations

    return SizeTools(
        reduced_to=reducer.to,
        most=reducer.most(),
        quantized=stage.quantized,
        finetune=finetune,
        settle=settle,
        trained=_trained,
        bytes_of=lambda stored: len(stage.encoded(stored)),
    )


def _trained(optimizer: StraightThrough, before: TrainableModel) -> TrainableModel:
    """The fine-tuned model in full precision; version 1 trains `before` in place."""
    if isinstance(optimizer, GridStraightThrough):
        return TrainableModel(optimizer.trained(), None)
    return before


def check_target(rule: StoppingRule, start: Splats, metadata: dict[str, Any]) -> None:
    """Raises InputError for a target that no file of a model of `start` can have.

    `metadata`: of the file.
    """
    if rule.target_gaussians is not None and rule.target_gaussians > start.count:
        raise InputError(
            f"--target_gaussians {rule.target_gaussians}: expected at most the {start.count:,} "
            "Gaussians of the start model that an image can show"
        )
    if rule.target_bytes is None:
        return
    one = quantize_splats(start.rows(slice(1)), QUALITIES["low"]).splats
    smallest = len(encode(ModelFile(one, metadata)))
    if rule.target_bytes < smallest:
        raise InputError(
            f"--target_mb {rule.target_mb:g}: expected at least {smallest / MEGABYTE:g}, the size "
            "of a file with one Gaussian"
        )


def target_figures(rule: StoppingRule, made: FinalModel, size: int) -> TargetFigures | None:
    """What the file of `size` bytes reaches; None for a run without a target."""
    if not rule.has_target:
        return None
    if rule.target_bytes is None:
        reached = made.before.gaussian_count == rule.target_gaussians
    else:
        reached = abs(size / rule.target_bytes - 1) <= TOLERANCE
    return TargetFigures(
        gaussians=rule.target_gaussians,
        bytes=rule.target_bytes,
        reached_gaussians=made.stored.count,
        reached_bytes=size,
        reached=reached,
        noise=made.noise,
    )


def target_warnings(target: TargetFigures) -> list[str]:
    """A sentence for a target that was not reached."""
    if target.reached or target.bytes is None:
        return []
    return [
        f"the file has {target.reached_bytes / MEGABYTE:.4g} MB with "
        f"{gaussians(target.reached_gaussians)}, more than {100 * TOLERANCE:g} % away from the "
        f"{target.bytes / MEGABYTE:g} MB of --target_mb"
    ]


def target_lines(target: TargetFigures, promise: PromiseFigures | None) -> list[str]:
    """The target, what was reached, and what was lost, in a line each."""
    lines = [_reached(target)]
    if promise is not None and promise.drop is not None and promise.ssim_drop is not None:
        lines.append(
            f"Against round 0, on guard views: {-promise.drop:+.3f} dB, "
            f"{-promise.ssim_drop:+.4f} in SSIM"
        )
    return lines


def _reached(target: TargetFigures) -> str:
    if target.bytes is not None:
        size, wanted = target.reached_bytes, target.bytes
        return (
            f"Target {wanted / MEGABYTE:g} MB: {size / MEGABYTE:.4g} MB "
            f"({100 * (size / wanted - 1):+.1f} %)"
        )
    return f"Target {target.gaussians:,} Gaussians: {target.reached_gaussians:,} in the file"
