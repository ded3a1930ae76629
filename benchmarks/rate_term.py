# SPDX-License-Identifier: Apache-2.0
"""Compares last stages of compress.py: bytes by attribute, and PSNR on views not trained on.

    python benchmarks/rate_term.py -s SCENE -m MODEL --eval -r 4 --round 8 \
        --settings noise=0.035,sparsity=1 noise=0.06,sparsity=1

MODEL is the folder of a run of compress.py with --keep_rounds; the last stage starts from its round
ROUND each time, with other values of GridSettings or of Variant, and never trains on the guard
views. Prints a line of CSV for each; sizes in bytes per Gaussian. The loading options that are not
given come from MODEL/cfg_args.
"""

import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from arguments import ModelOptions, ModelParams, PipelineOptions, PipelineParams, get_combined_args
from benchmarks.scene_tools import tools_of
from benchmarks.sh_variants import (
    CodebookTraining,
    with_codebook,
    with_least_energy,
    with_logarithm,
)
from gaussian_compression.checkpoints import RoundFolder
from gaussian_compression.finetune import Finetuner
from gaussian_compression.measuring import Measuring
from gaussian_compression.model_folder import rounds_folder
from gaussian_compression.progress import Advance
from gaussian_compression.rounds import psnr_of
from gaussian_compression.scores import ScoreTools
from gaussian_compression.settings import GridSettings, RateCourse
from gaussian_compression.shipping import FinalTools, on_grids
from gaussian_compression.trainable import StraightThrough
from gaussian_compression.validation_split import ViewSplit
from gaussian_renderer.backend import Backend, RenderOptions
from scene import Scene
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters
from splat_codec.attribute_sizes import bytes_by_attribute
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import ModelFile, encode
from splat_formats.decoded import to_splats
from utils.cli import check_ranges, run
from utils.errors import InputError

TRAIN_EVERY = 4
"""Of the training views that are measured."""


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    loading, pipeline = ModelParams(parser, sentinel=True), PipelineParams(parser)
    parser.add_argument("--round", type=int, required=True, help="number of the round to start at")
    parser.add_argument("--iterations", type=int, default=1500, help="of each last stage")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", default=[""], metavar="NAME=VALUE,...")
    variants = {text: variant_of(text) for text in parser.parse_args().settings}
    args = get_combined_args(parser)
    options, pipe = loading.extract(args), pipeline.extract(args)
    check_ranges(options, pipe)
    bench = load(options, pipe, args.round, args.iterations)
    print(HEAD, flush=True)
    for name, variant in variants.items():
        for seed in args.seeds:
            print(row(name or "defaults", seed, measured(bench, variant, seed)), flush=True)


@dataclass(frozen=True)
class Variant:
    """What may differ from the last stage of the default preset."""

    grids: GridSettings = GridSettings()  # noqa: RUF009 (frozen)
    logarithm: float = 0.0
    """Not 0: the penalty of `sparsity` is on logarithms (sh_variants.py)."""
    ridge: float = 0.0
    """The strength of the ridge regression before the grids are fitted (sh_variants.py)."""
    codebook: float = 0.0
    """The number of different SH; 0: no limit."""


def variant_of(text: str) -> Variant:
    """The default, changed by `text`, NAME=NUMBER with commas."""
    grids, changed = GridSettings(), dict[str, Any]()
    of_grids = {f.name for f in fields(GridSettings) if isinstance(getattr(grids, f.name), float)}
    own = {field.name for field in fields(Variant)} - {"grids"}
    names = of_grids | own
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"--settings: expected NAME=NUMBER, got {part!r}") from None
        if name not in names:
            raise InputError(f"--settings: expected a name of {sorted(names)}, got {name!r}")
        changed[name] = number
    grids = replace(grids, **{name: changed[name] for name in of_grids & changed.keys()})
    return Variant(grids, **{name: changed[name] for name in own & changed.keys()})


