# SPDX-License-Identifier: Apache-2.0
"""Convert a model to another format: `python convert_splats.py IN OUT`.

IN is a file, or a folder of SOG, of any format that can be read; its content determines which. The
ending of OUT determines what is written. Needs NumPy only: no scene, no PyTorch, no GPU. Prints
what the new file loses.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splat_codec.errors import CorruptFile
from splat_formats.block_coding import decoded_blocks, index_of
from splat_formats.design_grids import QUALITIES
from splat_formats.edits import Box, Edits, edited, edited_part, require_some
from splat_formats.f3dgs_file import F3DGS, blocks_in, is_in_blocks
from splat_formats.file_description import from_entries
from splat_formats.files import (
    SplatFormat,
    bytes_of_model,
    check_options,
    format_to_write,
    read_with_notices,
)
from splat_formats.measured_file import write_measured, write_measured_page
from splat_formats.ply import origin_notices, ply_parts
from splat_formats.scene import SplatScene
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, no_splats
from splat_formats.web_page import is_page
from utils.cli import run, show_messages
from utils.errors import InputError
from utils.files import check_target, is_special


def main() -> None:
    """Reads the command line and the model, writes the other file and prints what it lost."""
    show_messages()
    args = build_parser().parse_args()
    # A page holds a .f3dgs file, whose options it has.
    known = format_to_write(Path(f"page{F3DGS}") if is_page(args.output) else args.output)
    options = options_of(args, known)
    edits = edits_of(args)
    check_target(args.output, args.input)
    if known.is_exact and args.input.is_file() and is_in_blocks(args.input):
        convert_blocks(args, edits)
        return
    scene = read_with_notices(args.input)
    write = write_measured_page if is_page(args.output) else write_measured
    written = write(args.output, edited(scene, edits), **options)
    splats = written.scene.splats
    result = Result(splats.count, splats.sh_degree, written.bytes, written.lines())
    print_result(args, scene.splats.count, result)


@dataclass(frozen=True)
class Result:
    """What was written."""

    count: int
    """Gaussians."""
    sh_degree: int
    bytes: int | None
    """None for a device, a pipe or an open descriptor."""
    lines: Sequence[str]
    """What was lost, and other notices."""


def convert_blocks(args: Namespace, edits: Edits) -> None:
    """Writes a PLY of a file of blocks block by block, so that the model need not fit into memory.

    Blocks that the box of the edits does not meet are not read.
    """
    try:
        index = index_of(args.input)
        metadata = from_entries(index.metadata)
        numbers = None if edits.box is None else blocks_in(index, edits.box)
        degree = edited_part(SplatScene(no_splats(index.sh_degree)), edits).splats.sh_degree
        coefficients = REST_COEFFICIENTS[degree]
        with ply_parts(args.output, index.count, coefficients, metadata) as ply:
            for block in decoded_blocks(args.input, index, numbers):
                ply.add(edited_part(SplatScene(block, metadata), edits).splats)
            require_some(index.count, ply.count)
    except CorruptFile as error:
        raise InputError(f"{args.input}: {error}") from error
    size = None if is_special(args.output) else args.output.stat().st_size
    lines = [f"  {notice}" for notice in origin_notices(metadata.origin)]
    print_result(args, index.count, Result(ply.count, degree, size, lines))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="model to read: a file, or a folder of SOG")
    add("output", type=Path, metavar="OUT", help="file to write; its ending determines the "
        "format (.html: a page with a viewer)")  # fmt: skip
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


def print_result(args: Namespace, before: int, result: Result) -> None:
    """Prints Gaussians and bytes of both files, and what was lost."""
    # The model may have been written to the standard output.
    messages = sys.stderr if is_special(args.output) else sys.stdout
    after = "" if result.bytes is None else f" -> {result.bytes:,}"
    print(f"{args.output}: SH degree {result.sh_degree}", file=messages)
    print(f"Gaussians: {before:,} -> {result.count:,}", file=messages)
    print(f"bytes: {bytes_of_model(args.input):,}{after}", file=messages)
    for line in result.lines:
        print(line, file=messages)


if __name__ == "__main__":
    run(main)
