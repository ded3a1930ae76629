# SPDX-License-Identifier: Apache-2.0
"""Which model a run stores: that of the stopping rule, or one that meets the target."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gaussian_compression.finetune import TrainableModel
from gaussian_compression.grid_straight_through import GridStraightThrough
from gaussian_compression.report import TargetFigures
from gaussian_compression.rounds import Quality, psnr_of
from gaussian_compression.settings import MEGABYTE, CompressionSettings, StoppingRule
from gaussian_compression.size_target import (
    TOLERANCE,
    SizeTools,
    Stored,
    first_count,
    model_of_size,
)
from gaussian_compression.stopping import Verdict
from gaussian_compression.targets import Reduced, Reducer
from gaussian_compression.trainable import StraightThrough
from scene.raw_parameters import RawParameters
from splat_codec.model_file import ModelFile, encode
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.splats import Splats
from utils.errors import InputError

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


@dataclass(frozen=True)
class Storing:
    """The functions that put models on the grids of a file."""

    finally_finetuned: Callable[[TrainableModel, Quality, float], Stored]
    """A model, its quality on guard views, and the least PSNR there that its file should have."""
    quantized: Callable[[TrainableModel, Quality, float | None], StraightThrough]
    """The same, and the noise of the grids (None: version 1)."""
    finetune: Callable[[StraightThrough], None]
    """The final fine-tuning."""
    settle: Callable[[StraightThrough, int, str], None]
    """A shorter fine-tuning of so many iterations, with its name."""
    bytes_of: Callable[[Stored], int]
    """The size of the file."""


def model_to_store(
    verdict: Verdict, reducer: Reducer, storing: Storing, settings: CompressionSettings
) -> FinalModel:
    """The finally fine-tuned model."""
    rule, zero = settings.stopping, reducer.rounds[0]
    if rule.target_gaussians is not None:
        return reduced_and_stored(rule.target_gaussians, reducer, storing, settings)
    if rule.target_bytes is None:
        least = psnr_of(zero.guard) - rule.max_psnr_drop
        return _stored(reducer.round(verdict.ship), least, storing, settings)
    count = first_count(reducer, rule.target_bytes)
    if count is None:  # not even the unpruned model is large enough
        return _stored(reducer.round(0), -math.inf, storing, settings)
    tools = _size_tools(reducer, storing, settings)
    sized = model_of_size(rule.target_bytes, count, _noise(settings), tools)
    before, base = sized.reduced.model.raw, sized.reduced.base
    return FinalModel(sized.stored, before, base, sized.iterations, sized.noise)


def reduced_and_stored(
    count: int, reducer: Reducer, storing: Storing, settings: CompressionSettings
) -> FinalModel:
    """A model of `count` Gaussians, whatever it loses."""
    return _stored(reducer.to(count), -math.inf, storing, settings)


def _stored(
    reduced: Reduced, least: float, storing: Storing, settings: CompressionSettings
) -> FinalModel:
    stored = storing.finally_finetuned(reduced.model, reduced.guard, least)
    iterations = reduced.iterations + settings.final_iterations
    return FinalModel(stored, reduced.model.raw, reduced.base, iterations, _noise(settings))


def _noise(settings: CompressionSettings) -> float | None:
    return None if settings.grids is None else settings.grids.noise


def _size_tools(reducer: Reducer, storing: Storing, settings: CompressionSettings) -> SizeTools:
    def finetune(optimizer: StraightThrough) -> int:
        storing.finetune(optimizer)
        return settings.final_iterations

    def settle(optimizer: StraightThrough, repeat: int) -> int:
        iterations = settings.final_iterations // _SETTLE_DIVISOR
        storing.settle(optimizer, iterations, f"final fine-tuning, correction {repeat}")
        return iterations

    return SizeTools(
        reduced_to=reducer.to,
        most=reducer.most(),
        quantized=storing.quantized,
        finetune=finetune,
        settle=settle,
        trained=_trained,
        bytes_of=storing.bytes_of,
    )


def _trained(optimizer: StraightThrough, before: TrainableModel) -> TrainableModel:
    """The fine-tuned model in full precision; version 1 trains `before` in place."""
    if isinstance(optimizer, GridStraightThrough):
        return TrainableModel(optimizer.trained(), None)
    return before


def check_target(rule: StoppingRule, start: Splats) -> None:
    """Raises InputError for a target that no file of a model of `start` can have."""
    if rule.target_gaussians is not None and rule.target_gaussians > start.count:
        raise InputError(
            f"--target_gaussians {rule.target_gaussians}: expected at most the {start.count:,} "
            "Gaussians of the start model that an image can show"
        )
    if rule.target_bytes is None:
        return
    one = quantize_splats(start.rows(slice(1)), QUALITIES["low"]).splats
    smallest = len(encode(ModelFile(one)))
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
        f"{target.reached_gaussians:,} Gaussians, more than {100 * TOLERANCE:g} % away from the "
        f"{target.bytes / MEGABYTE:g} MB of --target_mb"
    ]


def target_line(target: TargetFigures) -> str:
    """The target and what was reached, in one line."""
    if target.bytes is not None:
        size, wanted = target.reached_bytes, target.bytes
        return (
            f"Target {wanted / MEGABYTE:g} MB: {size / MEGABYTE:.4g} MB "
            f"({100 * (size / wanted - 1):+.1f} %)"
        )
    return f"Target {target.gaussians:,} Gaussians: {target.reached_gaussians:,} in the file"
