# SPDX-License-Identifier: Apache-2.0
"""A file of a given size: the number of Gaussians is estimated, then the file itself is corrected.

The final fine-tuning changes the size of the file, so that only the file shows whether it has the
right size. If not, grids are made finer or coarser, or the number of Gaussians is changed, and the
fine-tuning is repeated.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gaussian_compression.finetune import TrainableModel
from gaussian_compression.rounds import Quality, Round
from gaussian_compression.targets import Reduced, Reducer, first_within, no_checkpoint
from gaussian_compression.trainable import StraightThrough
from splat_codec.grid_splats import GridSplats
from splat_codec.symbols import QuantizedSplats

TOLERANCE = 0.03
_REPEATS = 3
_MOST_BY_GRIDS = 1.35
"""A file that is further off, as a factor, gets another number of Gaussians: much finer or coarser
grids would cost more quality at the same size."""
_NEAR = 1.6
"""A file that is at most so many times larger than the target is near: its rounds stay on disk, and
the size of each is estimated."""
_SLOPE = -0.2
"""Change of log size by log noise, as a first guess; the second guess measures it."""
_STEEPEST, _FLATTEST = -1.0, -0.05
_GRID_TRIES = 4
_GRID_TOLERANCE = 0.01
_MOST_NOISE_FACTOR = 4.0

Stored = QuantizedSplats | GridSplats

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SizeTools:
    """The functions by which files of a chosen size are made."""

    reduced_to: Callable[[int], Reduced]
    most: int
    """The greatest number of Gaussians that `reduced_to` accepts."""
    quantized: Callable[[TrainableModel, Quality, float | None], StraightThrough]
    """A model, of a quality on the guard views, on the grids of a file with this noise."""
    finetune: Callable[[StraightThrough], int]
    """The final fine-tuning: iterations."""
    settle: Callable[[StraightThrough, int], int]
    """A shorter one for a model that was fine-tuned on other grids, the n-th: iterations."""
    trained: Callable[[StraightThrough, TrainableModel], TrainableModel]
    """The fine-tuned model in full precision; the second argument is the model before."""
    bytes_of: Callable[[Stored], int]


@dataclass(frozen=True)
class Sized:
    """A file's integers and size."""

    stored: Stored
    bytes: int
    reduced: Reduced
    trained: TrainableModel
    """After the final fine-tuning, in full precision."""
    noise: float | None
    """Of its grids; None: version 1."""
    iterations: int
    """Of fine-tuning, from the start model."""
    shrinkage: float = 1.0
    """The size after the last fine-tuning on grids, as a part of that before."""

    def off(self, target: int) -> float:
        """The relative deviation from a size, without sign."""
        return abs(self.bytes / target - 1)


def is_near(rounds: Sequence[Round], gaussians: int, target: int | None) -> bool:
    """Whether the size of a file of so many Gaussians should be estimated after these rounds."""
    if target is None:
        return False
    known = [done for done in rounds if done.estimate is not None]
    return not known or _size_by_count(known[-1], gaussians) <= _NEAR * target


def rounds_near(rounds: Sequence[Round], target: int | None) -> set[int]:
    """The rounds that a correction of the number of Gaussians may start from."""
    return {done.number for done in rounds if is_near([done], done.gaussians, target)
            and done.estimate is not None}  # fmt: skip


def estimated_with(rounds: Sequence[Round], settings: str) -> list[Round]:
    """The rounds without estimates that were made with other settings."""
    kept = [done.estimate for done in rounds]
    kept = [found if found and found.made_with == settings else None for found in kept]
    return [replace(done, estimate=one) for done, one in zip(rounds, kept, strict=True)]


