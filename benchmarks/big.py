# SPDX-License-Identifier: Apache-2.0
"""Time, memory and errors of a big model: `python benchmarks/big.py --count 10000000 --out DIR`.

The model is a real one, repeated on a plain with small random turns, shifts and changes of all
values, and written in pieces. It is compressed without photographs and decoded, as a user does it.
The errors are those of the report, of all rows; the decoded file has to be equal to the PLY that
compress.py wrote. Memory is the peak of each process; pages of files that are mapped into memory
count. This program itself uses little memory: Linux counts that in the peaks of what it starts.
"""

import filecmp
import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.codec_speed import Usage, run
from utils.files import write_json

MAKE = "benchmarks/big_model.py"


@dataclass(frozen=True)
class BigFigures:
    """What was measured."""

    gaussians: int
    ply_bytes: int
    file_bytes: int
    blocks: int
    compress: Usage
    decode: Usage
    errors: dict[str, Any]
    """By attribute: the report's."""


def measure(ply: Path, out: Path, flags: list[str]) -> BigFigures:
    """Compresses the PLY into `out`, decodes the file, and compares."""
    model = out / "model"
    compress, printed = run(
        "compress.py", "--training_free", "--start_ply", ply, "-m", model, *flags
    )
    print(printed, flush=True)
    file, back = model / "compressed" / "model.f3dgs", out / "back.ply"
    decode, _ = run("decompress.py", file, back)
    _, described = run("decompress.py", file, "--info")
    facts = json.loads(described)
    report = json.loads((model / "compressed" / "report.json").read_text(encoding="utf-8"))
    written = next((model / "point_cloud").glob("iteration_*/point_cloud.ply"))
    if not filecmp.cmp(written, back, shallow=False):
        raise SystemExit(f"{back} differs from {written}")
    return BigFigures(
        gaussians=facts["gaussians"],
        ply_bytes=ply.stat().st_size,
        file_bytes=file.stat().st_size,
        blocks=len(facts.get("blocks", ())),
        compress=compress,
        decode=decode,
        errors=report["errors"],
    )


def print_figures(figures: BigFigures) -> None:
    print(f"{figures.gaussians:,} Gaussians, PLY {figures.ply_bytes / 1e6:,.0f} MB, file "
          f"{figures.file_bytes / 1e6:.1f} MB, {figures.blocks} blocks, "
          f"{figures.file_bytes / figures.gaussians:.2f} bytes a Gaussian")  # fmt: skip
    print("| | wall, s | CPU, s | peak memory, GB |\n|---|---|---|---|")
    for name, usage in (("compress", figures.compress), ("decode", figures.decode)):
        print(f"| {name} | {usage.wall:.1f} | {usage.cpu:.1f} | {usage.peak_bytes / 1e9:.2f} |")
    for name, error in figures.errors.items():
        print(f"  {name:<14} rms {error['rms']:.3g} {error['unit']}")


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10_000_000, help="number of Gaussians")
    parser.add_argument("--out", type=Path, required=True, help="folder to work in: three "
        "times the PLY's size, which is 248 bytes a Gaussian, has to be free")  # fmt: skip
    parser.add_argument("--model", type=Path, help="the PLY to repeat (default: snowmiku's)")
    parser.add_argument("--blocks", help="passed on to compress.py")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ply = args.out.resolve() / f"big_{args.count}.ply"
    if not ply.exists():
        given = [str(args.model.resolve())] if args.model else []
        usage, _ = run(MAKE, str(args.count), ply, *given)
        print(f"{ply}: made in {usage.cpu:.1f} s of CPU time, {usage.peak_bytes / 1e9:.2f} GB")
    flags = ["--blocks", args.blocks] if args.blocks else []
    figures = measure(ply, args.out.resolve(), flags)
    print_figures(figures)
    if args.json:
        write_json(args.json, asdict(figures))


if __name__ == "__main__":
    main()
