# SPDX-License-Identifier: Apache-2.0
"""Golden files: those of published versions decode to the same bits for ever."""

import csv

import pytest

from splat_codec.errors import CorruptFile
from splat_codec.model_file import decode
from tests.both_kernels import decoded_alike
from tests.golden.regenerate import FOLDER, TABLE, digest, good_files

with TABLE.open(newline="") as file:
    ROWS = {row["file"]: row for row in csv.DictReader(file)}
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


def test_a_change_of_size_is_seen() -> None:
    """The writer may improve; then `python -m tests.golden.regenerate` shows by how much."""
    sizes = {name: len(data) for name, data in good_files().items()}
    recorded = {name: int(row["bytes"]) for name, row in ROWS.items()}
    assert sizes == pytest.approx(recorded, rel=0.02)
    assert len(BAD) == 12
