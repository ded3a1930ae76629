# SPDX-License-Identifier: Apache-2.0
"""Scores the test images that render.py has saved: PSNR, SSIM and LPIPS.

    python metrics.py -m <model folder> [<model folder> ...] [--extra] [--lpips_weights DIR]

Each model folder gets results.json (means) and per_view.json (every image). Figures that were not
computed, and those that are not finite (the PSNR of equal images), are left out of both: readers
calculate with what is there. They are printed.
"""

import math
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gaussian_renderer.speed import read_figures
from lpipsPyTorch import LPIPS
from utils import cli
from utils.errors import InputError
from utils.files import write_json
from utils.image_metrics import score_images
from utils.image_utils import load_png
from utils.perceptual_metrics import LEAST_SIDE, Measure, extra_measures

Scores = dict[str, dict[str, float | None]]
"""Metric -> image name -> value; None where the metric was not computed."""

Perceptual = Mapping[str, Measure | None]
"""The metrics beside SSIM and PSNR, by name; None: it cannot be computed here."""


@dataclass(frozen=True)
class LpipsOptions:
    """Which LPIPS, and where its weight files come from."""

    network: str = "vgg"
    folder: Path | None = None
    """The user's folder of weights; None: `LPIPS` searches."""
    download: bool = True

    @property
    def name(self) -> str:
        """LPIPS without further words is that of VGG, as in the 3DGS literature."""
        return "LPIPS" if self.network == "vgg" else f"LPIPS-{self.network}"


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_PLACES_SHOWN = 5


def main() -> None:
    """Reads the command line and scores the models given."""
    parser = ArgumentParser(
        allow_abbrev=False, description="Score rendered test images: PSNR, SSIM, LPIPS"
    )
    parser.add_argument(
        *("-m", "--model_paths"),
        required=True,
        nargs="+",
        action="extend",
        type=Path,
        help="one or more model folders; may be given several times",
    )
    parser.add_argument(
        "--extra",
        action="store_true",
        help="MS-SSIM and, if the package flip-evaluator is installed, FLIP too",
    )
    parser.add_argument(
        "--lpips_net",
        choices=("vgg", "alex"),
        default="vgg",
        help="the network of LPIPS; that of alex is named LPIPS-alex (default: vgg)",
    )
    parser.add_argument(
        "--lpips_weights",
        type=Path,
        metavar="DIR",
        help="folder with the weight files of LPIPS; without it they are fetched if missing, once",
    )
    parser.add_argument(
        "--no_download", action="store_true", help="leave LPIPS out if its weights are missing"
    )
    args = parser.parse_args()
    cli.show_messages()
    lpips = LpipsOptions(args.lpips_net, args.lpips_weights, download=not args.no_download)
    score_models(different_folders(args.model_paths), extra=args.extra, lpips=lpips)


def different_folders(paths: Sequence[Path]) -> list[Path]:
    """Each folder once, under its first path."""
    by_folder: dict[Path, Path] = {}
    for path in paths:
        by_folder.setdefault(path.resolve(), path)
    return list(by_folder.values())


def score_models(
    model_paths: Sequence[Path],
    extra: bool = False,
    lpips: LpipsOptions | None = None,
) -> None:
    """Scores every model; ends the program with status 1 if one of them could not be scored.

    With `extra`, by MS-SSIM and FLIP too.
    """
    lpips = lpips or LpipsOptions()
    perceptual = {lpips.name: load_lpips(lpips), **(load_extra() if extra else {})}
    failures = 0
    for model_path in model_paths:
        try:
            score_model(model_path, perceptual)
        except (InputError, OSError) as error:
            reason = cli.os_error_text(error) if isinstance(error, OSError) else error
            print(f"error: {reason}", file=sys.stderr)
            failures += 1
    if failures and len(model_paths) > 1:
        cli.fail(f"{failures} of {len(model_paths)} models could not be scored")
    if failures:
        sys.exit(cli.EXIT_FAILURE)


