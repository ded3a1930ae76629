# SPDX-License-Identifier: Apache-2.0
"""convert.py: a program in the place of colmap that records its command lines; and pycolmap."""

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from made_datasets import files_of, random_image
from PIL import Image

import convert
from reconstruction import program
from reconstruction.resized import resized_size
from sample_scene import bake, furnish, photograph, rings
from scene.colmap_loader import qvec2rotmat, read_extrinsics_binary
from scene.dataset_readers import readSceneInfo
from utils.errors import InputError

SIZE = (24, 16)

# Does what colmap does, with files of the right form. Settings come from the file beside it.
COLMAP = """#!{python}
import json, pathlib, shutil, sqlite3, struct, sys
here = pathlib.Path(__file__).parent
settings = json.loads((here / "settings.json").read_text())
command, words = sys.argv[1], sys.argv[2:]
if words == ["--help"]:
    print(settings["help"]); sys.exit()
with (here / "calls.jsonl").open("a") as file:
    print(json.dumps([command, *words]), file=file)
if command == settings.get("fails"):
    sys.exit(7)
given = dict(zip(words[::2], words[1::2]))
names = settings["names"]
if command == "feature_extractor":
    base = sqlite3.connect(given["--database_path"])
    with base:
        base.execute("CREATE TABLE IF NOT EXISTS images (image_id INTEGER, name TEXT UNIQUE)")
        base.execute("CREATE TABLE IF NOT EXISTS keypoints (image_id INTEGER, rows INTEGER)")
        base.execute("CREATE TABLE IF NOT EXISTS cameras (model INTEGER)")
        if not base.execute("SELECT * FROM cameras").fetchall():
            base.execute("INSERT INTO cameras VALUES (4)")
            for number, name in enumerate(names):
                base.execute("INSERT INTO images VALUES (?, ?)", (number, name))
                base.execute("INSERT INTO keypoints VALUES (?, ?)", (number, settings["rows"]))
    base.close()

def model(folder, names):
    folder.mkdir(parents=True)
    camera = struct.pack("<QiiQQ4d", 1, 1, 1, 24, 16, 30.0, 30.0, 12.0, 8.0)
    (folder / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", len(names))
    for number, name in enumerate(names, 1):
        images += struct.pack("<i7di", number, 1, 0, 0, 0, -number, 0, 0, 1)
        images += name.encode() + b"\\0" + struct.pack("<Q", 0)
    (folder / "images.bin").write_bytes(images)
    point = struct.pack("<Q3d3BdQ", 1, 1, 2, 3, 10, 20, 255, 0.5, 0)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)

if command == "mapper":
    for number, count in enumerate(settings["models"]):
        model(pathlib.Path(given["--output_path"]) / str(number), names[:count])
if command == "image_undistorter":
    output = pathlib.Path(given["--output_path"])
    chosen = pathlib.Path(given["--input_path"])
    (output / "sparse").mkdir()
    for file in chosen.iterdir():
        shutil.copy(file, output / "sparse")
    count = struct.unpack_from("<Q", (chosen / "images.bin").read_bytes())[0]
    for name in names[:count]:
        (output / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path(given["--image_path"]) / name, output / "images" / name)
    (output / "stereo").mkdir()
    (output / "run-colmap-photometric.sh").write_text("")
"""


class FakeColmap:
    """A program in the place of colmap."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        folder.mkdir()
        self.path, self._settings = folder / "colmap", folder / "settings.json"
        self._calls = folder / "calls.jsonl"
        self.path.write_text(COLMAP.replace("{python}", sys.executable))
        self.path.chmod(0o755)
        self.set(names=names, rows=100, models=[len(names)], help="--FeatureExtraction.use_gpu "
            "arg (=1)\n--FeatureMatching.use_gpu arg (=1)")  # fmt: skip

    def set(self, **values: object) -> None:
        old = json.loads(self._settings.read_text()) if self._settings.exists() else {}
        self._settings.write_text(json.dumps(old | values))

    def calls(self) -> list[list[str]]:
        """The command lines since the last call of this."""
        if not self._calls.exists():
            return []
        lines = self._calls.read_text().splitlines()
        self._calls.unlink()
        return [json.loads(line) for line in lines]

    def steps(self) -> list[str]:
        return [call[0] for call in self.calls()]


NAMES = ["a b.png", "c;d.png", "e.jpg", "sub/f.png"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four photographs, with names that a shell would break."""
    folder = tmp_path / "my scene"
    for number, name in enumerate(NAMES):
        path = folder / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random_image(number, size=SIZE).save(path)
    (folder / "input" / "notes.txt").write_text("not a photograph")
    return folder


