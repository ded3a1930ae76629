# SPDX-License-Identifier: Apache-2.0
"""Turn a compressed model back into a PLY: `python decompress.py FILE OUT.ply`.

Needs NumPy only: no scene, no torch, no GPU; with submodules/plane-coder installed it is faster.
Reads the files of the published Fast-3DGS code too, without executing anything in them.
"""

from argparse import ArgumentParser
from pathlib import Path

from gaussian_compression.codec import kernels
from gaussian_compression.codec.errors import CorruptFile
from gaussian_compression.codec.model_file import MAX_LAYERS, decode
from gaussian_compression.decoded import to_splats
from gaussian_compression.published_file import is_published_file, read_published_file
from splat_formats.ply import write_ply
from splat_formats.splats import Splats
from utils.cli import run
from utils.errors import InputError


def main() -> None:
    """Reads, decodes, writes, says what came out."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "file", type=Path, help="compressed model (.f3dgs, or LZMA of the published code)"
    )
    parser.add_argument("ply", type=Path, help="PLY to write")
    parser.add_argument(
        "--layers",
        type=int,
        default=MAX_LAYERS,
        help="only the first importance layers; the file may end behind them",
    )
    args = parser.parse_args()
    if args.layers < 1:
        raise InputError(f"--layers {args.layers}: at least 1 expected")
    try:
        splats = read_model(args.file.read_bytes(), args.layers)
    except CorruptFile as error:
        raise InputError(f"{args.file}: {error}") from error
    write_ply(args.ply, splats)
    print(f"{args.ply}: {splats.count:,} Gaussians, SH degree {splats.sh_degree}")
    if kernels.best is kernels.PLAIN:
        print("decoded by NumPy; pip install ./submodules/plane-coder makes this faster")


def read_model(data: bytes, layers: int) -> Splats:
    """The model in a file of either kind, told apart by its first bytes."""
    if is_published_file(data):
        return read_published_file(data)
    return to_splats(decode(data, layers).splats)


if __name__ == "__main__":
    run(main)
