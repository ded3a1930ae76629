# SPDX-License-Identifier: Apache-2.0
"""Golden files: files of published versions always decode to the same bits."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import plane_coder
import pytest

from splat_codec.errors import CorruptFile
from splat_codec.model_file import decode, encode
from tests.both_kernels import BOTH, decoded_alike, using
from tests.fuzz_inputs import unpacked
from tests.golden.regenerate import FOLDER, TABLE, digest, good_files, read_table

ROOT = Path(__file__).parents[1]
ROWS = read_table(TABLE)
BAD = sorted(path.stem for path in FOLDER.glob("bad_*.f3dgs"))


@pytest.mark.parametrize("name", sorted(ROWS))
def test_good_files_decode_to_the_recorded_bits(name: str) -> None:
    data = (FOLDER / f"{name}.f3dgs").read_bytes()
    assert len(data) == int(ROWS[name]["bytes"])
    assert digest(data) == ROWS[name]["sha256 of the decoded values"]
    assert decoded_alike(data) is not None


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(name: str) -> None:
    with pytest.raises(CorruptFile):
        decode((FOLDER / f"{name}.f3dgs").read_bytes())
    assert decoded_alike((FOLDER / f"{name}.f3dgs").read_bytes()) is None


def test_file_sizes_are_those_recorded() -> None:
    """Where the writer improves, `python -m tests.golden.regenerate` records the new sizes."""
    sizes = {name: len(data) for name, data in good_files().items()}
    recorded = {name: int(row["bytes"]) for name, row in ROWS.items()}
    assert sizes == pytest.approx(recorded, rel=0.02)
    assert len(BAD) == 19


def reencoded(numpy_without: str, instruction_set: str | None) -> list[str]:
    """What tests/reencoded_files.py prints, without the first line."""
    forced = {"NPY_DISABLE_CPU_FEATURES": numpy_without, "OPENBLAS_NUM_THREADS": "1"}
    if instruction_set is not None:
        forced["FAST3DGS_ISA"] = instruction_set
    result = subprocess.run(
        [sys.executable, "-m", "tests.reencoded_files"],
        env={**os.environ, **forced},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout.splitlines()[1:]


def numpy_features() -> list[str]:
    """The optional instruction sets that NumPy was built for and this CPU has."""
    from numpy._core import _multiarray_umath as core

    return [name for name in core.__cpu_dispatch__ if core.__cpu_features__[name]]


def test_the_same_integers_give_the_same_bytes_on_every_processor() -> None:
    own = plane_coder.instruction_set.removeprefix("x86-64-")
    levels = [level for level in ("v2", "v3", "v4") if own.startswith("v") and level <= own]
    features = numpy_features()
    middle = len(levels) // 2
    settings = {
        ("", levels[-1] if levels else None),
        (" ".join(features[1:]), levels[middle] if levels else None),
        (" ".join(features), levels[0] if levels else None),
    }
    with ThreadPoolExecutor(2) as beside:
        lines = list(beside.map(lambda setting: reencoded(*setting), settings))
    found = dict(zip(settings, lines, strict=True))
    assert len({tuple(lines) for lines in found.values()}) == 1, found
    by_name = dict(line.rsplit(" ", 1) for line in next(iter(found.values())))
    for name in by_name:
        file, kernel = name.rsplit(" ", 1)
        assert by_name[f"{file} numpy"] == by_name[f"{file} compiled"], (file, kernel)


@pytest.mark.parametrize("name", [name for name in sorted(ROWS) if "_v2_" in name])
def test_golden_files_are_written_again_byte_for_byte(name: str) -> None:
    """Compared without zlib, because its versions write different bytes."""
    data = (FOLDER / f"{name}.f3dgs").read_bytes()
    for used in BOTH:
        with using(used):
            assert unpacked(encode(decode(data))) == unpacked(data)
