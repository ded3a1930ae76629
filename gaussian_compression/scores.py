# SPDX-License-Identifier: Apache-2.0
"""Scores of Gaussians: a round removes those with the lowest scores (prune.py).

An accumulator gets every training view once. To add a score, add a class here and its name in
SCORES, by which the settings choose it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gaussian_renderer.backend import Differentiate, ViewLoss
from scene.array_operations import ArrayOperations
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.errors import InputError


class ScoreAccumulator(Protocol):
    """Accumulates over the views what a score needs."""

    def start(self, raw: RawParameters) -> None:
        """Reset, for this model."""
        ...

    def add(self, view: Camera, gradients: RawParameters, frame: ViewLoss) -> None:
        """Add one view. The caller overwrites the tensors for the next one."""
        ...

    def scores(self) -> Tensor:
        """(N,): the scores over the views so far."""
        ...


class GradientNorm:
    """Norms of the signed sums of the loss gradients over the views (Fast-3DGS, COGS'25)."""

    def __init__(self, operations: ArrayOperations) -> None:
        self._operations = operations

    def start(self, raw: RawParameters) -> None:
        """See ScoreAccumulator."""
        self._total = raw.map(torch.zeros_like)

    def add(self, view: Camera, gradients: RawParameters, frame: ViewLoss) -> None:
        """See ScoreAccumulator."""
        self._operations.add_to(self._total, gradients)

    def scores(self) -> Tensor:
        """The sum of the L2 norms of a Gaussian's six gradients."""
        norms = [total.flatten(1).norm(dim=1) for total in self._total if total.numel()]
        return torch.stack(norms).sum(dim=0)


SCORES: dict[str, Callable[[ArrayOperations], ScoreAccumulator]] = {"gradient_norm": GradientNorm}


def score_named(name: str, operations: ArrayOperations) -> ScoreAccumulator:
    """The accumulator of that name; InputError if there is none."""
    if name not in SCORES:
        raise InputError(f"score {name!r}: expected one of {', '.join(sorted(SCORES))}")
    return SCORES[name](operations)


def accumulate_scores(
    accumulators: Sequence[ScoreAccumulator],
    raw: RawParameters,
    views: Iterable[Camera],
    differentiate: Differentiate,
    on_view: Callable[[], None],
) -> None:
    """Add `views` to all accumulators, in one pass."""
    gradients = raw.map(torch.empty_like)
    for accumulator in accumulators:
        accumulator.start(raw)
    for view in views:
        frame = differentiate(view, raw, gradients)
        for accumulator in accumulators:
            accumulator.add(view, gradients, frame)
        on_view()
