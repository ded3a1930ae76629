# SPDX-License-Identifier: Apache-2.0
"""Files in other programs' formats, against those that splat-transform writes from the same PLY:
`python -m benchmarks.foreign_formats MODEL.ply .sog .spz [--source DATASET]`.

Bytes, seconds, and PSNR of the renders of the decoded model: against the test photographs of a data
set, at half resolution, or else against the renders of the PLY from a ring of cameras. Both files
are decoded by this project's readers. Needs splat-transform (npm, @playcanvas/splat-transform):
its path in FAST3DGS_SPLAT_TRANSFORM, or in PATH.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.codec_quality import Views, photographs, ring
from splat_formats.files import format_to_write, read_splats, written_by
from splat_formats.scene import SplatScene
from splat_formats.splats import REST_COEFFICIENTS, Splats
from utils.cli import run
from utils.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("model", type=Path, help="a PLY")
    parser.add_argument("endings", nargs="+", help="of the formats, such as .sog")
    parser.add_argument("--source", type=Path, help="the data set, for photographs")
    parser.add_argument("--sh_degree", type=int, default=3, help="drop the degrees above this")
    parser.add_argument("--sample", type=int, help="take this many Gaussians, chosen at random")
    parser.add_argument("--spz_version", type=int, choices=(3, 4), default=4)
    parser.add_argument("--only_ours", action="store_true", help="do not run splat-transform")
    args = parser.parse_args()
    splats = chosen(read_splats(args.model).splats, args.sh_degree, args.sample)
    views = photographs(args.source, splats) if args.source else ring(splats)
    print(f"{args.model.name}: {splats.count:,} Gaussians, SH degree {splats.sh_degree}")
    print("file                        bytes   write    read    PSNR")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.ply"
        measure("PLY", source, partial(write_ours, source, splats), views)
        for ending in args.endings:
            ours, theirs = (Path(folder) / f"{who}{ending}" for who in ("ours", "theirs"))
            write = partial(write_ours, ours, splats, args.spz_version)
            bytes_of_ours = measure(f"ours{ending}", ours, write, views)
            if not args.only_ours:
                write = partial(convert, source, theirs, args.spz_version)
                bytes_of_theirs = measure(f"theirs{ending}", theirs, write, views)
                print(f"ratio{ending}: {bytes_of_ours / bytes_of_theirs:.4f}")


def chosen(splats: Splats, sh_degree: int, sample: int | None) -> Splats:
    kept = REST_COEFFICIENTS[min(sh_degree, splats.sh_degree)]
    splats = replace(splats, features_rest=splats.features_rest[:, :kept].copy())
    if sample is None or sample >= splats.count:
        return splats
    return splats.rows(np.sort(np.random.default_rng(0).permutation(splats.count)[:sample]))


def measure(name: str, path: Path, write: Callable[[], object], views: Views) -> int:
    """Prints a row, and returns the bytes of the file."""
    started = time.perf_counter()
    write()
    written = time.perf_counter()
    decoded = read_splats(path).splats
    read = time.perf_counter()
    size = path.stat().st_size
    score = views.score(decoded).psnr
    times = f"{written - started:7.2f} {read - written:7.2f}"
    print(f"{name:<22}{size:>12,} {times} {score:7.3f}")
    return size


def write_ours(path: Path, splats: Splats, spz_version: int = 4) -> None:
    options = {"spz_version": spz_version} if path.suffix == ".spz" else {}
    written_by(format_to_write(path), path, SplatScene(splats), **options)


def convert(source: Path, target: Path, spz_version: int) -> None:
    program = os.environ.get("FAST3DGS_SPLAT_TRANSFORM") or shutil.which("splat-transform")
    if program is None:
        raise InputError("splat-transform is not found: set FAST3DGS_SPLAT_TRANSFORM to its path")
    options = ["-q", "-w", "-g", "cpu", "--spz-version", str(spz_version)]
    subprocess.run([program, *options, str(source), str(target)], check=True)


if __name__ == "__main__":
    run(main)
