# SPDX-License-Identifier: Apache-2.0
"""Valid and damaged files: `python -m tests.damaged_files` decodes them with both kernels.

Prints the instruction set, how many decode, and a hash of the decoded values. Tests run it under
sanitizers and on every instruction set; both kernels are compared on each file.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import plane_coder

from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.model_file import ModelFile, encode
from tests.both_kernels import decoded_alike
from tests.fuzz_inputs import packed
from tests.test_grid_codec import random_model

GOLDEN = Path(__file__).parent / "golden"


def files() -> Iterator[bytes]:
    """Golden files, the fuzzer's corpus, and a model of many lanes cut short and changed."""
    for path in sorted(GOLDEN.glob("*.f3dgs")):
        yield path.read_bytes()
    with zipfile.ZipFile(GOLDEN / "fuzz_corpus.zip") as archive:
        for name in sorted(archive.namelist()):
            file = packed(archive.read(name))
            if file is not None:
                yield file
    data = encode(ModelFile(random_model(1600, 3)))
    yield data
    yield from _damaged(dict(unpack_container(data).sections))


def _damaged(sections: dict[str, bytes]) -> Iterator[bytes]:
    generator = np.random.default_rng(0)
    for name in ("rans0", "rans1", "bits1"):
        whole = sections[name]
        for _ in range(3):
            cut = 2 * int(generator.integers(0, len(whole) // 2))
            yield pack_container(Container(2, {**sections, name: whole[:cut]}))
            changed = bytearray(whole)
            changed[int(generator.integers(0, len(whole)))] ^= 1 << int(generator.integers(0, 8))
            yield pack_container(Container(2, {**sections, name: bytes(changed)}))


def main() -> None:
    """Decodes all files with both kernels."""
    total, decoded = hashlib.sha256(), 0
    for data in files():
        model = decoded_alike(data)
        decoded += model is not None
        if model is not None:
            for _, values in sorted(model.values().items()):
                total.update(np.ascontiguousarray(values).tobytes())
    print(plane_coder.instruction_set, decoded, total.hexdigest())


if __name__ == "__main__":
    main()
