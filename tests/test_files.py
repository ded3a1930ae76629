# SPDX-License-Identifier: Apache-2.0
"""Reading and writing by `read_splats` and `write_splats`, whatever the format."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from splat_formats.files import read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from tests.test_ply import assert_equal, random_splats
from utils.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


def test_ply_and_back(tmp_path: Path) -> None:
    scene = SplatScene(random_splats(7, 2))
    assert write_splats(tmp_path / "a.PLY", scene) == ()
    read = read_splats(tmp_path / "a.PLY")
    assert_equal(scene.splats, read.splats)
    assert read.metadata == SplatMetadata()


def test_f3dgs_and_back(tmp_path: Path) -> None:
    metadata = SplatMetadata(antialiasing=True, origin=(3e6, -1.5, 0.0))
    scene = SplatScene(random_splats(300, 1), metadata)
    write_splats(tmp_path / "a.f3dgs", scene)
    read = read_splats(tmp_path / "a.f3dgs")
    assert read.splats.count == 300
    assert np.sort(read.splats.opacity, 0) == pytest.approx(np.sort(scene.splats.opacity, 0), abs=1)
    assert read.metadata.antialiasing
    assert read.metadata.origin == (3e6, -1.5, 0.0)
    assert read.metadata.description["settings"]["quality"] == "high"


@pytest.mark.parametrize("name", ["good_v1_sh3", "good_v2_sh2"])
def test_content_decides_before_the_name(tmp_path: Path, name: str) -> None:
    shutil.copy(GOLDEN / f"{name}.f3dgs", tmp_path / "a.ply")
    assert read_splats(tmp_path / "a.ply").splats.count > 0


@pytest.mark.parametrize("name", ["out.spz", "out", "out.ply.gz", "out.f3dgs.txt"])
def test_an_unknown_ending_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected \.ply or \.f3dgs"):
        write_splats(tmp_path / name, SplatScene(random_splats(2, 0)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_of_gaussians(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_splats(tmp_path / "gone.ply")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="no file of Gaussians"):
        read_splats(tmp_path / "a.txt")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bad_cut_short.f3dgs: corrupt file"):
        read_splats(GOLDEN / "bad_cut_short.f3dgs")
