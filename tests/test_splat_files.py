# SPDX-License-Identifier: Apache-2.0
"""Reading and writing by `read_splats` and `write_splats`, whatever the format."""

import gzip
import io
import os
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import decompress as script
from gaussian_compression import training_free
from splat_codec.model_file import decode, encode
from splat_formats.files import read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from tests.format_models import model
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
def test_content_determines_the_format_before_the_name(tmp_path: Path, name: str) -> None:
    shutil.copy(GOLDEN / f"{name}.f3dgs", tmp_path / "a.ply")
    assert read_splats(tmp_path / "a.ply").splats.count > 0


@pytest.mark.parametrize("name", ["out.xyz", "out", "out.ply.gz", "out.f3dgs.txt"])
def test_an_unknown_ending_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"ends in .*\.ply or .* is expected"):
        write_splats(tmp_path / name, SplatScene(random_splats(2, 0)))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        read_splats(tmp_path / "gone.ply")
    with pytest.raises(InputError, match="this is a folder: a file is expected"):
        read_splats(tmp_path)
    (tmp_path / "meta.json").touch()
    with pytest.raises(InputError, match=r"meta\.json: JSON is expected"):
        read_splats(tmp_path)


def zip_of(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return content.getvalue()


FOREIGN = {
    "other.gz": (gzip.compress(b"hello"), "a gzip archive that holds no PLY"),
    "broken.gz": (b"\x1f\x8b\x00\x00\x00", "a gzip archive"),
    "a.pth": (zip_of("archive/data.pkl"), "a PyTorch checkpoint"),
    "b.zip": (zip_of("x.ply"), "a ZIP archive"),
    "c.zip": (b"PK\x03\x04", "a damaged ZIP"),
    "cameras.json": (b"{}", "a JSON file"),
    "means_l.webp": (b"RIFF\0\0\0\0WEBPVP8L", "a WebP image"),
    "a.csv": (b"x,y,z\n1,2,3\n", "a CSV table"),
    "a.txt": (b"hello", "a text file"),
    "failed.f3dgs": (b"<!DOCTYPE html><html>", "a web page"),
    "lfs.ply": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "empty.ply": (b"", "an empty file"),
    "a.bin": (b"\1\2\3", "no model; expected a compressed PLY, a PLY"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_named(tmp_path: Path, name: str) -> None:
    content, message = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{name}: this is {message}")):
        read_splats(tmp_path / name)


def test_a_ply_in_gzip_is_a_ply(tmp_path: Path) -> None:
    splats = random_splats(50, 1)
    write_splats(tmp_path / "a.ply", SplatScene(splats))
    packed = gzip.compress((tmp_path / "a.ply").read_bytes())
    for name in ("model.ply.gz", "model.ply"):
        (tmp_path / name).write_bytes(packed)
        assert_equal(splats, read_splats(tmp_path / name).splats)
    (tmp_path / "cut.ply.gz").write_bytes(packed[:-20])
    with pytest.raises(InputError, match="damaged gzip"):
        read_splats(tmp_path / "cut.ply.gz")
    short = gzip.compress((tmp_path / "a.ply").read_bytes()[:-1])
    (tmp_path / "short.ply.gz").write_bytes(short)
    with pytest.raises(InputError, match="states 50 vertices, the file has 49"):
        read_splats(tmp_path / "short.ply.gz")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bad_cut_short.f3dgs: corrupt file"):
        read_splats(GOLDEN / "bad_cut_short.f3dgs")
    whole, damaged = GOLDEN / "blocks_good.f3dgs", tmp_path / "a.f3dgs"
    for length, place in ((9, "header"), (40, "section table"), (-1, "section blocks")):
        damaged.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(InputError, match=rf"a\.f3dgs: corrupt file: {place}: "):
            read_splats(damaged)


def decompress(command_line, *arguments: object) -> None:
    command_line(*arguments)
    script.main()


def test_decompress_names_foreign_inputs_and_refuses_other_endings(
    tmp_path: Path, command_line
) -> None:
    good, ply = GOLDEN / "good_v2_sh2.f3dgs", tmp_path / "a.ply"
    for out in ("out.xyz", "out", "out.ply.gz"):
        with pytest.raises(InputError, match=r"ends in .*\.ply or .* is expected"):
            decompress(command_line, good, tmp_path / out)
    with pytest.raises(InputError, match=r"convert_splats\.py makes one of another quality"):
        decompress(command_line, good, tmp_path / "out.f3dgs")
    decompress(command_line, good, ply)
    with pytest.raises(InputError, match="but this is a PLY"):
        decompress(command_line, ply, tmp_path / "b.ply")
    (tmp_path / "a.spz").write_bytes(b"NGSP" + bytes(40))
    with pytest.raises(InputError, match="this is an SPZ file"):
        decompress(command_line, tmp_path / "a.spz", tmp_path / "b.ply")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ply", "a.spz"]


def test_compression_keeps_render_mode_and_origin(tmp_path: Path, command_line) -> None:
    metadata = SplatMetadata(antialiasing=True, origin=(453_000.0, 5_411_000.0, 0.0))
    small = replace(random_splats(200, 1), scaling=np.full((200, 3), -4, np.float32))
    write_splats(tmp_path / "start.ply", SplatScene(small, metadata))
    command_line("--training_free", "--start_ply", tmp_path / "start.ply", "-m", tmp_path / "out")
    training_free.main()
    decompress(command_line, tmp_path / "out/compressed/model.f3dgs", tmp_path / "b.ply")
    plys = [tmp_path / "b.ply", *(tmp_path / "out/point_cloud").glob("*/point_cloud.ply")]
    for ply in plys:
        assert ply.read_bytes().split(b"\n")[2:4] == [
            b"element vertex 200", b"comment SplatRenderMode: mip"
        ]  # fmt: skip
        scene = read_splats(ply)
        assert scene.metadata.antialiasing
        middle = np.median(scene.splats.xyz.astype(np.float64), axis=0) + scene.metadata.origin
        np.testing.assert_allclose(middle, metadata.origin, atol=1)
    assert len(plys) == 2


def test_a_write_that_fails_is_the_systems_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: .*a\.ply"):
            write_splats(tmp_path / "a.ply", SplatScene(random_splats(3000, 1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_photographs_is_kept(tmp_path: Path) -> None:
    description = {"up": [0.0, 1.0, 0.0], "white_background": True, "settings": {"noise": 1}}
    scene = SplatScene(random_splats(90, 0), SplatMetadata(description=description))
    write_splats(tmp_path / "a.f3dgs", scene)
    found = read_splats(tmp_path / "a.f3dgs").metadata.description
    assert found["up"] == [0.0, 1.0, 0.0]
    assert found["white_background"] is True
    assert "noise" not in found["settings"]


@pytest.mark.parametrize("origin", [[1, 2], "xyz", [1, 2, None], [0, 0, True], 5])
def test_an_invalid_origin_is_a_damaged_file(tmp_path: Path, origin: object) -> None:
    model = decode((GOLDEN / "good_v2_sh0.f3dgs").read_bytes())
    (tmp_path / "a.f3dgs").write_bytes(encode(replace(model, metadata={"origin": origin})))
    with pytest.raises(InputError, match="section meta: origin: three finite numbers"):
        read_splats(tmp_path / "a.f3dgs")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ply")
    with pytest.raises(InputError, match="an ordinary file is expected"):
        read_splats(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        ("a.sog", "PIL", "SOG needs the package PIL.*pip install pillow"),
        ("a.spz", "zstandard", "SPZ of version 4 needs the package zstandard"),
    ],
)
@pytest.mark.parametrize("error", [ModuleNotFoundError, ImportError, OSError])
def test_a_package_that_cannot_be_imported(
    name: str,
    package: str,
    message: str,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Missing, or built for another machine: one sentence, for reading and for writing."""
    scene = SplatScene(model(3, 1))
    write_splats(tmp_path / name, scene)
    for module in [known for known in sys.modules if known.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / f"{package}.py").write_text(f"raise {error.__name__}('made for the test')")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(InputError, match=message):
        read_splats(tmp_path / name)
    with pytest.raises(InputError, match=message):
        write_splats(tmp_path / f"new{Path(name).suffix}", scene)
    assert not (tmp_path / f"new{Path(name).suffix}").exists()
