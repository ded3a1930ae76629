# SPDX-License-Identifier: Apache-2.0
"""A PLY written in parts, and one of which only some rows are read."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gaussian_compression.decoded_mark import file_sha256
from splat_formats.files import write_splats
from splat_formats.ply import ply_parts, read_ply_scene, write_ply, write_ply_scene
from splat_formats.ply_table import map_ply_table, read_ply_table
from splat_formats.row_source import rows_of_ply
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.visible import visible_part
from tests.test_grid_codec import random_splats
from utils.errors import InputError


def test_parts_of_a_ply_are_checked(tmp_path: Path) -> None:
    splats = random_splats(20, 1)
    with (
        pytest.raises(ValueError, match="at most 10"),
        ply_parts(tmp_path / "a.ply", 10, 3, SplatMetadata()) as ply,
    ):
        ply.add(splats)
    with (
        pytest.raises(ValueError, match="8 SH"),
        ply_parts(tmp_path / "a.ply", 20, 8, SplatMetadata()) as ply,
    ):
        ply.add(splats)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("most", [9, 99, 10**6])
def test_the_digest_of_a_ply_in_parts_is_that_of_its_file(tmp_path: Path, most: int) -> None:
    splats = random_splats(9, 1)
    with ply_parts(tmp_path / "a.ply", most, 3, SplatMetadata(), is_hashed=True) as ply:
        ply.add(splats.rows(slice(0, 4)))
        ply.add(splats.rows(slice(4, 9)))
    assert ply.sha256 == file_sha256(tmp_path / "a.ply")
    write_ply(tmp_path / "b.ply", splats)
    assert ply.sha256 == file_sha256(tmp_path / "b.ply")


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (5e5, 4e6, 100.0)])
def test_rows_of_a_ply_are_those_that_reading_it_gives(
    tmp_path: Path, origin: tuple[float, float, float]
) -> None:
    path = tmp_path / "ä.ply"
    write_ply_scene(path, SplatScene(random_splats(500, 2), SplatMetadata(True, origin)))
    whole, rows = read_ply_scene(path), rows_of_ply(path)
    assert rows is not None
    assert rows.metadata == whole.metadata
    assert (rows.count, rows.sh_degree) == (500, 2)
    outline = rows.outline()
    np.testing.assert_array_equal(outline.xyz, whole.splats.xyz)
    assert outline.visible == visible_part(whole.splats).splats.count < 500
    chosen = np.array([0, 3, 4, 499])
    for found, expected in zip(
        rows.splats(chosen).columns().values(),
        whole.splats.rows(chosen).columns().values(),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_only_plain_binary_plys_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, random_splats(30, 0))
    assert map_ply_table(path) is not None
    assert rows_of_ply(path, 31) is None
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="truncated"):
        rows_of_ply(path)
    write_splats(tmp_path / "b.compressed.ply", SplatScene(random_splats(30, 0)))
    assert rows_of_ply(tmp_path / "b.compressed.ply") is None
    write_ply(path, random_splats(0, 0))
    assert rows_of_ply(path) is None


@pytest.mark.parametrize("length", range(4))
def test_a_few_rows_need_little_memory_wherever_the_numbers_begin(
    tmp_path: Path, length: int
) -> None:
    """A header whose length is no multiple of four, as its number of Gaussians may make it."""
    path = tmp_path / "a.ply"
    write_ply(path, random_splats(20_000, 3))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"end_header", b"comment " + b"x" * length + b"\nend_header", 1))
    table = map_ply_table(path)
    assert table is not None
    rows = np.array([0, 7, 19_999])
    table.table(rows)  # what is imported on first use does not count
    tracemalloc.start()
    chosen = table.table(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000 < len(whole) / 10
    np.testing.assert_array_equal(chosen.columns["x"], read_ply_table(path).columns["x"][rows])