@pytest.fixture
def colmap(tmp_path: Path) -> FakeColmap:
    return FakeColmap(tmp_path / "bin", NAMES)


@pytest.fixture
def run(command_line, source: Path, colmap: FakeColmap):
    def convert_with(*words: object) -> None:
        command_line("-s", source, "--colmap_executable", colmap.path, *words)
        convert.main()

    return convert_with


def test_steps_have_the_known_command_lines(run, source: Path, colmap: FakeColmap) -> None:
    run()
    features, matches, mapping, undistortion = colmap.calls()
    photographs = ["--image_path", str(source / "input")]
    working = ["--database_path", str(source / "distorted/matching.db")]
    database = ["--database_path", str(source / "distorted/database.db")]
    assert features == [
        *("feature_extractor", *working, *photographs),
        *("--ImageReader.single_camera", "1", "--ImageReader.camera_model", "OPENCV"),
        *("--FeatureExtraction.use_gpu", "1"),
    ]
    assert matches == ["exhaustive_matcher", *working, "--FeatureMatching.use_gpu", "1"]
    assert mapping[:5] == ["mapper", *database, *photographs]
    assert mapping[7:] == ["--Mapper.ba_global_function_tolerance", "0.000001"]
    model = str(source / "distorted/sparse/0")
    assert undistortion[:5] == ["image_undistorter", *photographs, "--input_path", model]
    assert undistortion[7:] == ["--output_type", "COLMAP"]


def test_options_reach_colmap(run, colmap: FakeColmap) -> None:
    colmap.set(help="--SiftExtraction.use_gpu arg\n--SiftMatching.use_gpu arg", camera=1)
    run("--no_gpu")
    features, matches, *_ = colmap.calls()
    assert features[-2:] == ["--SiftExtraction.use_gpu", "0"]
    assert matches[-2:] == ["--SiftMatching.use_gpu", "0"]