@dataclass(frozen=True)
class Bench:
    """One pruned model, and all that its last stage needs."""

    start: RawParameters
    views: ViewSplit[Camera]
    finetuner: Finetuner
    measure: Measuring
    backend: Backend
    iterations: int
    scores: ScoreTools

    def psnr(self, views: Sequence[Camera], raw: RawParameters) -> float:
        """Mean over the views, in dB."""
        return psnr_of(self.measure.quality(views, raw, "quality"))

    def finetune(self, optimizer: StraightThrough, seed: int, grids: GridSettings) -> None:
        """The final fine-tuning without the guard views."""
        course = RateCourse(grids.final_restart, grids.final_rate_end)
        self.finetuner.run(
            optimizer, self.views.training, self.iterations, random.Random(seed), _ignore, course
        )

    def tools(self, seed: int, grids: GridSettings) -> FinalTools:
        """Those of the last stage."""
        training = self.views.training
        return FinalTools(
            sensitivity=partial(self.measure.sensitivity, training, seed),
            added_error=partial(self.measure.added_error, training),
            guard=partial(self.measure.quality, self.views.guard, name="quality"),
            finetune=partial(self.finetune, seed=seed, grids=grids),
            operations=self.backend,
        )


class Silent:
    """Progress that is not shown."""

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Advance]:
        """See Progress."""
        yield _ignore

    def note(self, text: str) -> None:
        """See Progress."""


def _ignore(value: object) -> None:
    pass


def load(options: ModelOptions, pipe: PipelineOptions, number: int, iterations: int) -> Bench:
    """The model of round `number`, with the photographs it was trained on."""
    device = torch.device("cpu")
    folder = RoundFolder(rounds_folder(Path(options.model_path)), {})
    if not folder.has(number):
        raise InputError(
            f"{options.model_path}: expected round {number} of --keep_rounds, found none"
        )
    raw = folder.load(number, device).model.raw
    options = replace(options, sh_degree=raw.sh_degree)
    scene = Scene(options, GaussianModel.from_raw(raw), shuffle=False)
    rendering = RenderOptions(**{**asdict(pipe), "antialiasing": options.antialiasing})
    tools = tools_of(
        scene,
        raw.sh_degree,
        white=options.white_background,
        progress=Silent(),
        options=rendering,
    )
    return Bench(
        raw, tools.views, tools.finetuner(), tools.measure, tools.backend, iterations, tools.scores
    )


@dataclass(frozen=True)
class Figures:
    """One last stage."""

    count: int
    file_bytes: int
    by_attribute: Mapping[str, float]
    """Bytes."""
    guard: float
    """dB"""
    train: float
    """dB, on every TRAIN_EVERY-th view."""
    seconds: float
    """CPU time of the fine-tuning."""


@torch.no_grad()
def measured(bench: Bench, variant: Variant, seed: int) -> Figures:
    """The last stage of this variant."""
    grids, raw = variant.grids, bench.start.map(torch.clone)
    tools = bench.tools(seed, grids)
    if variant.ridge:
        raw = with_least_energy(raw, bench.views.training, bench.scores, variant.ridge)
    guard = psnr_of(tools.guard(raw))
    if variant.codebook:
        raw = with_codebook(raw, int(variant.codebook))
    start = on_grids(raw, guard, tools, grids)
    optimizer: StraightThrough = start.optimizer
    if variant.logarithm:
        optimizer = with_logarithm(start.optimizer)
    elif variant.codebook:
        optimizer = CodebookTraining(start.optimizer, start.raw, grids.layer_fraction)
    began = time.process_time()
    tools.finetune(optimizer)
    return figures_of(bench, cast(GridSplats, optimizer.stored()), time.process_time() - began)


def figures_of(bench: Bench, stored: GridSplats, seconds: float) -> Figures:
    """Those of the integers."""
    decoded = RawParameters.from_splats(to_splats(stored), bench.start.xyz.device)
    return Figures(
        stored.count,
        len(encode(ModelFile(stored))),
        bytes_by_attribute(stored),
        bench.psnr(bench.views.guard, decoded),
        bench.psnr(bench.views.training[::TRAIN_EVERY], decoded),
        seconds,
    )


ATTRIBUTES = (
    "xyz", "opacity", "scaling", "rotation", "features_dc", "features_rest", "precision"
)  # fmt: skip
HEAD = f"settings;seed;gaussians;bytes;guard_psnr;train_psnr;file;{';'.join(ATTRIBUTES)};cpu_s"


def row(name: str, seed: int, figures: Figures) -> str:
    """A line of CSV."""
    sizes = [figures.file_bytes, *(figures.by_attribute[name] for name in ATTRIBUTES)]
    each = ";".join(f"{size / figures.count:.3f}" for size in sizes)
    quality = f"{figures.guard:.3f};{figures.train:.3f}"
    count, size = figures.count, figures.file_bytes
    return f"{name};{seed};{count};{size};{quality};{each};{figures.seconds:.0f}"


if __name__ == "__main__":
    run(main)
