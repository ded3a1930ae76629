# SPDX-License-Identifier: Apache-2.0
"""Inputs with which the fuzzer reached new code: each is decoded, or refused as corrupt."""

import zipfile
from pathlib import Path

import pytest

from splat_codec.errors import CorruptFile
from splat_codec.model_file import decode
from tests.fuzz_inputs import one_input, packed, unpacked

GOLDEN = Path(__file__).parent / "golden"

with zipfile.ZipFile(GOLDEN / "fuzz_corpus.zip") as archive:
    INPUTS = {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_of_the_fuzzer_is_decoded_or_refused(name: str) -> None:
    one_input(INPUTS[name])


def test_the_inputs_reach_the_code_after_the_checksums() -> None:
    files = [file for data in INPUTS.values() if (file := packed(data)) is not None]
    decoded = 0
    for file in files:
        try:
            decoded += decode(file).splats.count > 0
        except CorruptFile:
            continue
    assert 0 < decoded < len(files)


def test_unpacked_files_are_packed_again() -> None:
    for path in GOLDEN.glob("good_*.f3dgs"):
        file = packed(unpacked(path.read_bytes()))
        assert file is not None
        whole, again = (decode(data).splats.values() for data in (path.read_bytes(), file))
        assert all((whole[name] == again[name]).all() for name in whole)