def test_result_is_a_data_set_for_training(run, source: Path) -> None:
    run("--resize")
    from arguments import ModelOptions

    info = readSceneInfo(ModelOptions(source_path=str(source)))
    assert [camera.image_name for camera in info.train_cameras] == NAMES
    assert sorted(path.name for path in source.iterdir()) == [
        *("distorted", "images", "images_2", "images_4", "images_8", "input", "sparse"),
    ]
    assert sorted(path.name for path in (source / "sparse").iterdir()) == ["0"]
    for divisor in (2, 4, 8):
        for name in NAMES:
            with Image.open(source / f"images_{divisor}" / name) as image:
                assert image.size == (SIZE[0] // divisor, SIZE[1] // divisor)


def test_resized_images_are_as_training_resizes(run, source: Path) -> None:
    run("--resize")
    with Image.open(source / "images" / NAMES[0]) as image:
        expected = np.asarray(image.resize((12, 8), Image.Resampling.BICUBIC))
    with Image.open(source / "images_2" / NAMES[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    assert [resized_size((5, 3), divisor) for divisor in (2, 4, 8)] == [(3, 2), (1, 1), (1, 1)]


def test_help_lists_the_known_flags(command_line, capsys) -> None:
    command_line("--help")
    with pytest.raises(SystemExit) as end:
        convert.main()
    assert end.value.code == 0
    flags = "-s --source_path --no_gpu --skip_matching --resize --camera --colmap_executable " \
        "--magick_executable"  # fmt: skip
    assert set(flags.split()) <= set(re.findall(r"(?<![\w-])--?\w+", capsys.readouterr().out))


def test_second_run_does_nothing_and_says_so(run, source: Path, colmap, capsys) -> None:
    run("--resize")
    before = files_of(source)
    colmap.calls()
    capsys.readouterr()
    run("--resize")
    assert colmap.steps() == []
    assert files_of(source) == before
    assert capsys.readouterr().out.count(" is complete: ") == 6


@pytest.mark.parametrize("step", ["exhaustive_matcher", "mapper", "image_undistorter"])
def test_failed_step_is_named_and_repeated(
    run, source: Path, colmap: FakeColmap, step: str
) -> None:
    colmap.set(fails=step)
    with pytest.raises(InputError, match=f"colmap {step} failed with status 7"):
        run()
    assert not (source / "images").exists()
    assert not (source / "sparse").exists()
    done = colmap.steps()
    colmap.set(fails=None)
    run()
    # COLMAP's feature extractor itself skips what the unfinished database has.
    first = ["feature_extractor"] if step == "exhaustive_matcher" else []
    assert colmap.steps() == [*first, *["exhaustive_matcher", "mapper", "image_undistorter"][
        ["exhaustive_matcher", "mapper", "image_undistorter"].index(step):]]  # fmt: skip
    assert done[-1] == step
    assert (source / "sparse/0/images.bin").exists()


def test_run_killed_between_images_and_poses_is_completed(run, source: Path, colmap) -> None:
    run()
    (source / ".undistorted").mkdir()
    (source / "sparse").rename(source / ".undistorted" / "sparse")
    colmap.calls()
    run()
    assert colmap.steps() == []
    assert (source / "sparse/0/images.bin").exists()
    assert not (source / ".undistorted").exists()


def test_largest_model_is_taken_and_lost_photographs_named(
    run, source: Path, colmap: FakeColmap, capsys
) -> None:
    colmap.set(models=[2, 3])
    run()
    assert colmap.calls()[-1][4] == str(source / "distorted/sparse/1")
    printed = capsys.readouterr()
    assert "which has the most images (0: 2, 1: 3)" in printed.out
    assert "1 of 4 photographs have no pose and are left out: sub/f.png" in printed.err
    assert "3 of 4 photographs can be trained on" in printed.out


def test_skip_matching_takes_the_reconstruction_that_is_there(
    run, source: Path, colmap: FakeColmap
) -> None:
    with pytest.raises(InputError, match="expected reconstructions"):
        run("--skip_matching")
    run()
    shutil.rmtree(source / "images")
    shutil.rmtree(source / "sparse")
    (source / "distorted" / "database.db").unlink()
    colmap.calls()
    run("--skip_matching")
    assert colmap.steps() == ["image_undistorter"]


def test_photographs_without_features_end_the_run(run, source: Path, colmap) -> None:
    colmap.set(rows=0)
    with pytest.raises(InputError, match="no features were found in 4 photographs"):
        run()
    assert not (source / "distorted" / "database.db").exists()


def test_photographs_that_colmap_left_out_are_named(run, colmap: FakeColmap, capsys) -> None:
    colmap.set(names=NAMES[:3])
    run()
    printed = capsys.readouterr().err
    assert "1 of 4 photographs have no features" in printed
    assert "sub/f.png" in printed


def test_no_reconstruction_ends_the_run(run, source: Path, colmap: FakeColmap) -> None:
    colmap.set(models=[])
    with pytest.raises(InputError, match="found no reconstruction"):
        run()
    assert [path.name for path in (source / "distorted").iterdir()] == ["database.db"]


def test_another_camera_model_is_refused(run) -> None:
    run()
    with pytest.raises(InputError, match="model OPENCV, but --camera is PINHOLE"):
        run("--camera", "PINHOLE")


def test_folders_of_others_are_not_overwritten(run, source: Path) -> None:
    (source / "images").mkdir()
    (source / "images" / "mine.png").write_bytes(b"precious")
    with pytest.raises(InputError, match="does not overwrite"):
        run()
    assert (source / "images" / "mine.png").read_bytes() == b"precious"


def test_result_of_another_reconstruction_is_refused(run, source: Path, colmap) -> None:
    run()
    path = source / "distorted/sparse/0/images.bin"
    data = bytearray(path.read_bytes())
    struct.pack_into("<d", data, 8 + 4 + 4 * 8, 5.0)  # the first image's position along x
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not of the reconstruction"):
        run()


def test_lost_images_are_named(run, source: Path) -> None:
    run("--resize")
    (source / "images_4" / NAMES[2]).unlink()
    with pytest.raises(InputError, match=r"images_4.*e\.jpg: expected 6x4 pixels, found no file"):
        run("--resize")
    (source / "images" / NAMES[0]).unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 4 images: a b\.png"):
        run()


def test_bad_database_is_named(run, source: Path) -> None:
    (source / "distorted").mkdir()
    (source / "distorted" / "database.db").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"database\.db: expected a database of COLMAP"):
        run()


def test_photographs_must_be_there(command_line, tmp_path: Path, colmap: FakeColmap) -> None:
    def failure(source: Path) -> str:
        command_line("-s", source, "--colmap_executable", colmap.path)
        with pytest.raises(InputError) as error:
            convert.main()
        return str(error.value)

    assert "there is no such folder" in failure(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "input: expected a folder with the photographs" in failure(tmp_path / "empty")
    (tmp_path / "empty" / "input").mkdir()
    assert "found none" in failure(tmp_path / "empty")
    assert colmap.calls() == []


def test_program_is_found_or_its_absence_explained(
    monkeypatch: pytest.MonkeyPatch, colmap: FakeColmap, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pycolmap"):
        program.find_program("")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert program.find_program("").name == "pycolmap"
    monkeypatch.setenv("PATH", str(colmap.path.parent))
    assert program.find_program("").words == (str(colmap.path),)
    with pytest.raises(InputError, match="--colmap_executable nothing: there is no such program"):
        program.find_program("nothing")


def test_program_without_the_option_for_gpus_is_refused(run, colmap: FakeColmap) -> None:
    colmap.set(help="usage: colmap")
    with pytest.raises(InputError, match="expected `feature_extractor --help` to list"):
        run()


def test_imagemagick_is_not_needed(run, capsys) -> None:
    run("--magick_executable", "/no/magick", "--resize")
    assert "Pillow resizes the images" in capsys.readouterr().err


def test_database_is_read_after_a_kill(tmp_path: Path) -> None:
    from reconstruction.database import read_database

    working = sqlite3.connect(tmp_path / "a.db")
    working.execute("PRAGMA journal_mode=WAL")
    with working:
        working.execute("CREATE TABLE images (image_id INTEGER, name TEXT)")
        working.execute("CREATE TABLE keypoints (image_id INTEGER, rows INTEGER)")
        working.execute("CREATE TABLE cameras (model INTEGER)")
        working.execute("INSERT INTO images VALUES (1, 'x.png')")
    for ending in ("", "-wal"):  # as the disk is after a kill
        shutil.copy(tmp_path / f"a.db{ending}", tmp_path / f"b.db{ending}")
    working.close()
    assert read_database(tmp_path / "b.db").keypoints == {"x.png": 0}
    os.rename(tmp_path / "b.db", tmp_path / "c.db")  # noqa: PTH104
    assert not (tmp_path / "b.db-wal").exists()
    assert read_database(tmp_path / "c.db").keypoints == {"x.png": 0}


def test_pycolmap_makes_a_data_set_of_photographs(command_line, tmp_path: Path) -> None:
    """Photographs of the sample scene; the poses are the true ones up to a similarity."""
    if importlib.util.find_spec("pycolmap") is None:
        pytest.skip("pycolmap is not installed (tools/setup.sh with WITH_OTHERS=1)")
    source = tmp_path / "scene"
    (source / "input").mkdir(parents=True)
    lit, views = bake(furnish(0), 0, samples=2), rings(48, 320, 240, 0)[:8]
    for view in views:
        Image.fromarray(photograph(lit, view)).save(source / "input" / view.name)
    command_line("-s", source, "--no_gpu", "--resize", "--camera", "SIMPLE_PINHOLE")
    convert.main()
    images = read_extrinsics_binary(source / "sparse" / "0" / "images.bin").values()
    assert len(images) >= 6
    by_name = {view.name: view for view in views}
    turns = [
        qvec2rotmat(image.qvec).T @ by_name[image.name].world_to_camera.astype(np.float64)
        for image in images
    ]
    for turn in turns[1:]:  # one rotation of the world for all views
        angle = np.degrees(np.arccos(np.clip((np.trace(turns[0].T @ turn) - 1) / 2, -1, 1)))
        assert angle < 3
    assert len(list((source / "images_8").iterdir())) == len(images)
