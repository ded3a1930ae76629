#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make a sample data set: photographs of a ray-traced still life, with COLMAP files.

python sample_scene.py OUT [--views 48] [--size 320x240] [--seed 0]
"""

import argparse
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from still_life.camera import photograph, rings
from still_life.colmap import sparse_cloud, write_model
from still_life.lighting import bake
from still_life.room import furnish
from utils.cli import run
from utils.errors import InputError

THREADS = 2


@dataclass(frozen=True)
class SceneSettings:
    """The scene to make: number of views and points, image size in pixels, seed."""

    views: int = 48
    width: int = 320
    height: int = 240
    points: int = 8000
    seed: int = 0
    light_samples: int = 40


def make_scene(folder: Path, settings: SceneSettings) -> int:
    """Write images/ and sparse/0/ into a new folder and return the number of sparse points.

    The folder appears when all is written. Raises InputError if it exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"expected a new or empty folder for the scene, but {folder} has content")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        unfinished = Path(name) / "scene"
        points = _write_scene(unfinished, settings)
        if folder.exists():
            folder.rmdir()
        shutil.move(unfinished, folder)
    return points


def _write_scene(folder: Path, settings: SceneSettings) -> int:
    lit = bake(furnish(settings.seed), settings.seed, samples=settings.light_samples)
    views = rings(settings.views, settings.width, settings.height, settings.seed)
    with ThreadPoolExecutor(THREADS) as pool:
        shots = pool.map(lambda view: photograph(lit, view), views)
        photographs = list(tqdm(shots, "Photographing", len(views), unit=" views"))
    (folder / "images").mkdir(parents=True)
    for view, pixels in zip(views, photographs, strict=True):
        Image.fromarray(pixels).save(folder / "images" / view.name)
    cloud = sparse_cloud(lit, views, photographs, settings.points, settings.seed)
    write_model(folder / "sparse" / "0", views, cloud)
    return len(cloud.position)


def _size(text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"([1-9]\d{1,3})x([1-9]\d{1,3})", text)
    if parts is None:
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT, each from 10 to 9999, got {text!r}"
        )
    return int(parts[1]), int(parts[2])


def _count(text: str) -> int:
    if not text.isdecimal() or not 4 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 4 to 1000000, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def main() -> None:
    """Make the scene that the command line describes."""
    defaults = SceneSettings()
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--views", type=_count, default=defaults.views)
    parser.add_argument("--size", type=_size, default=(defaults.width, defaults.height))
    parser.add_argument("--points", type=_count, default=defaults.points)
    parser.add_argument("--seed", type=_seed, default=defaults.seed)
    args = parser.parse_args()
    width, height = args.size
    settings = SceneSettings(args.views, width, height, args.points, args.seed)
    points = make_scene(args.out, settings)
    print(f"{args.out}: {settings.views} photographs of {width}x{height}, {points:,} points")


if __name__ == "__main__":
    run(main)
