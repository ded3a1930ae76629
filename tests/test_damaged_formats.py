# SPDX-License-Identifier: Apache-2.0
"""Damaged files of the foreign formats: an error with a place, quickly, or a model."""

from pathlib import Path

import pytest

from splat_formats.files import read_splats
from tests.damaged_formats import TARGETS, flips, prepared_input, read_or_refuse, small_files
from utils.errors import InputError


def numbered(target: str, folder: Path) -> list[tuple[str, bytes]]:
    return list(small_files(target, folder))


@pytest.mark.parametrize("target", TARGETS)
def test_the_small_files_are_valid(target: str, tmp_path: Path) -> None:
    for name, content in numbered(target, tmp_path):
        path = tmp_path / f"a{TARGETS[target].ending}"
        path.write_bytes(content)
        assert read_splats(path).splats.count > 0, name


@pytest.mark.parametrize("target", TARGETS)
def test_files_cut_at_every_byte_are_refused(target: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{TARGETS[target].ending}"
    for _, content in numbered(target, tmp_path):
        for length in range(1, len(content)):
            if len(content) > 1000 and length > 64 and length % 41:
                continue
            path.write_bytes(content[:length])
            if target == "splat" and length % 32 == 0:
                continue  # a shorter file, as nothing in it states a number
            with pytest.raises(InputError, match=r"a\.\w+"):
                read_splats(path)


@pytest.mark.parametrize("target", TARGETS)
def test_files_with_changed_bits_are_read_or_refused(target: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for _, content in numbered(target, tmp_path):
        for damaged in flips(content, 160):
            path.write_bytes(damaged)
            read_or_refuse(target, path)


@pytest.mark.parametrize("target", TARGETS)
def test_other_files_are_refused(target: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"", b"\0", b"NGSP", b"ply\n", bytes(40), b"\x1f\x8b" + bytes(29)):
        path.write_bytes(content)
        assert read_or_refuse(target, path) is None


def test_the_fuzzer_packs_spz_4(tmp_path: Path) -> None:
    plain = dict(small_files("spz", tmp_path))["plain"]
    streams = plain[:4] + b"\4" + plain[5:15] + b"\6" + plain[16:]
    (tmp_path / "a.bin").write_bytes(prepared_input("spz", streams))
    scene = read_or_refuse("spz", tmp_path / "a.bin")
    assert scene is not None
    assert scene.splats.count == 3
