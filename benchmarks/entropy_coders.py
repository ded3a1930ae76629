# SPDX-License-Identifier: Apache-2.0
"""The project's entropy coder beside constriction's: `python benchmarks/entropy_coders.py`.

Needs `pip install constriction`. Both code the tokens of a real model (quality high) under the same
12-bit histograms: snowmiku as it is, and a million Gaussians made of it. What decides is how many
tokens a coder may be given in one call:

all at once  every token's histogram is known in advance: one call for each histogram
by steps     a token's histogram follows from the tokens before it in its lane, as in the file: at
             most as many tokens at a time as there are lanes, with a call for each histogram
one step     the same for the middle step of each plane, for ways too slow for all of them: a step
             in one call with a matrix of probabilities; a call for each token
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.entropy_material import Material, material_of, middle_steps
from benchmarks.models import DATA, MILLION, read_model, repeated
from benchmarks.timing import Timings, time_parts
from splat_codec import kernels
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import ModelFile, decode, encode
from splat_formats.design_grids import QUALITIES, quantize_splats
from utils.files import write_json

try:
    from benchmarks import entropy_ways as ways
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: pip install constriction")

Figures = dict[str, Any]


def compare(model: GridSplats, rounds: int) -> Figures:
    """All ways of coding the model's tokens; prints a table of each case."""
    material = material_of(model)
    counts = material.counts()
    lengths = {"under 12-bit histograms": code_length(counts, material.frequencies),
               "under exact histograms": code_length(counts, counts)}  # fmt: skip
    lanes = ", ".join(str(layer.lanes) for layer in material.layers)
    print(f"\n{model.count:,} Gaussians, {material.tokens:,} tokens, lanes of the layers: {lanes}")
    for name, length in lengths.items():
        print(f"code length {name}: {length:,.0f} bytes")
    return {
        "gaussians": model.count,
        "tokens": material.tokens,
        "code length": lengths,
        "all at once": measure_all_at_once(material, counts, rounds),
        "by steps": measure_by_steps(material, rounds),
        "one step": measure_one_step(middle_steps(material), rounds),
        "whole codec": measure_whole_codec(model, material.tokens, rounds),
    }


def measure_all_at_once(
    material: Material, counts: npt.NDArray[np.int64], rounds: int
) -> dict[str, Figures]:
    print_head(f"all at once, {material.tokens:,} tokens")
    rows = material.frequencies
    choices = {
        "constriction, ANS": ways.AllAtOnce(material, ways.ANS, rows),
        "constriction, range": ways.AllAtOnce(material, ways.RANGE, rows),
        "constriction, ANS, exact histograms": ways.AllAtOnce(material, ways.ANS, counts),
    }
    figures = {name: measure(name, coder, rounds) for name, coder in choices.items()}
    alike = choices["constriction, ANS"].alike_in_float32(rows)
    print(f"\n{sum(alike)} of {len(alike)} histograms give the same bytes in float32 as in float64")
    return figures


def measure_by_steps(material: Material, rounds: int) -> dict[str, Figures]:
    print_head(f"by steps, {material.tokens:,} tokens")
    figures = measure_own(material, rounds)
    for label, library in (("ANS", ways.ANS), ("range", ways.RANGE)):
        name = f"constriction, {label}, a call for each histogram"
        figures[name] = measure(name, ways.CallForEachHistogram(material, library), rounds)
    return figures


def measure_one_step(material: Material, rounds: int) -> dict[str, Figures]:
    print_head(f"one step of each plane, {material.tokens:,} tokens")
    choices = {
        "constriction, ANS, a call for each histogram": ways.CallForEachHistogram(
            material, ways.ANS
        ),
        "constriction, ANS, a matrix for the step": ways.MatrixOfProbabilities(material, ways.ANS),
        "constriction, ANS, a call for each token": ways.CallForEachToken(material, ways.ANS),
    }
    return {name: measure(name, coder, rounds) for name, coder in choices.items()}


def measure_own(material: Material, rounds: int) -> dict[str, Figures]:
    installed = {code.name: code for code in (kernels.PLAIN, kernels.best)}
    return {
        f"own, {name}": measure(f"own, {name}", ways.OwnCoder(material, code), rounds)
        for name, code in installed.items()
    }


def measure_whole_codec(model: GridSplats, tokens: int, rounds: int) -> Figures:
    """Integers to file and back, with all that is around the coder; the file is checked too."""
    print_head("integers to file, checked, and back: contexts, plain bits and all")
    data = encode(ModelFile(model))

    def run(lap: Callable[[str], None]) -> None:
        encode(ModelFile(model))
        lap("encode")
        decode(data)
        lap("decode")

    return print_row(f"own, {kernels.best.name}", len(data), time_parts(run, rounds), tokens)


def measure(name: str, coder: ways.Coder, rounds: int) -> Figures:
    """Bytes, and nanoseconds for a token; RuntimeError if other tokens come back."""
    streams = coder.encode()
    for found, expected in zip(coder.decode(streams), coder.expected(), strict=True):
        if not np.array_equal(found, expected):
            raise RuntimeError(f"{name}: other tokens came back")

    def run(lap: Callable[[str], None]) -> None:
        made = coder.encode()
        lap("encode")
        coder.decode(made)
        lap("decode")

    size = sum(memoryview(stream).nbytes for stream in streams)
    return print_row(name, size, time_parts(run, rounds), sum(map(len, coder.expected())))


def code_length(counts: npt.NDArray[np.int64], rows: npt.NDArray) -> float:
    """Bytes that the tokens have to take under these histograms (H, 256), whoever codes them."""
    met = counts > 0
    share = rows / np.maximum(1, rows.sum(axis=1, keepdims=True))
    return float(-(counts[met] * np.log2(share[met])).sum() / 8)


def print_head(title: str) -> None:
    print(f"\n{title}\n\n| ns a token | bytes | encode CPU | wall | decode CPU | wall |")
    print("|---|---|---|---|---|---|")


def print_row(name: str, size: int, timings: Timings, tokens: int) -> Figures:
    """Prints and gives the bytes, and the least CPU and wall time of both parts for one token."""
    row: Figures = {"bytes": size}
    for part in ("encode", "decode"):
        for clock in ("cpu", "wall"):
            row[f"{part} {clock}"] = 1e6 * timings[part][f"{clock}_min"] / tokens
    cells = [f"{size:,}", *(f"{ns:.1f}" for ns in list(row.values())[1:])]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return row


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the models")
    parser.add_argument("--count", type=int, default=MILLION, help="of the larger model; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    splats = read_model(args.data, "snowmiku")
    figures = {}
    for name, count in (("snowmiku", splats.count), ("larger", args.count)):
        if count:
            chosen = splats if count == splats.count else repeated(splats, count)
            model = quantize_splats(chosen, QUALITIES["high"]).splats
            figures[name] = compare(model, args.rounds)
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
