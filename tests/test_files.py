# SPDX-License-Identifier: Apache-2.0
"""Output targets: links, devices, pipes, folders, the input itself; and what a crash leaves."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import decompress
from splat_codec.model_file import ModelFile, encode
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.ply import read_ply
from tests.test_grid_codec import random_splats
from utils.errors import InputError
from utils.files import atomic_folder, atomic_path, check_target, write_json, write_text

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed file of 20 Gaussians. Not to be written to."""
    file = tmp_path_factory.mktemp("compressed") / "a.f3dgs"
    splats = quantize_splats(random_splats(20, 1), QUALITIES["high"]).splats
    file.write_bytes(encode(ModelFile(splats, {})))
    return file


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path, relative: bool) -> None:
    (tmp_path / "far").mkdir()
    real, link, second = tmp_path / "far" / "real.ply", tmp_path / "link.ply", tmp_path / "b.ply"
    real.write_text("old")
    link.symlink_to(Path("far/real.ply") if relative else real)
    second.symlink_to(link)
    write_text(second, "new")
    assert link.is_symlink() and second.is_symlink()
    assert real.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.ply", "far", "link.ply"]


def test_a_link_to_nothing_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new" / "file").read_text() == "text"


def test_bytes_are_written_to_a_pipe_which_stays(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe.ply", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with atomic_path(pipe) as temporary:
        assert temporary.suffix == ".ply"
        temporary.write_bytes(b"bytes")
    reader.join()
    assert read == [b"bytes"]
    assert pipe.is_fifo()


def test_bytes_are_written_to_a_device_which_stays(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "null"):
        write_text(path, "text")
        assert Path("/dev/null").is_char_device()
    assert (tmp_path / "null").is_symlink()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="this system has no /dev/stdout")
@pytest.mark.parametrize("mode", ["pipe", "w", "a"])
def test_the_standard_output_is_a_target(tmp_path: Path, mode: str) -> None:
    program = "import sys; from utils.files import write_text; write_text('/dev/stdout', 'text')"
    command = [sys.executable, "-c", program]
    if mode == "pipe":
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout == b"text"
        return
    file = tmp_path / "out"
    file.write_text("before ")
    with file.open(mode) as out:
        subprocess.run(command, cwd=ROOT, stdout=out, check=True)
    assert file.read_text() == ("text" if mode == "w" else "before text")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: expected the name of a file"):
        write_text(tmp_path, "text")
    with pytest.raises(InputError, match="is a folder"):
        check_target(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_path(tmp_path / "iteration_1" / "b" / "a.ply") as path:
        path.write_text("half")
        raise ValueError
    with pytest.raises(ValueError), atomic_folder(tmp_path / "point_cloud" / "iteration_1"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_names_no_file_gets_its_name(tmp_path: Path) -> None:
    no_space = pytest.raises(OSError, match=r"No space left on device: .*/a\.ply")
    with no_space, atomic_path(tmp_path / "a.ply"):
        raise OSError(28, "No space left on device")


def test_content_is_on_disk_before_the_name(tmp_path: Path, monkeypatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        steps.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_text(tmp_path / "a", "text")
    assert steps == ["file", "name", "folder"]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 251 + ".ply"), "text")


def test_a_folder_appears_whole_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / ".a.incomplete").mkdir()
    (tmp_path / ".a.incomplete" / "of a killed process").write_text("half")
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "file").write_text("text")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_holds_finite_numbers_only(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"psnr": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["same", "dots", "symbolic", "hard"])
def test_the_input_is_no_target(tmp_path: Path, compressed: Path, kind: str, command_line) -> None:
    file, other = tmp_path / "model.ply", tmp_path / "other.ply"
    file.write_bytes(compressed.read_bytes())
    if kind == "symbolic":
        other.symlink_to(file)
    elif kind == "hard":
        other.hardlink_to(file)
    (tmp_path / "x").mkdir()
    command_line(file, {"same": file, "dots": tmp_path / "x/../model.ply"}.get(kind, other))
    with pytest.raises(InputError, match="is the input"):
        decompress.main()
    assert file.read_bytes() == compressed.read_bytes()


def test_a_model_is_decoded_into_a_pipe(tmp_path: Path, compressed: Path) -> None:
    pipe = tmp_path / "pipe.ply"
    os.mkfifo(pipe)
    command = [sys.executable, str(ROOT / "decompress.py"), str(compressed)]
    with subprocess.Popen([*command, str(pipe)], stdout=subprocess.DEVNULL) as process:
        (tmp_path / "copy.ply").write_bytes(pipe.read_bytes())
    assert process.returncode == 0
    assert read_ply(tmp_path / "copy.ply").count == 20


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="this system has no /dev/stdout")
def test_a_model_is_decoded_to_the_standard_output(tmp_path: Path, compressed: Path) -> None:
    command = [sys.executable, str(ROOT / "decompress.py"), str(compressed), "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    (tmp_path / "copy.ply").write_bytes(done.stdout)
    assert read_ply(tmp_path / "copy.ply").count == 20
    assert b"20 Gaussians" in done.stderr
