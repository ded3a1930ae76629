# SPDX-License-Identifier: Apache-2.0
"""Scores of Gaussians: what a round prunes by. Low scores go first (prune.py).

An accumulator sees every training view once. A further score is one more class here, and its name
in SCORES, by which the settings choose it.
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
    """Collects from view to view what a score needs."""

    def start(self, raw: RawParameters) -> None:
        """Begin anew, for this model."""
        ...

    def add(self, view: Camera, gradients: RawParameters, frame: ViewLoss) -> None:
        """One view. The tensors are overwritten by the next one."""
        ...

    def scores(self) -> Tensor:
        """(N,) of the views so far."""
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
    """The accumulator of that name; InputError where there is none."""
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
    """Show `views` to all accumulators, in one pass."""
    gradients = raw.map(torch.empty_like)
    for accumulator in accumulators:
        accumulator.start(raw)
    for view in views:
        frame = differentiate(view, raw, gradients)
        for accumulator in accumulators:
            accumulator.add(view, gradients, frame)
        on_view()
