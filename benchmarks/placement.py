# SPDX-License-Identifier: Apache-2.0
"""Compares schedules and placements of the rounds: PSNR on guard views at the same count.

    python benchmarks/placement.py -s SCENE -m MODEL --eval -r 4 --variants base pos=30,its=100

As benchmarks/scores.py, with the score `removal_error`: the start model is first fine-tuned without
the guard views (`--warm` iterations), then pruned to `--kept` of its Gaussians in rounds, and
fine-tuned once more with falling rates. A variant is `NAME=VALUE,...` with the fields of `Variant`.
Nothing is quantised or written.
"""

import math
import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from arguments import ModelParams, PipelineParams
from benchmarks.merging import merged
from benchmarks.scene_tools import LOSS, SceneTools, scene_and_model, tools_of
from gaussian_compression.presets import PRESETS
from gaussian_compression.prune import rows_to_keep
from gaussian_compression.scores import RemovalError, accumulate_scores
from gaussian_compression.settings import FinetuneSettings, RateCourse, WarmRestart
from gaussian_compression.trainable import FullPrecision
from gaussian_renderer.backend import Differentiate, ViewLoss
from scene.array_operations import ArrayOperations
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.cli import run
from utils.console_progress import ConsoleProgress
from utils.errors import InputError

RELOCATE_EVERY, RELOCATE_UNTIL = 100, 0.7
DEAD = 0.005
"""Opacities up to this are dead (Kheradmand et al. 2024)."""
HIDDEN = -30.0
"""A logit of opacity."""
NEIGHBOURS = 4


@dataclass(frozen=True)
class Variant:
    """One way from the start model to `--kept` of its Gaussians."""

    steps: int = 4
    """Rounds."""
    its: int = 400
    """Iterations in each."""
    last: int = 1000
    """Iterations after the rounds."""
    rate: float = 3.0
    """The factors of learning rates at the start of a round; they fall to 0.1."""
    pos: float = 10.0
    last_rate: float = 0.0
    """The same after the rounds; 0: as in the rounds."""
    last_pos: float = 0.0
    sh_weight: float = 0.05
    sh_rate: float = 1.0
    opacity_weight: float = 0.01
    """Weight of the mean opacity in the loss of the rounds."""
    opacity_decay: float = 0.0
    """In the rounds; see RateCourse."""
    dssim: float = LOSS.lambda_dssim
    distill: float = 0.0
    """Weight of the start model's renders in the photographs."""
    drop: float = 0.0
    """Share of the Gaussians, drawn at random, that an iteration of the rounds leaves out."""
    merge: float = 0.0
    """Part of the Gaussians that a round takes away that are merged with one alike."""
    pseudo: float = 0.0
    """Share of renders of the start model from between two photographs among the views."""
    explore: int = 0
    """Iterations with relocation, before the rounds."""
    cap: float = 1.0
    """Part of the Gaussians kept during these, the most important ones."""
    extra: float = 0.0
    """Part of the Gaussians, the least important ones, relocated each time besides dead ones."""
    by_error: float = 0.0
    """Whether places are drawn by removal error instead of opacity."""

    @property
    def loss(self) -> FinetuneSettings:
        return replace(
            LOSS,
            sh_sparsity=self.sh_weight,
            feature_rest_lr=LOSS.feature_rest_lr * self.sh_rate,
        )


def variant_of(text: str) -> Variant:
    """Of NAME=VALUE,...; `base` is the default."""
    kinds = {field.name: type(field.default) for field in fields(Variant)}
    values: dict[str, Any] = {}
    for part in [] if text == "base" else text.split(","):
        name, _, value = part.partition("=")
        try:
            values[name] = cast(type, kinds[name])(value)
        except (KeyError, ValueError):
            expected = ", ".join(f"{known} ({kind.__name__})" for known, kind in kinds.items())
            raise InputError(
                f"--variants: expected NAME=VALUE of {expected}, got {part!r}"
            ) from None
    return Variant(**values)


@dataclass(frozen=True)
class OpacitySum:
    """The weighted sum of the opacities (a regulariser of Kheradmand et al. 2024, 3DGS-MCMC)."""

    weight: float

    def add(self, coded: RawParameters, gradients: RawParameters) -> None:
        """See Penalty."""
        opacity = torch.sigmoid(coded.opacity)
        gradients.opacity.add_(opacity * (1 - opacity), alpha=self.weight)


def trained_in_rounds(
    raw: RawParameters, variant: Variant, operations: ArrayOperations
) -> FullPrecision:
    """Changes `raw` in place."""
    model = FullPrecision(raw, variant.loss, operations, variant.opacity_decay)
    weight = variant.opacity_weight / max(raw.gaussian_count, 1)
    model.penalties = [*model.penalties, OpacitySum(weight)]
    return model