def first_count(reducer: Reducer, target: int) -> int | None:
    """The number of Gaussians to begin with; None if the unpruned model's file is too small.

    InputError if a round that this needs is not on disk.
    """
    last = first_within(reducer.rounds, target) or reducer.rounds[-1]
    known = [done for done in reducer.rounds[: last.number + 1] if done.estimate is not None]
    size = _size_by_count(known[-1], last.gaussians)
    if last.number == 0 and size < (1 - TOLERANCE) * target:
        return None
    count = max(1, round(last.gaussians * target / size))
    most = reducer.most()
    if count > most and most < reducer.rounds[0].gaussians:
        raise no_checkpoint("the target needs a round before those on disk")
    return min(count, most)


def _size_by_count(known: Round, gaussians: int) -> float:
    """The size of a file of so many Gaussians, as large as those of an estimated round."""
    if known.estimate is None:
        raise ValueError("the size of this round's file was not estimated")
    return known.estimate.bytes / known.gaussians * gaussians


def model_of_size(target: int, count: int, noise: float | None, tools: SizeTools) -> Sized:
    """The file, out of at most four, whose size is nearest to `target` bytes.

    It ends with the first that is off by at most TOLERANCE. `count`: the number of Gaussians to
    begin with.
    """
    made = _made_with(count, noise, tools)
    best = made
    for repeat in range(1, _REPEATS + 1):
        if best.off(target) <= TOLERANCE:
            break
        logger.info("%d bytes instead of %d: correction %d", made.bytes, target, repeat)
        made = _corrected(made, target, noise, tools, repeat)
        best = min(best, made, key=lambda sized: sized.off(target))
    return best


def _made_with(count: int, noise: float | None, tools: SizeTools) -> Sized:
    reduced = tools.reduced_to(count)
    optimizer = tools.quantized(reduced.model, reduced.guard, noise)
    return _sized(optimizer, reduced, noise, reduced.iterations + tools.finetune(optimizer), tools)


def _sized(
    optimizer: StraightThrough,
    reduced: Reduced,
    noise: float | None,
    iterations: int,
    tools: SizeTools,
) -> Sized:
    stored = optimizer.stored()
    trained = tools.trained(optimizer, reduced.model)
    return Sized(stored, tools.bytes_of(stored), reduced, trained, noise, iterations)


def _corrected(
    made: Sized, target: int, first_noise: float | None, tools: SizeTools, repeat: int
) -> Sized:
    """Another file, nearer to the target: other grids, or another number of Gaussians."""
    ratio = target / made.bytes
    before = made.reduced.model.raw.gaussian_count
    count = min(max(round(before * ratio), 1), tools.most)
    near = 1 / _MOST_BY_GRIDS <= ratio <= _MOST_BY_GRIDS
    if made.noise is None or not (near or count == before):
        return made if count == before else _made_with(count, first_noise, tools)
    noise = _noise_for(made, target / made.shrinkage, tools)
    optimizer = tools.quantized(made.trained, made.reduced.guard, noise)
    unsettled = tools.bytes_of(optimizer.stored())
    iterations = made.iterations + tools.settle(optimizer, repeat)
    found = _sized(optimizer, made.reduced, noise, iterations, tools)
    return replace(found, shrinkage=found.bytes / unsettled)


def _noise_for(made: Sized, target: float, tools: SizeTools) -> float:
    """The noise of grids on which the trained model has about `target` bytes."""
    if made.noise is None:
        raise ValueError("a file of version 1 has no noise")
    least, most = made.noise / _MOST_NOISE_FACTOR, made.noise * _MOST_NOISE_FACTOR
    slope, noise, size = _SLOPE, made.noise, float(made.bytes)
    for _ in range(_GRID_TRIES):
        following = min(max(noise * (target / size) ** (1 / slope), least), most)
        if following == noise:
            break
        found = tools.bytes_of(
            tools.quantized(made.trained, made.reduced.guard, following).stored()
        )
        measured = math.log(found / size) / math.log(following / noise)
        slope = min(max(measured, _STEEPEST), _FLATTEST)
        noise, size = following, float(found)
        if abs(size / target - 1) <= _GRID_TOLERANCE:
            break
    return noise
