# SPDX-License-Identifier: Apache-2.0
"""Convert a model to another format: `python convert_splats.py IN OUT`.

IN is a file, or a folder of SOG, of any format that can be read; its content determines which. The
ending of OUT determines what is written. Needs NumPy only: no scene, no PyTorch, no GPU. Prints
what the new file loses.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from splat_formats.design_grids import QUALITIES
from splat_formats.edits import Box, Edits, edited
from splat_formats.files import (
    SplatFormat,
    bytes_of_model,
    check_options,
    format_to_write,
    read_with_notices,
)
from splat_formats.measured_file import MeasuredFile, write_measured
from splat_formats.splats import MAX_SH_DEGREE
from utils.cli import run, show_messages
from utils.files import check_target, is_special


def main() -> None:
    """Reads the command line and the model, writes the other file and prints what it lost."""
    show_messages()
    args = build_parser().parse_args()
    options = options_of(args, format_to_write(args.output))
    edits = edits_of(args)
    check_target(args.output, args.input)
    scene = read_with_notices(args.input)
    before, size = scene.splats.count, bytes_of_model(args.input)
    written = write_measured(args.output, edited(scene, edits), **options)
    print_result(args, before, size, written)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="model to read: a file, or a folder of SOG")
    add("output", type=Path, metavar="OUT", help="file to write; its ending determines the format")
    add("--sh_degree", type=int, choices=range(MAX_SH_DEGREE + 1),
        help="highest degree of spherical harmonics to keep")  # fmt: skip
    add("--crop_box", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        help="keep only Gaussians with centres in this box, world coordinates")  # fmt: skip
    add("--min_opacity", type=float, help="keep only Gaussians with this opacity or a higher one, "
        "0 to 1")  # fmt: skip
    add("--quality", choices=sorted(QUALITIES), help="of a .f3dgs file (default: high)")
    add("--spz_version", type=int, choices=(3, 4), help="of a .spz file (default: 4)")
    return parser


def options_of(args: Namespace, known: SplatFormat) -> dict[str, Any]:
    """The options of the format that are given. InputError for one that it does not have."""
    names = ("quality", "spz_version")
    given = {name: vars(args)[name] for name in names if vars(args)[name] is not None}
    check_options(known, given)
    return given


def edits_of(args: Namespace) -> Edits:
    """What is to be removed. InputError for impossible values."""
    box = None
    if args.crop_box is not None:
        x0, y0, z0, x1, y1, z1 = args.crop_box
        box = Box((x0, y0, z0), (x1, y1, z1))
    return Edits(args.sh_degree, box, args.min_opacity)


def print_result(args: Namespace, before: int, size: int, written: MeasuredFile) -> None:
    """Prints Gaussians and bytes of both files, and what was lost."""
    # The model may have been written to the standard output.
    messages = sys.stderr if is_special(args.output) else sys.stdout
    splats = written.scene.splats
    after = "" if written.bytes is None else f" -> {written.bytes:,}"
    print(f"{args.output}: SH degree {splats.sh_degree}", file=messages)
    print(f"Gaussians: {before:,} -> {splats.count:,}", file=messages)
    print(f"bytes: {size:,}{after}", file=messages)
    for line in written.lines():
        print(line, file=messages)


if __name__ == "__main__":
    run(main)