class Trials:
    """One scene, its start model after the first fine-tuning, and the views."""

    def __init__(self, tools: SceneTools, raw: RawParameters, seed: int, warm: int) -> None:
        self._tools, self._seed, self._progress = tools, seed, tools.measure.progress
        self.start = raw
        restart = RateCourse(PRESETS["balanced"].trajectory.warmup_restart)
        self._train(FullPrecision(raw, LOSS, tools.backend), warm, restart, Variant())

    def result(self, variant: Variant, kept: float) -> tuple[RawParameters, float]:
        """The model, and its PSNR on guard views between the rounds and the last fine-tuning."""
        raw, count = self.start.map(torch.clone), self.start.gaussian_count
        views = [*self._photographs(variant.distill), *self._renders_between(variant.pseudo)]
        course = RateCourse(WarmRestart(variant.rate, variant.pos), end=0.1)
        if variant.explore:
            raw = self._explored(raw, variant, views)
        for step in range(1, variant.steps + 1):
            target = int(count * kept ** (step / variant.steps))
            raw = self._pruned(raw, target, variant.merge)
            model: FullPrecision = trained_in_rounds(raw, variant, self._tools.backend)
            self._train(model, variant.its, course, variant, views, f"round {step}")
        after_rounds = self._tools.guard_psnr(raw)
        last = WarmRestart(variant.last_rate or variant.rate, variant.last_pos or variant.pos)
        model = FullPrecision(raw, variant.loss, self._tools.backend)
        self._train(model, variant.last, RateCourse(last, end=0.1), variant, views, name="last")
        return raw, after_rounds

    def _train(
        self,
        model: FullPrecision,
        iterations: int,
        course: RateCourse,
        variant: Variant,
        views: Sequence[Camera] = (),
        name: str = "start",
        on_iteration: Callable[[], object] = lambda: None,
    ) -> None:
        differentiate = self._differentiate(variant, variant.drop if "round" in name else 0.0)
        tuner = replace(self._tools.finetuner(variant.loss), differentiate=differentiate)
        order = random.Random(f"{self._seed} {name}")
        with self._progress.stage(name, iterations) as advance:

            def after(loss: Tensor) -> None:
                on_iteration()
                advance(loss)

            tuner.run(model, views or self._tools.views.training, iterations, order, after, course)

    def _differentiate(self, variant: Variant, drop: float) -> Differentiate:
        """The loss of a view, of random Gaussians only if `drop` is their share to leave out."""
        tools, generator = self._tools, torch.Generator().manual_seed(self._seed)
        of_all = partial(
            tools.backend.differentiate,
            background=tools.background,
            sh_degree=self.start.sh_degree,
            lambda_dssim=variant.dssim,
        )

        def of_some(camera: Camera, raw: RawParameters, out: RawParameters) -> ViewLoss:
            gone = torch.rand(raw.opacity.shape, generator=generator) < drop
            opacity = torch.where(gone, HIDDEN, raw.opacity)
            return of_all(camera, raw._replace(opacity=opacity), out)

        return of_some if drop else of_all

    def _photographs(self, distill: float) -> list[Camera]:
        """The training views, mixed with the start model's renders of them."""
        if not distill:
            return self._tools.views.training
        made = []
        for view in self._tools.views.training:
            camera = copy(view)
            mixed = (1 - distill) * view.image_u8 + distill * self._render(view)
            camera.image_u8 = mixed.round().to(torch.uint8)
            made.append(camera)
        return made

    def _render(self, camera: Camera) -> Tensor:
        """Of the start model, in 0..255."""
        tools = self._tools
        image = tools.backend.draw(camera, self.start, tools.background, self.start.sh_degree)
        return image.clamp(0, 1) * 255

    def _scores(self, raw: RawParameters, views: Sequence[Camera]) -> Tensor:
        score = RemovalError(self._tools.scores)
        accumulate_scores([score], raw, views, self._tools.scores, lambda: None)
        return score.scores()

    def _pruned(self, raw: RawParameters, count: int, merge: float = 0.0) -> RawParameters:
        scores = self._scores(raw, self._tools.views.training)
        if merge:
            raw, scores = merged(raw, scores, int(merge * (raw.gaussian_count - count)))
        return raw.rows(rows_to_keep(scores, count))

    def _renders_between(self, share: float) -> list[Camera]:
        if not share:
            return []
        training = self._tools.views.training
        random_pairs, made = random.Random(self._seed), []
        for number in range(round(share / (1 - share) * len(training))):
            camera = camera_between(training, random_pairs, number)
            camera.image_u8 = self._render(camera).round().to(torch.uint8)
            made.append(camera)
        return made

    def _explored(
        self, raw: RawParameters, variant: Variant, views: Sequence[Camera]
    ) -> RawParameters:
        cap = int(raw.gaussian_count * variant.cap)
        if cap < raw.gaussian_count:
            raw = self._pruned(raw, cap)
        model = FullPrecision(raw, variant.loss, self._tools.backend)
        generator, done = torch.Generator().manual_seed(self._seed), 0

        def relocation() -> None:
            nonlocal done
            done += 1
            if done % RELOCATE_EVERY == 0 and done < RELOCATE_UNTIL * variant.explore:
                opacity = torch.sigmoid(raw.opacity[:, 0])
                scores = self._scores(raw, self._tools.views.training[::4])
                moved = opacity <= DEAD
                moved[torch.topk(scores, int(variant.extra * len(scores)), largest=False)[1]] = True
                places = (scores if variant.by_error else opacity).clone()
                places[moved] = 0
                relocate(raw, torch.nonzero(moved)[:, 0], places, generator)

        course = RateCourse(WarmRestart(), end=0.3)
        self._train(model, variant.explore, course, variant, views, "explore", relocation)
        return raw


