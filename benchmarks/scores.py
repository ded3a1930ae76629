# SPDX-License-Identifier: Apache-2.0
"""Compares scores of Gaussians: same start, counts, fine-tuning and seeds; PSNR on guard views.

    python benchmarks/scores.py -s SCENE -m MODEL --eval -r 4 [--kept 0.2] [--scores a,b] \
        [--seeds 0 1]

The start model is first fine-tuned without the guard views, as compress.py does (half as long),
once for all. For each score and seed, it is then pruned to each part of `--kept` in turn, by rounds
that remove at most 35 %, with 400 iterations after each. A copy at each part is fine-tuned for
1,000 iterations with falling rates, and measured. Nothing is quantised or written.
"""

import math
import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from arguments import ModelParams, PipelineParams
from benchmarks.scene_tools import LOSS, SceneTools, scene_and_model, tools_of
from gaussian_compression.presets import PRESETS
from gaussian_compression.prune import rows_to_keep
from gaussian_compression.scores import (
    SCORES,
    RemovalError,
    ScoreAccumulator,
    ScoredView,
    ScoreTools,
    accumulate_scores,
)
from gaussian_compression.sensitivity import DIMMING, grey
from gaussian_compression.settings import RateCourse, WarmRestart
from gaussian_compression.trainable import FullPrecision
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.cli import run
from utils.console_progress import ConsoleProgress
from utils.errors import InputError
from utils.sh_utils import C0

WARMUP = 2000
MOST_REMOVED = 0.35
"""By a round, as a part of its Gaussians."""
FALLING = RateCourse(WarmRestart(rate_factor=3.0, position_rate_factor=10.0), end=0.1)


class SumOfNorms:
    """The sum over the views of the norms of the six gradients of the loss."""

    passes = 1

    def __init__(self, tools: ScoreTools) -> None:
        pass

    def start(self, raw: RawParameters) -> None:
        self._total = torch.zeros(raw.gaussian_count)

    def add(self, view: ScoredView) -> None:
        norms = [g.flatten(1).norm(dim=1) for g in view.loss_gradients if g.numel()]
        self._total += torch.stack(norms).sum(dim=0)

    def scores(self) -> Tensor:
        return self._total


class SquaredGradient(SumOfNorms):
    """The sum over the views of the squared gradients of the loss (empirical Fisher diagonal)."""

    def add(self, view: ScoredView) -> None:
        for gradient in view.loss_gradients:
            self._total += gradient.flatten(1).square().sum(dim=1)


class BlendingWeight(SumOfNorms):
    """The sum over the views and pixels of alpha x transmittance."""

    def __init__(self, tools: ScoreTools) -> None:
        self._tools = tools

    def start(self, raw: RawParameters) -> None:
        super().start(raw)
        self._model, self._gradients = grey(raw), raw.map(torch.empty_like)

    def weight(self, camera: Camera) -> Tensor:
        """Of one view: the derivative with respect to the grey colour is C0 x the weight."""
        ones = torch.ones(camera.image_u8.shape)
        self._tools.pull_back(camera, ones, self._model, self._gradients, torch.zeros(3))
        return self._gradients.features_dc[:, 0, 0] / C0

    def add(self, view: ScoredView) -> None:
        self._total += self.weight(view.camera)


class LargestWeight(BlendingWeight):
    """The largest of the views' sums of alpha x transmittance."""

    def add(self, view: ScoredView) -> None:
        self._total = torch.maximum(self._total, self.weight(view.camera))


class ChangeOfError(RemovalError):
    """The signed change of the images' squared error if only this Gaussian is removed.

    The image changes by a multiple d of its derivative (see RemovalError), so that this is exactly
    the sum of 2 x (image - photograph) x d and d squared: the terms of first and second order.
    """

    passes = 2
    """For the squares; one more for the residuals."""

    def start(self, raw: RawParameters) -> None:
        super().start(raw)
        self._first = torch.zeros_like(raw.opacity)

    def add(self, view: ScoredView) -> None:
        super().add(view)
        photograph = view.camera.image_u8.float() / 255
        pull = (self._model, self._gradients, self._background)
        image = self._pull_back(view.camera, torch.zeros_like(photograph), *pull)
        residual = (image / DIMMING).clamp_(0, 1) - photograph
        self._pull_back(view.camera, residual, *pull)
        self._first += self._gradients.opacity

    def scores(self) -> Tensor:
        transparency = torch.sigmoid(-self._model.opacity)
        return super().scores() - (2 * self._first / (transparency * DIMMING)).squeeze(1)


class AdamMoment:
    """Adam's second moment after a fine-tuning, summed over the parameters: it costs no pass."""

    passes = 0

    def __init__(self, model: FullPrecision) -> None:
        self._model = model

    def start(self, raw: RawParameters) -> None:
        pass

    def add(self, view: ScoredView) -> None:
        pass

    def scores(self) -> Tensor:
        optimizer = self._model._adam._optimizer
        moments = [state["exp_avg_sq"] for state in optimizer.state.values()]
        return torch.stack([moment.flatten(1).sum(dim=1) for moment in moments]).sum(dim=0)


