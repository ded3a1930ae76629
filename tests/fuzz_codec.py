# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of the decoder: `python -m tests.fuzz_codec [-max_total_time=3600]`.

Needs `pip install atheris`. Checksums are corrected before decoding, so that damage reaches the
code after them. Both kernels read every file and have to agree, and all numbers have to be finite.
Starts from the golden files and the inputs with which earlier runs reached new code
(golden/fuzz_corpus.zip, replayed by test_fuzz_corpus.py). Any exception but CorruptFile is a fault,
and so is a file that needs more than MEMORY, beyond which allocations fail. `version1` as argument
starts from files of version 1 only, `version2` from files of version 2 only, and `published` tests
the reader of the published code's files. A folder as argument keeps the inputs that are found.
At each execution the process grows by about the size of its input (the decoder alone does not):
give `-runs=90000` and repeat.
"""

import pickle
import resource
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["splat_codec", "splat_formats"]):
    from tests.fuzz_inputs import one_input, one_published_input, unpacked

GOLDEN = Path(__file__).parent / "golden"
READERS = ("version1", "version2", "published")
MEMORY = 2**31
"""Bytes of address space beyond what the process has when fuzzing begins.

A file of 20 kB may hold two million Gaussians.
"""
MEMORY_OF_PICKLES = 2**27


def main() -> None:
    """Fuzzes until stopped."""
    arguments = [argument for argument in sys.argv if argument not in READERS]
    chosen = [argument for argument in sys.argv if argument in READERS]
    with tempfile.TemporaryDirectory() as corpus:
        if "published" in chosen:
            write_pickles(Path(corpus))
        else:
            write_files(Path(corpus), [name.removeprefix("version") for name in chosen])
        target = one_published_input if "published" in chosen else one_input
        atheris.Setup([*arguments, "-max_len=20000", "-rss_limit_mb=4096", corpus], target)
        limit_memory(MEMORY_OF_PICKLES if "published" in chosen else MEMORY)
        atheris.Fuzz()


def limit_memory(more: int) -> None:
    """Allocations of more than `more` further bytes now raise MemoryError, which is a fault."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def write_files(corpus: Path, versions: Sequence[str]) -> None:
    """Writes the first inputs, as one_input takes them: files of these versions, or of all."""
    for path in GOLDEN.glob("good_*.f3dgs"):
        if not versions or any(f"_v{version}_" in path.name for version in versions):
            (corpus / path.stem).write_bytes(unpacked(path.read_bytes()))
    with zipfile.ZipFile(GOLDEN / "fuzz_corpus.zip") as found:
        for name in found.namelist():
            if not versions or str(found.read(name)[0]) in versions:
                found.extract(name, corpus)


def write_pickles(corpus: Path) -> None:
    """Writes the first inputs: small models in all protocols and layouts that are read."""
    generator = np.random.default_rng(0)
    shapes = {"xyz": 3, "opacity": 1, "scaling": 3, "rotation": 4, "features_dc": 3}
    plain: dict[str, Any] = {
        name: generator.normal(size=(4, channels)).astype(np.float16)
        for name, channels in shapes.items()
    }
    symbols = generator.integers(-9, 9, (4, 3, 3)).astype(np.int8)
    beside = {"features_rest_scale": np.float32(0.1), "features_rest_zero_point": 2}
    layouts = {
        "beside": plain | {"features_rest": symbols} | beside,
        "inside": plain | {"features_rest": {"data": symbols, "scale": 0.1, "zero_point": 2}},
        "tuple": OrderedDict(plain | {"features_rest": (symbols, 0.1, np.int64(2))}),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for name, layout in layouts.items():
            (corpus / f"{name}{protocol}").write_bytes(pickle.dumps(layout, protocol))


if __name__ == "__main__":
    main()
