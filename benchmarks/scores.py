# SPDX-License-Identifier: Apache-2.0
"""Compares scores of Gaussians: same start, count, fine-tuning and seed; PSNR on guard views.

    python benchmarks/scores.py -s SCENE -m MODEL --eval -r 4 [--kept 0.2] [--scores a,b] [--seed 0]

The start model is first fine-tuned without the guard views, as compress.py does (half as long). For
each score, it is then pruned to `--kept` of its Gaussians in four steps, each followed by 400
iterations, and fine-tuned for 1,000 iterations with falling rates. Nothing is quantised or written.
"""

import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
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
    ScoreAccumulator,
    ScoredView,
    ScoreTools,
    accumulate_scores,
)
from gaussian_compression.sensitivity import grey
from gaussian_compression.settings import RateCourse, WarmRestart
from gaussian_compression.trainable import FullPrecision
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.console_progress import ConsoleProgress
from utils.sh_utils import C0

STEPS, ITERATIONS, LAST, WARMUP = 4, 400, 1000, 2000
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


COMPARED: Mapping[str, Callable[[ScoreTools], ScoreAccumulator]] = {
    **SCORES,
    "sum_of_norms": SumOfNorms,
    "squared_gradient": SquaredGradient,
    "weight_sum": BlendingWeight,
    "weight_max": LargestWeight,
}


class Comparison:
    """One scene, its start model after the first fine-tuning, and the views."""

    def __init__(self, tools: SceneTools, raw: RawParameters, seed: int) -> None:
        self._tools, self._start, self._seed = tools, raw, seed
        self._finetune(raw, WARMUP, RateCourse(PRESETS["balanced"].trajectory.warmup_restart))

    def pruned(self, name: str, kept: float) -> RawParameters:
        """The start model pruned by the score of that name and fine-tuned."""
        raw, start = self._start.map(torch.clone), self._start.gaussian_count
        for step in range(1, STEPS + 1):
            score = COMPARED[name](self._tools.scores)
            views = self._tools.views.training
            accumulate_scores([score], raw, views, self._tools.scores, lambda: None)
            raw = raw.rows(rows_to_keep(score.scores(), int(start * kept ** (step / STEPS))))
            self._finetune(raw, ITERATIONS, RateCourse())
        self._finetune(raw, LAST, FALLING)
        return raw

    def _finetune(self, raw: RawParameters, iterations: int, course: RateCourse) -> None:
        tools, order = self._tools, random.Random(self._seed)
        model = FullPrecision(raw, LOSS, tools.backend)
        with tools.measure.progress.stage("fine-tuning", iterations) as advance:
            tools.finetuner().run(model, tools.views.training, iterations, order, advance, course)


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    loading, _ = ModelParams(parser), PipelineParams(parser)
    parser.add_argument("--kept", type=float, default=0.2, help="part of the Gaussians")
    parser.add_argument("--scores", default=",".join(COMPARED), help="names, with commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = loading.extract(args)
    scene, raw = scene_and_model(options)
    tools = tools_of(
        scene, raw.sh_degree, white=options.white_background, progress=ConsoleProgress()
    )
    comparison = Comparison(tools, raw, args.seed)
    print(f"| score | Gaussians | guard PSNR ({tools.guard_psnr(raw):.3f} unpruned) | CPU, s |")
    print("|---|---|---|---|", flush=True)
    for name in args.scores.split(","):
        began = time.process_time()
        raw = comparison.pruned(name, args.kept)
        psnr, seconds = tools.guard_psnr(raw), time.process_time() - began
        print(f"| {name} | {raw.gaussian_count:,} | {psnr:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
