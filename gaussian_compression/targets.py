# SPDX-License-Identifier: Apache-2.0
"""Models with a given number of Gaussians, and when the rounds end that lead to them.

The rounds do not depend on the number: such a model is made of the last round that has at least as
many Gaussians, by one more pruning and fine-tuning. Runs with other targets use the same rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gaussian_compression.checkpoints import Checkpoint
from gaussian_compression.finetune import TrainableModel
from gaussian_compression.rounds import Quality, Round
from gaussian_compression.settings import StoppingRule
from gaussian_compression.stopping import Verdict
from utils.errors import InputError


@dataclass(frozen=True)
class Reduced:
    """A model with a given number of Gaussians, before the final fine-tuning."""

    model: TrainableModel
    guard: Quality
    base: int
    """The round that it was made of."""
    iterations: int
    """Of fine-tuning, from the start model."""


@dataclass(frozen=True)
class Reducer:
    """Makes models with given numbers of Gaussians of finished rounds."""

    rounds: Sequence[Round]
    load: Callable[[int], Checkpoint]
    has: Callable[[int], bool]
    """Whether a round can be loaded."""
    reduce: Callable[[TrainableModel, int], tuple[Quality, int]]
    """Prunes a model to a number of Gaussians and fine-tunes it, in place: quality on the guard
    views, and iterations."""

    def to(self, count: int) -> Reduced:
        """A model with `count` Gaussians; InputError if its round is not on disk."""
        base = last_with(self.rounds, count)
        if not self.has(base):
            raise no_checkpoint(f"{count:,} Gaussians need round {base}")
        model, done = self.load(base).model, self.rounds[base]
        if model.raw.gaussian_count == count:
            return Reduced(model, done.guard, base, done.iterations)
        guard, iterations = self.reduce(model, count)
        return Reduced(model, guard, base, done.iterations + iterations)

    def round(self, number: int) -> Reduced:
        """The model of a round as it is."""
        done = self.rounds[number]
        return Reduced(self.load(number).model, done.guard, number, done.iterations)

    def most(self) -> int:
        """The number of Gaussians of the first of the last rounds that are on disk in a row."""
        number = self.rounds[-1].number
        while number and self.has(number - 1):
            number -= 1
        return self.rounds[number].gaussians


def no_checkpoint(why: str) -> InputError:
    """The error where a round that is needed was removed."""
    return InputError(
        f"{why}: expected its checkpoint, found none; run again with --restart (and --keep_rounds, "
        "to try several rules or targets)"
    )


def last_with(rounds: Sequence[Round], count: int) -> int:
    """The last round with at least `count` Gaussians; round 0 if there is none."""
    return max((done.number for done in rounds if done.gaussians >= count), default=0)


def has_ended(rounds: Sequence[Round], following: int, rule: StoppingRule) -> bool:
    """Whether no round can follow: --max_rounds are done, or a round would remove nothing.

    `following`: the number of Gaussians after one more round.
    """
    return len(rounds) > rule.max_rounds or following == rounds[-1].gaussians


def rounds_for(rounds: Sequence[Round], counts: Sequence[int]) -> set[int]:
    """The rounds that models with these numbers of Gaussians are made of, as far as is known."""
    return {last_with(rounds, count) for count in counts}


def passes(rounds: Sequence[Round], following: int, count: int, rule: StoppingRule) -> bool:
    """Whether the last round for a model of `count` Gaussians is among the rounds."""
    return following < count or has_ended(rounds, following, rule)


def first_within(rounds: Sequence[Round], size: int) -> Round | None:
    """The first round whose file is estimated to have at most `size` bytes."""
    return next((done for done in rounds if done.estimate and done.estimate.bytes <= size), None)


def judge_target(rounds: Sequence[Round], following: int, rule: StoppingRule) -> Verdict | None:
    """The last round that the target needs; None: continue.

    `following`: the number of Gaussians after one more round.
    """
    last = rounds[-1].number
    count, size = rule.target_gaussians, rule.target_bytes
    if count is not None and passes(rounds, following, count, rule):
        base = last_with(rounds, count)
        return Verdict(base, f"one pruning leads from it to the {count:,} of --target_gaussians")
    found = None if size is None else first_within(rounds, size)
    if found is not None and found.estimate is not None:
        return Verdict(
            found.number,
            f"its file would have {found.estimate.bytes:,} bytes, the target is {size:,}",
        )
    if size is not None and has_ended(rounds, following, rule):
        return Verdict(last, "it is the last possible round")
    return None
