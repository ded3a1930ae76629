# SPDX-License-Identifier: Apache-2.0
"""What guard views show of unseen views: `python benchmarks/guard.py -s SCENE -m MODEL --eval`.

Runs the rounds of the preset balanced, and as many without pruning: the unpruned twin, which draws
the same views in the same order at the same learning rates. After each round, all guard and test
views and some training views are measured, one by one; after some, also what a final fine-tuning on
all training views makes of the model. `--out` gets all figures as JSON (guard_rules.py reads them).
Nothing is quantised. Takes the loading options of compress.py.
"""

import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from arguments import ModelParams, PipelineParams
from benchmarks.scene_tools import LOSS, SceneTools, scene_and_model, tools_of
from gaussian_compression.presets import PRESETS
from gaussian_compression.prune import count_after_round, rows_to_keep
from gaussian_compression.scores import accumulate_scores, score_named
from gaussian_compression.settings import GridSettings, RateCourse
from gaussian_compression.trainable import FullPrecision
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.cli import run
from utils.console_progress import ConsoleProgress
from utils.files import write_json
from utils.image_metrics import score_images
from utils.image_utils import to_u8
from utils.perceptual_metrics import Measure, extra_measures

Views = Mapping[str, Sequence[Camera]]
Record = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Lengths:
    """Rounds, and iterations of fine-tuning."""

    rounds: int
    finals: tuple[int, ...]
    """The rounds after which a final fine-tuning is measured."""
    prune_fraction: float
    warmup_iterations: int
    final_iterations: int


class Twins:
    """A model in rounds of pruning and its unpruned twin, and the figures of both."""

    def __init__(
        self, tools: SceneTools, test: Sequence[Camera], start: RawParameters, record: Record
    ) -> None:
        """`test`: the test views."""
        self._trajectory, self._tools = PRESETS["balanced"].trajectory, tools
        split = tools.views
        self._training, self._everything = split.training, [*split.training, *split.guard]
        self._measured: Views = {"guard": split.guard, "training": split.sample(), "test": test}
        self._finetuner, self._progress = tools.finetuner(), tools.measure.progress
        self._measures = extra_measures()
        self._start, self._record = start, record

    def run(self, lengths: Lengths) -> None:
        """Passes all figures to `record`."""
        raw, trajectory = self._start, self._trajectory
        self._note("unpruned", "start", 0, raw, 0)
        cycles = replace(trajectory, warmup_iterations=lengths.warmup_iterations).cycle_lengths
        for number, length in enumerate(cycles, start=1):
            cycle = f"cycle {number}"
            self._finetune(raw, self._training, length, cycle, trajectory.round_rates)
            if number < len(cycles):
                self._note("unpruned", "cycle", number, raw, sum(cycles[:number]))
        done = lengths.warmup_iterations
        self._note("unpruned", "round", 0, raw, done)
        pruned, twin = raw, raw.map(torch.clone)
        for number in range(1, lengths.rounds + 1):
            done += trajectory.finetune_iterations
            count = count_after_round(pruned.gaussian_count, lengths.prune_fraction)
            pruned = self._pruned(pruned, count)
            for name, model in (("pruned", pruned), ("unpruned", twin)):
                length, course = trajectory.finetune_iterations, trajectory.round_rates
                self._finetune(model, self._training, length, f"round {number}", course)
                self._note(name, "round", number, model, done)
                if number in lengths.finals:
                    final = self._final(model, lengths, number)
                    self._note(name, "final", number, final, done + lengths.final_iterations)

    def _pruned(self, raw: RawParameters, count: int) -> RawParameters:
        score = score_named(self._trajectory.score, self._tools.scores)
        accumulate_scores([score], raw, self._training, self._tools.scores, lambda: None)
        return raw.rows(rows_to_keep(score.scores(), count))

    def _final(self, raw: RawParameters, lengths: Lengths, number: int) -> RawParameters:
        """A copy, fine-tuned on all training views with the rates of the last stage."""
        grids, raw = GridSettings(), raw.map(torch.clone)
        course = RateCourse(grids.final_restart, grids.final_rate_end)
        name = f"final {number}"
        self._finetune(raw, self._everything, lengths.final_iterations, name, course)
        return raw

    def _finetune(
        self,
        raw: RawParameters,
        views: Sequence[Camera],
        iterations: int,
        name: str,
        course: RateCourse,
    ) -> None:
        """In place. The order of views depends on `name` only, so that twins have the same."""
        model = FullPrecision(raw, LOSS, self._tools.backend, course.opacity_decay)
        order = random.Random(name)
        with self._progress.stage(name, iterations) as advance:
            self._finetuner.run(model, views, iterations, order, advance, course)

    @torch.no_grad()
    def _note(
        self, model: str, stage: str, number: int, raw: RawParameters, iterations: int
    ) -> None:
        """Records the figures of each view, by set and measure."""
        figures = {name: self._figures(views, raw) for name, views in self._measured.items()}
        self._record(
            {
                "model": model,
                "stage": stage,
                "round": number,
                "iterations": iterations,
                "gaussians": raw.gaussian_count,
                "cpu_seconds": round(time.process_time(), 1),
                "views": figures,
            }
        )
        means = {name: sum(found["psnr"]) / len(found["psnr"]) for name, found in figures.items()}
        line = ", ".join(f"{name} {psnr:.3f}" for name, psnr in means.items())
        self._progress.note(f"{stage} {number}, {model}, {raw.gaussian_count:,}: {line} dB")

    def _figures(self, views: Sequence[Camera], raw: RawParameters) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"psnr": [], "ssim": []}
        draw, background = self._tools.backend.draw, self._tools.background
        for view in views:
            image = to_u8(draw(view, raw, background, raw.sh_degree))
            psnr, ssim = score_images(image, view.image_u8)
            found["psnr"].append(psnr)
            found["ssim"].append(ssim)
            for name, value in _extra(self._measures, image, view.image_u8).items():
                found.setdefault(name, []).append(value)
        return found


