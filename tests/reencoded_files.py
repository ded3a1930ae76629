# SPDX-License-Identifier: Apache-2.0
"""Encodes the golden files again: `python -m tests.reencoded_files` prints a hash of each result.

Both kernels encode each file. A test runs this on several instruction sets of NumPy and of the
compiled code.
"""

import hashlib
import sys
import warnings

import plane_coder

from splat_codec.model_file import ModelFile, decode, encode
from tests.both_kernels import BOTH, using
from tests.golden.regenerate import FOLDER, TABLE, read_table
from tests.test_grid_codec import many_contexts


def hashes() -> dict[str, str]:
    """Hashes by the names of file and kernel."""
    models = {
        name: decode((FOLDER / f"{name}.f3dgs").read_bytes()) for name in sorted(read_table(TABLE))
    }
    models["many_contexts"] = ModelFile(many_contexts())
    found = {}
    for name, model in models.items():
        for used in BOTH:
            with using(used):
                found[f"{name} {used.name}"] = hashlib.sha256(encode(model)).hexdigest()
    return found


def main() -> None:
    """Prints the instruction set, then a line for each file and kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        print(plane_coder.instruction_set, *sys.argv[1:])
        for name, value in hashes().items():
            print(name, value)


if __name__ == "__main__":
    main()
