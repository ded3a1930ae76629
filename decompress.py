# SPDX-License-Identifier: Apache-2.0
"""Turn a compressed model into a PLY, or another format: `python decompress.py FILE OUT.ply`.

The ending of OUT determines the format. Needs no scene, no PyTorch, no GPU, and for a PLY only
NumPy. It is faster with submodules/plane-coder installed. Reads the files of the published
Fast-3DGS code too, without executing anything in them.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from splat_codec import kernels
from splat_codec.block_file import BlockIndex, has_blocks
from splat_codec.errors import CorruptFile
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import (
    MAX_LAYERS,
    ModelFile,
    bytes_per_section,
    decode,
)
from splat_formats.block_coding import decoded_blocks, index_of
from splat_formats.edits import Box
from splat_formats.f3dgs_file import (
    F3DGS,
    blocks_in,
    is_f3dgs,
    is_in_blocks,
    scene_of,
    scene_of_blocks,
)
from splat_formats.file_description import from_entries
from splat_formats.files import (
    format_to_write,
    kind_of_file,
    log_notices,
    with_limits_clamped,
)
from splat_formats.measured_file import write_measured
from splat_formats.ply import origin_notices, ply_parts
from splat_formats.published_file import is_published_file, read_published_file
from splat_formats.scene import SplatScene
from splat_formats.splats import REST_COEFFICIENTS, Splats
from splat_formats.web_page import is_page, write_page
from utils.cli import run, show_messages
from utils.errors import InputError
from utils.files import check_target, is_special


def main() -> None:
    """Reads and decodes the file, writes the PLY and prints a summary."""
    args = build_parser().parse_args()
    show_messages()
    if args.layers < 1:
        raise InputError(f"--layers {args.layers}: expected at least 1")
    if not args.info and args.output is None:
        raise InputError("expected a file to write (second argument) or --info, got neither")
    if args.output is not None:
        check_output(args)
    try:
        if args.file.is_file() and is_in_blocks(args.file):
            use_blocks(args)
            return
        if args.box is not None:
            raise InputError(f"--box: {args.file} has no blocks, of which some could be read")
        data = args.file.read_bytes()
        if has_blocks(data):
            raise InputError(f"{args.file}: a file of blocks cannot be read from a pipe")
        model = read_file(args.file, data, args.layers)
        if args.info:
            print(json.dumps(describe_file(data, model), indent=1))
        if args.output is not None and is_page(args.output):
            write_viewer(args.output, args.file, data, model)
        elif args.output is not None:
            write(args.output, model if isinstance(model, SplatScene) else scene_of(model))
    except CorruptFile as error:
        raise InputError(f"{args.file}: {error}") from error


def use_blocks(args: Namespace) -> None:
    """Describes or decodes a file of blocks; a PLY is written block by block."""
    index = index_of(args.file)
    if args.info:
        print(json.dumps(describe_blocks(index), indent=1))
    if args.output is None:
        return
    if is_page(args.output):
        raise InputError(
            f"{args.file}: a page cannot hold a file of blocks: convert_splats.py makes a page of "
            "the whole model, or with --crop_box of a part"
        )
    numbers = None
    if args.box is not None:
        numbers = blocks_in(index, Box(tuple(args.box[:3]), tuple(args.box[3:])))
    blocks = decoded_blocks(args.file, index, numbers, args.layers)
    if ".ply" in format_to_write(args.output).endings:
        write_blocks(args.output, index, blocks)
    else:
        write(args.output, scene_of_blocks(index, blocks))


def write_blocks(path: Path, index: BlockIndex, blocks: Iterator[Splats]) -> None:
    """Writes a PLY block by block, and prints its number of Gaussians and its SH degree."""
    metadata = from_entries(index.metadata)
    coefficients = REST_COEFFICIENTS[index.sh_degree]
    with ply_parts(path, index.count, coefficients, metadata) as ply:
        for block in blocks:
            ply.add(block)
    print_written(path, ply.count, index.sh_degree, origin_notices(metadata.origin))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "file", type=Path, help="compressed model (.f3dgs, or LZMA of the published code)"
    )
    parser.add_argument("output", type=Path, metavar="OUT", nargs="?", help="file to write; its "
        "ending determines the format (.html: a page with a viewer)")  # fmt: skip
    parser.add_argument(
        "--layers",
        type=int,
        default=MAX_LAYERS,
        help="decode only the first N importance layers; later ones may be missing",
    )
    parser.add_argument("--box", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        help="of a file of blocks, decode those that meet this box, in the world")  # fmt: skip
    parser.add_argument("--info", action="store_true", help="describe the file, as JSON")
    return parser


def check_output(args: Namespace) -> None:
    """Raises InputError for a file that cannot be written, or that would destroy the input."""
    check_target(args.output, args.file)
    if is_page(args.output):
        if args.layers < MAX_LAYERS:
            raise InputError(f"--layers {args.layers}: a page holds the whole file")
    elif F3DGS in format_to_write(args.output).endings:
        raise InputError(
            f"{args.output}: expected a format to decompress to, but this is a compressed file; "
            "convert_splats.py makes one of another quality"
        )


def write_viewer(path: Path, file: Path, data: bytes, model: ModelFile | SplatScene) -> None:
    """Writes a page that shows the file in a browser, without a network, and prints its size."""
    if isinstance(model, SplatScene):
        raise InputError(
            f"{file}: a page cannot hold a file of the published code: make a .f3dgs file of it "
            "first, with convert_splats.py"
        )
    write_page(path, data, file.stem)
    print(f"{path}: {path.stat().st_size:,} bytes, {model.splats.count:,} Gaussians and the viewer")


def write(path: Path, scene: SplatScene) -> None:
    """Writes the file and prints its number of Gaussians, its SH degree and what it lost."""
    log_notices(path, scene.metadata.notices)
    written = write_measured(path, scene)
    splats = written.scene.splats
    print_written(path, splats.count, splats.sh_degree, written.lines())


def print_written(path: Path, count: int, sh_degree: int, lines: Sequence[str]) -> None:
    """Prints what a file holds, and these lines about it."""
    # The model may have been written to the standard output.
    messages = sys.stderr if is_special(path) else sys.stdout
    print(f"{path}: {count:,} Gaussians, SH degree {sh_degree}", file=messages)
    for line in lines:
        print(line, file=messages)
    if kernels.best is kernels.PLAIN:
        hint = "decoded by NumPy; pip install ./submodules/plane-coder makes this faster"
        print(hint, file=messages)


def describe_file(data: bytes, model: ModelFile | SplatScene) -> dict[str, Any]:
    """Version, contents, bytes of each section and metadata, as JSON values.

    Bytes are those of the whole file, even where `data` holds only its first layers.
    """
    if isinstance(model, SplatScene):
        splats = model.splats
        return {"version": "published", "gaussians": splats.count, "sh_degree": splats.sh_degree}
    layers = model.splats.layer_ends if isinstance(model.splats, GridSplats) else ()
    sizes = bytes_per_section(data)
    return {
        "version": 2 if layers else 1,
        "gaussians": model.splats.count,
        "sh_degree": model.splats.sh_degree,
        "gaussians_up_to_layer": list(layers),
        "bytes": sum(sizes.values()),
        "bytes_per_section": sizes,
        "metadata": dict(model.metadata),
    }


def describe_blocks(index: BlockIndex) -> dict[str, Any]:
    """The same of a file of blocks, and its index."""
    sizes = dict(index.bytes_per_section)
    return {
        "version": 3,
        "gaussians": index.count,
        "sh_degree": index.sh_degree,
        "bytes": sum(sizes.values()),
        "bytes_per_section": sizes,
        "blocks_from": index.start,
        "blocks": [
            {
                "number": number,
                "gaussians": block.count,
                "low": block.low,
                "high": block.high,
                "offset": block.offset,
                "bytes": block.bytes,
                "crc32": f"{block.crc:08x}",
            }
            for number, block in enumerate(index.blocks)
        ],
        "metadata": dict(index.metadata),
    }


def read_file(file: Path, data: bytes, layers: int) -> ModelFile | SplatScene:
    """The model in a compressed file of either kind; the first bytes decide which.

    Raises InputError for a file of another kind, and CorruptFile for a damaged one.
    """
    if is_published_file(data):
        return with_limits_clamped(SplatScene(read_published_file(data)))
    if not is_f3dgs(data) and (kind := kind_of_file(file)) is not None:
        raise InputError(f"{file}: expected a .f3dgs file, but this is {kind}")
    return decode(data, layers)


if __name__ == "__main__":
    run(main)
