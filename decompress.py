# SPDX-License-Identifier: Apache-2.0
"""Turn a compressed model back into a PLY: `python decompress.py FILE OUT.ply`.

Needs NumPy only: no scene, no torch, no GPU.
"""

from argparse import ArgumentParser
from pathlib import Path

from gaussian_compression.codec.errors import CorruptFile
from gaussian_compression.codec.model_file import MAX_LAYERS, decode
from gaussian_compression.decoded import to_splats
from splat_formats.ply import write_ply
from utils.cli import run
from utils.errors import InputError


def main() -> None:
    """Reads, decodes, writes, says what came out."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path, help="compressed model (.f3dgs)")
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
        splats = to_splats(decode(args.file.read_bytes(), args.layers).splats)
    except CorruptFile as error:
        raise InputError(f"{args.file}: {error}") from error
    write_ply(args.ply, splats)
    print(f"{args.ply}: {splats.count:,} Gaussians, SH degree {splats.sh_degree}")


if __name__ == "__main__":
    run(main)
