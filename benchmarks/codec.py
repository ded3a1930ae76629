# SPDX-License-Identifier: Apache-2.0
"""Measures the file format: `python benchmarks/codec.py --data DATA`.

In this order: for each model as it came from training, bytes and quality of version 2 at each
quality, of the version-1 file of the preset fast3dgs, and of SPZ and SOG; bytes by attribute and
the gain of each part of the codec; time and memory on a million Gaussians. That takes minutes.
"""

import json
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.codec_parts import measure_parts
from benchmarks.codec_quality import Views, photographs, ring
from benchmarks.codec_sizes import measure_sizes
from benchmarks.models import DATA, MILLION, PHOTOGRAPHS, PLYS, read_model
from splat_formats.design_grids import QUALITIES
from splat_formats.splats import Splats
from utils.files import write_json


def main() -> None:
    args = build_parser().parse_args()
    figures: dict[str, Any] = {"qualities": {n: asdict(p) for n, p in QUALITIES.items()}}
    figures["models"] = {name: measure_model(name, args) for name in args.only}
    if args.speed_count:
        figures["speed"] = speed_by_small_process(args.data, args.speed_count)
    if args.json:
        write_json(args.json, figures)


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--data", type=Path, default=DATA, help="folder of the models and scenes")
    add("--only", nargs="*", choices=sorted(PLYS), default=list(PLYS), help="models")
    add("--no_views", action="store_true", help="measure bytes only, not quality")
    add("--no_peers", action="store_true", help="leave out SPZ and SOG")
    add("--no_parts", action="store_true", help="leave out the gain of each part of the codec")
    add("--speed_count", type=int, default=MILLION, help="Gaussians to measure speed on; 0: none")
    add("--json", type=Path, help="write the figures there too")
    return parser


def measure_model(name: str, args: Namespace) -> dict[str, Any]:
    splats = read_model(args.data, name)
    views = None if args.no_views else views_of(name, splats, args.data)
    figures = measure_sizes(name, splats, views, not args.no_peers)
    if not args.no_parts:
        print("Bytes per Gaussian by attribute, at quality high:")
        figures["parts"] = measure_parts(splats)
    return figures


def views_of(name: str, splats: Splats, data: Path) -> Views:
    if name in PHOTOGRAPHS:
        return photographs(data / PHOTOGRAPHS[name], splats)
    return ring(splats)


def speed_by_small_process(data: Path, count: int) -> dict[str, Any]:
    """The figures of codec_speed.py, which must be a small process."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "speed.json"
        script = Path(__file__).with_name("codec_speed.py")
        flags = ("--data", data, "--count", str(count), "--json", found)
        subprocess.run([sys.executable, script, *flags], check=True)
        return json.loads(found.read_text())


if __name__ == "__main__":
    main()
