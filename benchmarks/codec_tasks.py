# SPDX-License-Identifier: Apache-2.0
"""One task of codec_speed.py, in its own process, so that its memory can be measured.

`python benchmarks/codec_tasks.py make DATA COUNT PLY`, `... encode PLY FILE ROUNDS` or
`... decode FILE ROUNDS`. The last two print the milliseconds of their parts as JSON.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.models import read_model, repeated
from benchmarks.timing import time_parts
from splat_codec.model_file import ModelFile, decode, encode
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.ply import read_ply, write_ply


def make(data: str, count: str, ply: str) -> None:
    """Writes the PLY of `count` Gaussians."""
    write_ply(ply, repeated(read_model(Path(data), "snowmiku"), int(count)))


def time_encode(ply: str, file: str, rounds: str) -> None:
    """Times the steps of `compress.py --training_free` between PLY and file; writes the file."""
    splats = read_ply(ply)
    made = b""

    def run(lap: Callable[[str], None]) -> None:
        nonlocal made
        model = quantize_splats(splats, QUALITIES["high"]).splats
        lap("quantise")
        made = encode(ModelFile(model))
        lap("encode")

    print(json.dumps(time_parts(run, int(rounds))))
    Path(file).write_bytes(made)


def time_decode(file: str, rounds: str) -> None:
    """Times the steps of `decompress.py` between the file and the PLY."""
    data = Path(file).read_bytes()

    def run(lap: Callable[[str], None]) -> None:
        model = decode(data).splats
        lap("decode")
        to_splats(model)
        lap("values")

    print(json.dumps(time_parts(run, int(rounds))))


TASKS: dict[str, Callable[..., None]] = {
    "make": make,
    "encode": time_encode,
    "decode": time_decode,
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