def relocate(raw: RawParameters, rows: Tensor, places: Tensor, generator: torch.Generator) -> None:
    """Makes the `rows` copies of Gaussians drawn by the weights `places` (N,).

    Opacities and scales of the copies and of their origin are those that change the image least
    (Kheradmand et al. 2024, 3D Gaussian Splatting as Markov Chain Monte Carlo, equation 9).
    """
    if not len(rows):
        return
    origins = torch.multinomial(places, len(rows), replacement=True, generator=generator)
    split, copies = torch.unique(origins, return_counts=True)
    opacity = torch.sigmoid(raw.opacity[split, 0])
    shared = 1 - (1 - opacity) ** (1 / (copies + 1))
    sums = torch.tensor([
        sum(math.comb(i, k) * (-1) ** k * o ** (k + 1) / math.sqrt(k + 1)
            for i in range(n + 1) for k in range(i + 1))
        for n, o in zip(copies.tolist(), shared.tolist(), strict=True)
    ])  # fmt: skip
    raw.scaling[split] += torch.log((opacity / sums).clamp(min=1e-6))[:, None]
    raw.opacity[split, 0] = torch.logit(shared.clamp(DEAD, 1 - 1e-6))
    for tensor in raw:
        tensor[rows] = tensor[origins]


def camera_between(views: Sequence[Camera], order: random.Random, number: int) -> Camera:
    """A camera between one of `views` and one of its nearest neighbours."""
    centres = np.stack([view.camera_center.numpy() for view in views])
    first = order.randrange(len(views))
    near = np.argsort(np.linalg.norm(centres - centres[first], axis=1))[1 : NEIGHBOURS + 1]
    one, other = views[first], views[int(order.choice(list(near)))]
    part = order.uniform(0.2, 0.8)
    # The nearest rotation to the mean of two near ones (polar decomposition).
    u, _, vt = np.linalg.svd((1 - part) * one.R + part * other.R)
    rotation = u @ vt
    centre = -(1 - part) * one.R @ one.T - part * other.R @ other.T
    return Camera(
        (one.image_width, one.image_height), one.colmap_id, rotation, -rotation.T @ centre,
        one.FoVx, one.FoVy, None, None, None, f"between {number}", number,
        image_u8=torch.zeros_like(one.image_u8), principal_point=one.principal_point,
    )  # fmt: skip


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    loading, _ = ModelParams(parser), PipelineParams(parser)
    parser.add_argument("--kept", type=float, default=0.2, help="part of the Gaussians")
    parser.add_argument("--warm", type=int, default=2000, help="iterations of the first step")
    parser.add_argument("--variants", nargs="+", default=["base"], metavar="NAME=VALUE,...")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    variants = {text: variant_of(text) for text in args.variants}
    options = loading.extract(args)
    scene, raw = scene_and_model(options)
    tools = tools_of(
        scene, raw.sh_degree, white=options.white_background, progress=ConsoleProgress()
    )
    trials, unpruned = Trials(tools, raw, args.seed, args.warm), tools.guard_psnr(raw)
    print(
        f"| variant | guard PSNR after the rounds ({unpruned:.3f} unpruned) | at the end | CPU, s |"
    )
    print("|---|---|---|---|", flush=True)
    for text, variant in variants.items():
        began = time.process_time()
        model, after_rounds = trials.result(variant, args.kept)
        psnr, seconds = tools.guard_psnr(model), time.process_time() - began
        print(f"| {text} | {after_rounds:.3f} | {psnr:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    run(main)
