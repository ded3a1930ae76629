# SPDX-License-Identifier: Apache-2.0
"""Scores of Gaussians: a round removes those with the lowest scores (prune.py).

An accumulator gets every training view once. To add a score, add a class here and its name in
SCORES, by which the settings choose it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gaussian_compression.sensitivity import DIMMING, PullBack, dimmed, random_signs
from gaussian_renderer.backend import Differentiate
from scene.array_operations import ArrayOperations
from scene.cameras import Camera
from scene.exposure import with_scaled_exposure
from scene.raw_parameters import RawParameters
from utils import ranks
from utils.errors import InputError


@dataclass(frozen=True)
class ScoreTools:
    """The functions of a device that scores call."""

    operations: ArrayOperations
    differentiate: Differentiate
    pull_back: PullBack
    background: Tensor
    """(3,) RGB in 0..1."""


class ScoredView:
    """One view of a model. Its loss is differentiated only if a score reads the gradients."""

    def __init__(
        self, camera: Camera, raw: RawParameters, tools: ScoreTools, buffer: RawParameters
    ) -> None:
        """`buffer`: overwritten by the gradients of each view."""
        self.camera = camera
        self._raw, self._tools, self._buffer = raw, tools, buffer

    @cached_property
    def loss_gradients(self) -> RawParameters:
        """The gradients of the photometric loss; a copy is needed to keep them."""
        self._tools.differentiate(self.camera, self._raw, self._buffer)
        return self._buffer


class ScoreAccumulator(Protocol):
    """Accumulates over the views what a score needs."""

    passes: int
    """Backward passes for each view."""

    def start(self, raw: RawParameters) -> None:
        """Reset, for this model."""
        ...

    def add(self, view: ScoredView) -> None:
        """Add one view. The caller overwrites its gradients for the next one."""
        ...

    def scores(self) -> Tensor:
        """(N,): the scores over the views so far."""
        ...


class SharedScore(ScoreAccumulator, Protocol):
    """A score whose views several ranks share."""

    def skip(self, camera: Camera) -> None:
        """Does for a view of another rank what the next views depend on."""
        ...

    def sums(self) -> Sequence[Tensor]:
        """What `add` adds to; it may be changed."""
        ...


class _SentAnew:
    """What another rank gets of a score: one that has not begun."""

    def __init__(self, tools: ScoreTools) -> None:
        self._tools = tools

    def __reduce__(self) -> tuple:
        return type(self), (self._tools,)


class GradientNorm(_SentAnew):
    """Norms of the signed sums of the loss gradients over the views (Fast-3DGS, COGS'25)."""

    passes = 1

    def __init__(self, tools: ScoreTools) -> None:
        super().__init__(tools)
        self._operations = tools.operations

    def start(self, raw: RawParameters) -> None:
        """See ScoreAccumulator."""
        self._total = raw.map(torch.zeros_like)

    def add(self, view: ScoredView) -> None:
        """See ScoreAccumulator."""
        self._operations.add_to(self._total, view.loss_gradients)

    def skip(self, camera: Camera) -> None:
        """See SharedScore."""

    def sums(self) -> Sequence[Tensor]:
        """See SharedScore."""
        return self._total

    def scores(self) -> Tensor:
        """The sum of the L2 norms of a Gaussian's six gradients."""
        norms = [total.flatten(1).norm(dim=1) for total in self._total if total.numel()]
        return torch.stack(norms).sum(dim=0)


class RemovalError(_SentAnew):
    """The squared change of the images if only this Gaussian is removed, summed over the pixels.

    A pixel is an affine function of a Gaussian's alpha there, so that its change by a removal is
    exactly -opacity x the derivative with respect to the opacity, as long as alpha is below its
    limit. The sum of squares is estimated with random signs (Hutchinson 1989), as in
    `render_sensitivity`. Colours are dimmed, so that the limit 1 of the images hides no change.
    """

    passes = 2
    """Each with random signs: one has 0.1 dB less at a fifth of the Gaussians."""
    most_opacity = 0.98
    """Above it, alpha may be at its limit, 0.99, where its derivative is 0."""

    def __init__(self, tools: ScoreTools) -> None:
        super().__init__(tools)
        self._pull_back, self._background = tools.pull_back, tools.background * DIMMING

    def start(self, raw: RawParameters) -> None:
        """See ScoreAccumulator."""
        limit = math.log(self.most_opacity / (1 - self.most_opacity))
        self._model = dimmed(raw)._replace(opacity=raw.opacity.clamp(max=limit))
        self._gradients = raw.map(torch.empty_like)
        self._total = torch.zeros_like(raw.opacity)
        self._random = torch.Generator().manual_seed(0)

    def add(self, view: ScoredView) -> None:
        """See ScoreAccumulator."""
        camera = with_scaled_exposure(view.camera, colours=1, offset=DIMMING)
        for _ in range(self.passes):
            signs = random_signs(view.camera, self._random).to(self._total.device)
            signs = camera.counted(signs)
            self._pull_back(camera, signs, self._model, self._gradients, self._background)
            self._total.addcmul_(self._gradients.opacity, self._gradients.opacity)

    def skip(self, camera: Camera) -> None:
        """See SharedScore."""
        for _ in range(self.passes):
            random_signs(camera, self._random)

    def sums(self) -> Sequence[Tensor]:
        """See SharedScore."""
        return [self._total]

    def scores(self) -> Tensor:
        """Squared differences of images in 0..1."""
        # The derivative of the opacity with respect to its logit is opacity x (1 - opacity).
        transparency = torch.sigmoid(-self._model.opacity)
        scale = self.passes * DIMMING**2
        return (self._total / (transparency.square() * scale)).squeeze(1)


SCORES: dict[str, type[GradientNorm] | type[RemovalError]] = {
    "gradient_norm": GradientNorm,
    "removal_error": RemovalError,
}


def score_named(name: str, tools: ScoreTools) -> SharedScore:
    """The accumulator of that name; InputError if there is none."""
    if name not in SCORES:
        raise InputError(f"score {name!r}: expected one of {', '.join(sorted(SCORES))}")
    return SCORES[name](tools)


def accumulate_scores(
    accumulators: Sequence[ScoreAccumulator],
    raw: RawParameters,
    views: Iterable[Camera],
    tools: ScoreTools,
    on_view: Callable[[], None],
) -> None:
    """Add `views` to all accumulators, in one pass."""
    buffer = raw.map(torch.empty_like)
    for accumulator in accumulators:
        accumulator.start(raw)
    for camera in views:
        view = ScoredView(camera, raw, tools, buffer)
        for accumulator in accumulators:
            accumulator.add(view)
        on_view()


def accumulate_on_ranks(
    score: SharedScore,
    raw: RawParameters,
    views: Sequence[Camera],
    tools: ScoreTools,
    on_view: Callable[[], None],
) -> None:
    """Add `views`, which the ranks share.

    Sums of several ranks are those of one up to the rounding of their order, about 1e-6.
    """
    here = ranks.Here(on_view)
    own, *others = ranks.everywhere(_share_of_sums, score, raw, list(views), tools, here)
    ranks.all_sum(own, others)


def _share_of_sums(
    score: SharedScore,
    raw: RawParameters,
    views: Sequence[Camera],
    tools: ScoreTools,
    on_view: ranks.Here,
) -> Sequence[Tensor]:
    buffer = raw.map(torch.empty_like)
    score.start(raw)
    for index, camera in enumerate(views):
        if ranks.is_mine(index):
            score.add(ScoredView(camera, raw, tools, buffer))
            on_view()
        else:
            score.skip(camera)
    return score.sums()