def load_lpips(options: LpipsOptions) -> Measure | None:
    """LPIPS of two uint8 images (3, H, W); without weights None, and the reason is printed.

    InputError if a folder of weights is given that does not have them.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network = LPIPS(options.network, weights=options.folder, download=options.download)
        network = network.to(device)
    except InputError as error:
        if options.folder is not None:
            raise
        print(f"LPIPS is left out: {error}")
        return None

    @torch.no_grad()
    def distance(render: Tensor, truth: Tensor) -> float:
        pair = [image[None].to(device, torch.float32) / 255.0 for image in (render, truth)]
        return float(network(*pair))

    return distance


def load_extra() -> dict[str, Measure | None]:
    """MS-SSIM and FLIP; without its package FLIP is None, and the reason is printed."""
    measures = extra_measures()
    if measures["FLIP"] is None:
        print("FLIP is left out: it needs the package flip-evaluator (pip install flip-evaluator)")
    return measures


def score_model(model_path: Path, perceptual: Perceptual) -> None:
    """Scores all methods (`ours_<iteration>`) under `model_path`/test and writes the two files.

    Raises `InputError` at the end if a method could not be scored; the others are written.
    """
    print(f"Scene: {model_path}")
    if not model_path.is_dir():
        raise InputError(f"{model_path}: there is no such folder")
    test = model_path / "test"
    entries = test.iterdir() if test.is_dir() else ()
    methods = sorted(entry.name for entry in entries if entry.is_dir())
    if not methods:
        raise InputError(
            f"{test}: no rendered test images. Train with --eval to hold out a test set, then run "
            "render.py"
        )
    per_view: dict[str, Scores] = {}
    faults = []
    for method in methods:
        try:
            per_view[method] = score_method(test / method, perceptual)
        except InputError as error:
            faults.append(str(error))
    if per_view:
        write_scores(model_path, per_view)
    for method in per_view:
        try:
            if figures := read_figures(test / method):
                print(f"{method}: {figures.text()}")
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("; ".join(faults))


def write_scores(model_path: Path, per_view: Mapping[str, Scores]) -> None:
    """Prints the means of each method, and writes results.json and per_view.json."""
    results = {method: means(scores) for method, scores in per_view.items()}
    for method, values in results.items():
        print(f"Method: {method}")
        for metric, value in values.items():
            print(f"  {metric:<5}: {'   not computed' if value is None else f'{value:>15.7f}'}")
    for name, scores in (("results.json", results), ("per_view.json", per_view)):
        places: list[str] = []
        write_json(model_path / name, figures_only(scores, places))
        if places:
            more = f" and {len(places) - _PLACES_SHOWN} more" if len(places) > _PLACES_SHOWN else ""
            print(f"Left out of {name}: {', '.join(places[:_PLACES_SHOWN])}{more}")


def figures_only(scores: Mapping[str, Any], left_out: list[str], place: str = "") -> dict[str, Any]:
    """The finite numbers of nested mappings; the places of others are added to `left_out`.

    A mapping of which nothing remains is left out as a whole.
    """
    kept: dict[str, Any] = {}
    for key, value in scores.items():
        inside = f"{place} {key}".strip()
        if isinstance(value, Mapping):
            places: list[str] = []
            inner = figures_only(value, places, inside)
            left_out += places if inner else [inside]
            if inner:
                kept[key] = inner
        elif value is None or not math.isfinite(value):
            left_out.append(inside)
        else:
            kept[key] = value
    return kept


def score_method(folder: Path, perceptual: Perceptual) -> Scores:
    """Every render in `folder` against its photo; two images in memory at a time."""
    renders = folder / "renders"
    entries = renders.iterdir() if renders.is_dir() else ()
    names = sorted(path.name for path in entries if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise InputError(f"{renders}: expected rendered images, found none")
    scores: Scores = {metric: {} for metric in ("SSIM", "PSNR", *perceptual)}
    for name in tqdm(names, desc=f"Metrics of {folder.name}"):
        render, truth = load_png(renders / name), load_png(folder / "gt" / name)
        try:
            scores["PSNR"][name], scores["SSIM"][name] = score_images(render, truth)
        except InputError as error:
            raise InputError(f"{renders / name}: {error}") from error
        for metric, measure in perceptual.items():
            scores[metric][name] = None if measure is None else measure(render, truth)
    if None in scores.get("MS-SSIM", {}).values():
        print(f"MS-SSIM is left out for images with a side of less than {LEAST_SIDE} pixels")
    return scores


def means(scores: Scores) -> Mapping[str, float | None]:
    """Metric -> arithmetic mean over the images, None where a value is missing."""
    averages: dict[str, float | None] = {}
    for metric, by_image in scores.items():
        values = [value for value in by_image.values() if value is not None]
        averages[metric] = sum(values) / len(values) if values else None
    return averages


if __name__ == "__main__":
    cli.run(main)