def _extra(
    measures: Mapping[str, Measure | None], image: torch.Tensor, photo: torch.Tensor
) -> dict[str, float]:
    """The measures that are installed and that accept images of this size."""
    found = {name: measure(image, photo) for name, measure in measures.items() if measure}
    return {name: value for name, value in found.items() if value is not None}


def main() -> None:
    balanced = PRESETS["balanced"].trajectory
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    loading, _ = ModelParams(parser), PipelineParams(parser)
    parser.add_argument("--out", type=Path, required=True, help="JSON file with all figures")
    parser.add_argument("--scene_name", required=True, help="name of the scene in tables")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--finals", default="4,8,12", help="rounds, with commas")
    parser.add_argument("--prune_fraction", type=float, default=balanced.prune_fraction)
    parser.add_argument("--warmup_iterations", type=int, default=balanced.warmup_iterations)
    parser.add_argument("--final_iterations", type=int, default=2000)
    args = parser.parse_args()
    options = loading.extract(args)
    scene, raw = scene_and_model(options)
    finals = tuple(int(number) for number in args.finals.split(",") if number)
    lengths = Lengths(
        rounds=args.rounds,
        finals=finals,
        prune_fraction=args.prune_fraction,
        warmup_iterations=args.warmup_iterations,
        final_iterations=args.final_iterations,
    )
    states: list[dict[str, Any]] = []

    def record(state: dict[str, Any]) -> None:
        states.append(state)  # and write all, so that an interrupted run leaves figures
        write_json(args.out, {"scene": args.scene_name, "states": states})

    tools = tools_of(
        scene, raw.sh_degree, white=options.white_background, progress=ConsoleProgress()
    )
    Twins(tools, scene.getTestCameras(), raw, record).run(lengths)


if __name__ == "__main__":
    run(main)
