# SPDX-License-Identifier: Apache-2.0
"""Guard views: training views that no round trains on, to measure the loss by pruning.

The published method stops by the PSNR of the *test* views, which are then no independent measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from utils.errors import InputError

GUARD_EVERY = 8
"""One training view in eight, the proportion of test views with Inria's `--eval`."""


SAMPLE_EVERY = 5
"""The training views that rounds are measured on: one in five."""


class _Named(Protocol):
    @property
    def image_name(self) -> str: ...


View = TypeVar("View", bound=_Named)


@dataclass(frozen=True)
class ViewSplit(Generic[View]):
    """The views that are trained on, and those held out to measure the quality of each round."""

    training: list[View]
    guard: list[View]

    def sample(self) -> list[View]:
        """Every fifth of the views that are trained on, which each round is measured on."""
        return self.training[::SAMPLE_EVERY]


def split_off_guard(training_views: Sequence[View]) -> ViewSplit[View]:
    """Every eighth training view in the order of their names, from the fifth (or last) on.

    The choice depends on names only. InputError if there are fewer than two views.
    """
    ordered = sorted(training_views, key=lambda view: view.image_name)
    if len(ordered) < 2:
        raise InputError(
            "expected at least 2 training views, one of them to measure the quality of rounds, "
            f"found {len(ordered)}"
        )
    first = min(GUARD_EVERY // 2, len(ordered) - 1)
    guard = ordered[first::GUARD_EVERY]
    held_out = {view.image_name for view in guard}
    return ViewSplit([v for v in ordered if v.image_name not in held_out], guard)
