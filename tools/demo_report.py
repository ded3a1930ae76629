#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The effect of compression on a model, as a table and a picture.

python tools/demo_report.py MODEL DECODED.ply PICTURE.png

MODEL holds a trained and a compressed iteration, both rendered and measured; DECODED.ply is the
file that decompress.py wrote.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from gaussian_compression.report import page_path, read_report, report_path
from splat_formats.ply import read_ply
from utils.cli import run
from utils.errors import InputError
from utils.files import atomic_path, check_target

CAPTION_HEIGHT = 28  # pixels
GAP = 4


@dataclass(frozen=True)
class Stage:
    """One state of the model: its test renders, its size and quality."""

    title: str
    renders: Path
    gaussians: int
    size: int
    psnr: float
    ssim: float


def read_stages(model: Path, decoded: Path) -> tuple[Stage, Stage]:
    """Return the trained and the compressed stage of a model folder.

    Raises InputError if a file is missing or the decoded PLY is not the model that was measured.
    """
    report = read_report(_present(report_path(model)))
    trained, compressed = report.start.iteration, report.compressed.iteration
    results = json.loads(_present(model / "results.json").read_text())
    for iteration in (trained, compressed):
        if not {"PSNR", "SSIM"} <= results.get(f"ours_{iteration}", {}).keys():
            raise InputError(
                f"{model / 'results.json'} lacks iteration {iteration}: run metrics.py -m {model}"
            )
    clouds = [
        _present(model / "point_cloud" / f"iteration_{i}" / "point_cloud.ply")
        for i in (trained, compressed)
    ]
    if clouds[1].read_bytes() != _present(decoded).read_bytes():
        raise InputError(
            f"{decoded} differs from {clouds[1]}, which was measured: run decompress.py again"
        )
    sizes = (clouds[0], _present(model / "compressed" / "model.f3dgs"))
    before, after = (
        Stage(
            title,
            model / "test" / f"ours_{iteration}",
            read_ply(cloud).count,
            size.stat().st_size,
            results[f"ours_{iteration}"]["PSNR"],
            results[f"ours_{iteration}"]["SSIM"],
        )
        for title, iteration, cloud, size in zip(
            ("trained", "compressed"), (trained, compressed), clouds, sizes, strict=True
        )
    )
    return before, after


def table(before: Stage, after: Stage) -> str:
    """Return the figures of both stages as lines of text."""
    rows = (
        ("", before.title, after.title),
        ("Gaussians", f"{before.gaussians:,}", f"{after.gaussians:,}"),
        ("bytes", f"{before.size:,}", f"{after.size:,}"),
        ("times smaller", "", f"{before.size / after.size:.1f}"),
        ("PSNR, dB", f"{before.psnr:.2f}", f"{after.psnr:.2f}"),
        ("SSIM", f"{before.ssim:.4f}", f"{after.ssim:.4f}"),
    )
    return "\n".join(f"  {name:<14}{first:>13}{second:>13}" for name, first, second in rows)


def picture(before: Stage, after: Stage) -> Image.Image:
    """Return rows of photograph, trained and compressed render, with captions."""
    names = sorted(path.name for path in (before.renders / "gt").iterdir())
    shown = sorted({names[0], names[-1]})  # one view of each ring of cameras
    folders = (before.renders / "gt", before.renders / "renders", after.renders / "renders")
    captions = ("photograph, held out", _caption(before), _caption(after))
    width, height = _image(folders[0] / shown[0]).size
    size = (3 * (width + GAP) - GAP, len(shown) * (height + GAP) + CAPTION_HEIGHT)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (folder, caption) in enumerate(zip(folders, captions, strict=True)):
        left = column * (width + GAP)
        for row, name in enumerate(shown):
            sheet.paste(_image(folder / name), (left, row * (height + GAP)))
        middle = (left + width / 2, size[1] - CAPTION_HEIGHT / 2)
        pen.text(middle, caption, "black", font, anchor="mm")
    return sheet


def _caption(stage: Stage) -> str:
    return f"{stage.title}: {stage.size / 1e6:.2f} MB, {stage.psnr:.2f} dB"


def _image(path: Path) -> Image.Image:
    with Image.open(_present(path)) as image:
        return image.convert("RGB")


def _present(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"expected a file at {path}: run demo.sh from its beginning")
    return path


def main() -> None:
    """Print the table and the path of the report, and write the picture."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("decoded", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    check_target(args.picture, args.decoded)
    before, after = read_stages(args.model, args.decoded)
    with atomic_path(args.picture) as path:
        picture(before, after).save(path)
    print(table(before, after))
    print(f"\nSide by side: {args.picture}")
    print(f"Report: {_present(page_path(report_path(args.model)))}")


if __name__ == "__main__":
    run(main)
