# SPDX-License-Identifier: Apache-2.0
"""Times one iteration of fine-tuning and of training, part by part, on a trained model.

    python benchmarks/iteration.py -s SCENE -m MODEL [-r 2] [--rounds 30] [--threads 2] [--json F]

Views are drawn as in a run. Wall and CPU milliseconds, minimum and median over the rounds; CPU time
counts all threads, and divided by the threads says what a quiet machine would take.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arguments import ModelOptions, OptimizationOptions
from gaussian_compression.finetune import CONSTANT_RATES, Finetuner, TrainableModel
from gaussian_compression.model_folder import start_from_folder
from gaussian_compression.settings import FinetuneSettings, QuantizationSettings
from gaussian_compression.straight_through import straight_through
from gaussian_renderer.view_gradient import RenderOptions, ViewLoss, view_gradient
from scene import GaussianModel, Scene
from scene.densification import accumulate
from scene.optimizer import take_step
from scene.raw_parameters import RawParameters

CPU = torch.device("cpu")


@dataclass
class Stopwatch:
    """Wall and CPU seconds of named parts, one entry a round."""

    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name].append(time.perf_counter() - wall)
        self.cpu[name].append(time.process_time() - cpu)

    def table(self) -> dict[str, dict[str, float]]:
        """Milliseconds by part."""
        return {
            name: {
                "wall_min": 1e3 * min(self.wall[name]),
                "wall_median": 1e3 * statistics.median(self.wall[name]),
                "cpu_min": 1e3 * min(self.cpu[name]),
                "cpu_median": 1e3 * statistics.median(self.cpu[name]),
            }
            for name in self.wall
        }


Differentiate = Callable[[Any, RawParameters, RawParameters], ViewLoss]


def time_finetuning(
    model: GaussianModel, scene: Scene, differentiate: Differentiate, rounds: int
) -> Stopwatch:
    """The loop of gaussian_compression.finetune, with a stopwatch in it."""
    trainable = TrainableModel.start_from(model.raw_parameters().map(lambda t: t.detach().clone()))
    settings, quantization = FinetuneSettings(), QuantizationSettings()
    tuner = Finetuner(differentiate, scene.cameras_extent, settings)
    rates = tuner.rates(CONSTANT_RATES, left=0.0)
    optimizer = straight_through(trainable.raw, trainable.ranges, settings, quantization)
    gradients, watch = trainable.raw.map(torch.empty_like), Stopwatch()
    for view in drawn(scene, rounds):
        with watch.part("whole iteration"):
            with watch.part("render, loss, backward"):
                differentiate(view, optimizer.seen, gradients)
            with watch.part("Adam, ranges, quantisation"):
                optimizer.step(gradients, rates)
    return watch


def time_training(
    model: GaussianModel, scene: Scene, differentiate: Differentiate, rounds: int
) -> Stopwatch:
    """The loop of train.py while it densifies, with a stopwatch in it."""
    model.spatial_lr_scale = scene.cameras_extent
    model.training_setup(OptimizationOptions())
    gradients, watch = model.raw_parameters().map(torch.empty_like), Stopwatch()
    for view in drawn(scene, rounds):
        with watch.part("whole iteration"):
            with watch.part("render, loss, backward"):
                said = differentiate(view, model.raw_parameters(), gradients)
            for parameter, gradient in zip(model.raw_parameters(), gradients, strict=True):
                parameter.grad = gradient
            with watch.part("densification statistics"), torch.no_grad():
                accumulate(model, said.screen_gradient, said.radii)
            with watch.part("Adam"):
                take_step(model.trained_by, model.optimizer_type, said.radii)
    return watch


def drawn(scene: Scene, rounds: int) -> list[Any]:
    """Views in random order. The first round of each loop also fills buffers: see the minimum."""
    return random.Random(0).choices(scene.getTrainCameras(), k=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-s", "--source_path", required=True)
    parser.add_argument("-m", "--model_path", type=Path, required=True)
    parser.add_argument("-r", "--resolution", type=int, default=-1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = ModelOptions(
        source_path=args.source_path, resolution=args.resolution, eval=True, data_device="cpu"
    )
    model = GaussianModel.from_splats(start_from_folder(args.model_path).splats, device=CPU)
    scene = Scene(options, model, shuffle=False)
    differentiate = partial(
        view_gradient(RenderOptions(), 0.2, CPU), background=torch.zeros(3), sh_degree=3
    )
    view = scene.getTrainCameras()[0]
    result = {
        "gaussians": model.get_xyz.shape[0],
        "image": [view.image_width, view.image_height],
        "threads": args.threads,
        "machine": f"{platform.processor() or platform.machine()}, {platform.platform()}",
        "fine-tuning": time_finetuning(model, scene, differentiate, args.rounds).table(),
        "training": time_training(model, scene, differentiate, args.rounds).table(),
    }
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def report(result: dict[str, Any]) -> None:
    print(f"{result['gaussians']:,} Gaussians, {result['image']}, {result['threads']} threads")
    print("| | wall min | wall median | CPU min | CPU median |\n|---|---|---|---|---|")
    for loop in ("fine-tuning", "training"):
        for name, ms in result[loop].items():
            print(f"| {loop}: {name} | {' | '.join(f'{value:.1f}' for value in ms.values())} |")


if __name__ == "__main__":
    main()