COMPARED: Mapping[str, Callable[[ScoreTools], ScoreAccumulator]] = {
    **SCORES,
    "sum_of_norms": SumOfNorms,
    "squared_gradient": SquaredGradient,
    "weight_sum": BlendingWeight,
    "weight_max": LargestWeight,
    "error_change": ChangeOfError,
}
ADAM = "adam_moment"
NAMES = (*COMPARED, ADAM)


def counts_of_rounds(count: int, kept: float, start: int) -> list[int]:
    """After each round that leads from `count` Gaussians to the part `kept` of `start`."""
    target = int(kept * start)
    rounds = max(1, math.ceil(math.log(target / count) / math.log(1 - MOST_REMOVED)))
    return [int(count * (target / count) ** (step / rounds)) for step in range(1, rounds)] + [
        target
    ]


@dataclass(frozen=True)
class Iterations:
    """Of fine-tuning."""

    round: int
    last: int


class Comparison:
    """One scene, its start model after the first fine-tuning, and the views."""

    def __init__(
        self, tools: SceneTools, raw: RawParameters, warmup: int, iterations: Iterations
    ) -> None:
        self._tools, self._iterations = tools, iterations
        restart = RateCourse(PRESETS["balanced"].trajectory.warmup_restart)
        self._start = self._finetuned(raw, warmup, restart, seed=0)

    def pruned(self, name: str, parts: Sequence[float], seed: int) -> Iterator[RawParameters]:
        """The fine-tuned model of each of the descending `parts` of the start model."""
        model, start = self._start, self._start.seen.gaussian_count
        raw = model.seen.map(torch.clone)
        for part in parts:
            for count in counts_of_rounds(raw.gaussian_count, part, start):
                raw = raw.rows(rows_to_keep(self._scores(name, model, raw), count))
                model = self._finetuned(raw, self._iterations.round, RateCourse(), seed)
            last = raw.map(torch.clone)
            self._finetuned(last, self._iterations.last, FALLING, seed)
            yield last

    def _scores(self, name: str, model: FullPrecision, raw: RawParameters) -> Tensor:
        score = AdamMoment(model) if name == ADAM else COMPARED[name](self._tools.scores)
        views = self._tools.views.training if score.passes else []
        accumulate_scores([score], raw, views, self._tools.scores, lambda: None)
        return score.scores()

    def _finetuned(
        self, raw: RawParameters, iterations: int, course: RateCourse, seed: int
    ) -> FullPrecision:
        """`raw`, which is trained in place, and its optimiser."""
        tools, order = self._tools, random.Random(seed)
        model = FullPrecision(raw, LOSS, tools.backend)
        with tools.measure.progress.stage("fine-tuning", iterations) as advance:
            tools.finetuner().run(model, tools.views.training, iterations, order, advance, course)
        return model


def checked_parts(parts: Sequence[float]) -> list[float]:
    """Each once, from large to small; InputError for one that is not between 0 and 1."""
    if wrong := [part for part in parts if not 0 < part < 1]:
        raise InputError(f"--kept: expected parts above 0 and below 1, got {wrong[0]:g}")
    return sorted(set(parts), reverse=True)


def checked_names(text: str) -> list[str]:
    """Those of scores, separated by commas; InputError for others."""
    names = text.split(",")
    if wrong := [name for name in names if name not in NAMES]:
        raise InputError(f"--scores: expected names of {', '.join(NAMES)}, got {wrong[0]!r}")
    return names


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    loading, _ = ModelParams(parser), PipelineParams(parser)
    parser.add_argument("--kept", type=float, nargs="+", default=[0.2], help="of the Gaussians")
    parser.add_argument("--scores", default=",".join(NAMES), help="names, with commas")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the order of views")
    parser.add_argument("--warm", type=int, default=WARMUP, help="iterations of the first step")
    parser.add_argument("--round_iterations", type=int, default=400)
    parser.add_argument("--last_iterations", type=int, default=1000)
    args = parser.parse_args()
    parts, names = checked_parts(args.kept), checked_names(args.scores)
    options = loading.extract(args)
    scene, raw = scene_and_model(options)
    tools = tools_of(
        scene, raw.sh_degree, white=options.white_background, progress=ConsoleProgress()
    )
    iterations = Iterations(args.round_iterations, args.last_iterations)
    comparison = Comparison(tools, raw, args.warm, iterations)
    print(
        f"| score | seed | Gaussians | guard PSNR ({tools.guard_psnr(raw):.3f} unpruned) | CPU, s |"
    )
    print("|---|---|---|---|---|", flush=True)
    for seed in args.seeds:
        for name in names:
            began = time.process_time()
            for raw in comparison.pruned(name, parts, seed):
                seconds, count = time.process_time() - began, raw.gaussian_count
                psnr = tools.guard_psnr(raw)
                print(f"| {name} | {seed} | {count:,} | {psnr:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    run(main)
