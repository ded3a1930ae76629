# SPDX-License-Identifier: Apache-2.0
"""convert_splats.py, decompress.py and --export, as users type them, in every format."""

import base64
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import convert_splats
import decompress
from gaussian_compression import training_free
from gaussian_compression.report import read_report, report_path
from splat_formats import files, measured_file
from splat_formats.files import FORMATS, read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene, Written
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats
from utils.errors import InputError

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "good_v2_sh2.f3dgs"
WRITTEN = [ending for known in FORMATS for ending in known.endings if known.write]
LOSSY = [ending for known in FORMATS for ending in known.endings
         if known.write and not known.is_exact and ending != ".f3dgs"]  # fmt: skip
PLY = "point_cloud/iteration_{}/point_cloud.ply"


def visible(count: int, sh_degree: int) -> Splats:
    """Gaussians that every format keeps, within the range of each."""
    splats = random_splats(count, sh_degree)
    splats.xyz[:3] /= 1e4
    splats.opacity[:] = np.clip(splats.opacity, -4, 4)
    return splats


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    write_splats(tmp_path / "in.ply", SplatScene(visible(300, 2)))
    return tmp_path / "in.ply"


@pytest.fixture
def convert(command_line, capsys: pytest.CaptureFixture[str]):
    """Converts, and returns what was printed."""

    def run(*arguments: object) -> str:
        command_line(*arguments)
        convert_splats.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("ending", WRITTEN)
def test_to_every_format_and_back(ply: Path, convert, ending: str) -> None:
    out = ply.with_name(f"out{ending.upper()}")
    printed = convert(ply, out)
    assert "Gaussians: 300 -> 300\n" in printed
    assert f"bytes: {ply.stat().st_size:,} -> {out.stat().st_size:,}\n" in printed
    assert ("largest" in printed) == (ending != ".ply")
    assert "Gaussians: 300 -> 300\n" in convert(out, ply.with_name("back.ply"))
    back, start = read_splats(ply.with_name("back.ply")).splats, read_splats(ply).splats
    np.testing.assert_allclose(back.xyz.mean(axis=0), start.xyz.mean(axis=0), atol=1e-2)


def test_to_a_page(ply: Path, convert) -> None:
    page, file = ply.with_name("out.HTML"), ply.with_name("out.f3dgs")
    printed = convert(ply, page, "--quality", "low")
    assert "Gaussians: 300 -> 300\n" in printed and "largest" in printed
    assert f" -> {page.stat().st_size:,}\n" in printed
    write_splats(file, read_splats(ply), quality="low")
    assert base64.b64encode(file.read_bytes()) in page.read_bytes()
    with pytest.raises(InputError, match="--spz_version belongs to an SPZ file"):
        convert(ply, page, "--spz_version", 3)


def test_big_models_are_better_stored_in_blocks(
    ply: Path, convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splat_formats.f3dgs_file.LEAST_WITH_BLOCKS", 301)
    assert "in blocks" not in convert(ply, ply.with_name("out.f3dgs"))
    monkeypatch.setattr("splat_formats.f3dgs_file.LEAST_WITH_BLOCKS", 300)
    assert "stores them in blocks" in convert(ply, ply.with_name("out.f3dgs"))


@pytest.mark.parametrize("ending", LOSSY)
def test_errors_are_those_of_the_format_s_rounding(ply: Path, convert, ending: str) -> None:
    """Wrong pairs of Gaussians would have opacities that differ by 0.4 on average."""
    printed = convert(ply, ply.with_name(f"out{ending}"))
    table = {line[:16].strip(): line[16:].split() for line in printed.splitlines()[4:]}
    bounds = {"position": 2e-3, "opacity": 3e-3, "colour": 5, "rotation": 1.5}
    for name, bound in bounds.items():
        assert float(table[name][0]) <= bound, name


def test_edits_and_qualities(ply: Path, convert) -> None:
    edits = ("--sh_degree", 1, "--crop_box", -1, -0.5, -2, 1, 0.5, 2, "--min_opacity", 0.5)
    sizes = []
    for quality in ("high", "low"):
        out = ply.with_name(f"{quality}.f3dgs")
        printed = convert(ply, out, "--quality", quality, *edits)
        found = read_splats(out)
        assert found.metadata.description["settings"]["quality"] == quality
        assert found.splats.sh_degree == 1
        assert 0 < found.splats.count < 150
        assert f"Gaussians: 300 -> {found.splats.count}\n" in printed
        sizes.append(out.stat().st_size)
    assert sizes[1] < sizes[0]


def test_render_mode_travels(tmp_path: Path, convert) -> None:
    scene = SplatScene(visible(20, 0), SplatMetadata(antialiasing=True))
    write_splats(tmp_path / "a.ply", scene)
    convert(tmp_path / "a.ply", tmp_path / "a.f3dgs")
    convert(tmp_path / "a.f3dgs", tmp_path / "b.ply")
    assert read_splats(tmp_path / "b.ply").metadata.antialiasing


def test_a_folder_of_sog_and_its_meta_json(ply: Path, convert, tmp_path: Path) -> None:
    convert(ply, tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        bundle.extractall(tmp_path / "folder")
    size = sum(path.stat().st_size for path in (tmp_path / "folder").iterdir())
    for source in (tmp_path / "folder", tmp_path / "folder/meta.json"):
        assert f"bytes: {size:,} -> " in convert(source, tmp_path / "b.ply")


REFUSED = {
    "another ending": (("in.ply", "out.xyz"), r"ends in .*\.ply or .* is expected"),
    "no ending": (("in.ply", "out"), r"ends in .*\.ply or .* is expected"),
    "in is out": (("in.ply", "./in.ply"), "is the input"),
    "by a link": (("in.ply", "link.ply"), "is the input"),
    "no input": (("gone.ply", "out.ply"), "gone.ply"),
    "a folder": ((".", "out.ply"), "this is a folder"),
    "out is a folder": (("in.ply", "folder.ply"), "is a folder"),
    "no model": (("text.txt", "out.ply"), "this is a text file"),
    "quality of a PLY": (("in.ply", "out.ply", "--quality", "low"), "belongs to a .f3dgs file"),
    "SPZ version of a PLY": (("in.ply", "out.ply", "--spz_version", 3), "belongs to an SPZ file"),
    "degree": (("in.ply", "out.ply", "--sh_degree", 3), "expected at most 2"),
    "box": (("in.ply", "out.ply", "--crop_box", 1, 0, 0, 0, 1, 1), "1 to 0 on axis x"),
    "empty box": (("in.ply", "out.ply", "--crop_box", *[99] * 6), "none of the 300"),
    "opacity": (("in.ply", "out.ply", "--min_opacity", "nan"), "opacity nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_refused(
    ply: Path, convert, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ply.parent
    (folder / "folder.ply").mkdir()
    (folder / "link.ply").symlink_to("in.ply")
    (folder / "text.txt").write_text("hello")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.chdir(folder)
    arguments, message = REFUSED[case]
    with pytest.raises((InputError, FileNotFoundError), match=message):
        convert(*arguments)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert read_splats(ply).splats.count == 300


def test_an_earlier_output_survives_a_failure(ply: Path, convert) -> None:
    out = ply.with_name("out.f3dgs")
    convert(ply, out)
    before = out.read_bytes()
    write_splats(ply, SplatScene(random_splats(0, 0)))
    with pytest.raises(InputError, match="found none among 0"):
        convert(ply, out)
    assert out.read_bytes() == before


def test_the_command_needs_neither_torch_nor_the_compiled_coder(ply: Path) -> None:
    program = (
        "import runpy, sys; sys.modules |= dict.fromkeys(['torch', 'plane_coder']);"
        f"sys.path.insert(0, {str(ROOT)!r});"
        f"runpy.run_path({str(ROOT / 'convert_splats.py')!r}, run_name='__main__')"
    )
    out = ply.with_name("out.f3dgs")
    command = [sys.executable, "-c", program, str(ply), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "largest" in done.stdout
    back = [sys.executable, str(ROOT / "convert_splats.py"), str(out), "/dev/stdout"]
    piped = subprocess.run(back, capture_output=True, check=True)
    ply.with_name("piped.ply").write_bytes(piped.stdout)
    assert read_splats(ply.with_name("piped.ply")).splats.count == 300
    assert b"Gaussians: 300 -> 300" in piped.stderr


@pytest.mark.parametrize("ending", [".ply", *LOSSY])
def test_decompress_to_every_format(
    tmp_path: Path, command_line, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    out = tmp_path / f"out{ending}"
    command_line(GOLDEN, out, "--layers", 1)
    decompress.main()
    printed = capsys.readouterr().out
    assert f"{out}: 14 Gaussians, SH degree " in printed
    assert ("largest" in printed) == (ending != ".ply")
    assert read_splats(out).splats.count == 14


def test_decompress_to_a_page(tmp_path: Path, command_line, capsys) -> None:
    page = tmp_path / "model.HTML"
    command_line(GOLDEN, page)
    decompress.main()
    assert f"{page}: {page.stat().st_size:,} bytes, 120 Gaussians" in capsys.readouterr().out
    assert base64.b64encode(GOLDEN.read_bytes()) in page.read_bytes()
    command_line(GOLDEN, tmp_path / "cut.html", "--layers", 1)
    with pytest.raises(InputError, match="a page holds the whole file"):
        decompress.main()
    damaged = tmp_path / "damaged.f3dgs"
    damaged.write_bytes(GOLDEN.read_bytes()[:-9])
    command_line(damaged, tmp_path / "damaged.html")
    with pytest.raises(InputError, match=r"damaged\.f3dgs"):
        decompress.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.f3dgs", "model.HTML"]


@pytest.fixture
def encode(command_line, capsys: pytest.CaptureFixture[str]):
    """Compresses without training into a folder, and returns what was printed."""

    def run(model: Path, *arguments: object) -> str:
        command_line("--training_free", "-m", model, *arguments)
        training_free.main()
        return capsys.readouterr().out

    return run


def test_exports_of_a_compression_without_photographs(ply: Path, encode) -> None:
    model = ply.parent / "model"
    formats = [ending.removeprefix(".") for ending in [".ply", *LOSSY]]
    printed = encode(model, "--start_ply", ply, "--export", ",".join(formats))
    report = read_report(report_path(model))
    assert [entry.file for entry in report.exports] == [f"model.{name}" for name in formats]
    decoded = read_splats(model / "compressed/model.f3dgs").splats
    for entry in report.exports:
        path = model / "compressed" / entry.file
        assert path.stat().st_size == entry.bytes
        assert read_splats(path).splats.count == entry.gaussians == decoded.count
        assert f"{entry.file:<22}{entry.bytes:>14,}" in printed
        assert (entry.losses is None) == (entry.file == "model.ply")
    page = (model / "compressed/report.html").read_text(encoding="utf-8")
    assert "Other formats" in page
    assert "What model.spz lost" in page and "What model.ply lost" not in page
    assert (model / "compressed/model.ply").read_bytes() == (model / PLY.format(1)).read_bytes()


@pytest.mark.parametrize("ending", [".f3dgs", *LOSSY])
def test_a_compression_starts_from_any_format(ply: Path, encode, ending: str) -> None:
    start = ply.with_name(f"start{ending}")
    write_splats(start, SplatScene(visible(100, 1)))
    encode(ply.parent / "model", "--start_ply", start)
    report = read_report(report_path(ply.parent / "model"))
    assert (report.start.ply, report.start.bytes) == (str(start), start.stat().st_size)
    assert report.compressed.gaussians == 100


def test_exports_are_replaced_and_removed_like_the_file(ply: Path, encode) -> None:
    model = ply.parent / "model"
    encode(model, "--start_ply", ply, "--export", "ply,spz")
    encode(model, "--start_ply", ply, "--export", ".PLY, ply", "--sh_degree", 0)
    names = {path.name for path in (model / "compressed").iterdir()}
    assert {"model.ply", "model.f3dgs", "report.json"} <= names
    assert "model.spz" not in names
    assert read_splats(model / "compressed/model.ply").splats.sh_degree == 0
    encode(model, "--start_ply", ply)
    assert not (model / "compressed/model.ply").exists()


def test_foreign_files_are_not_replaced_by_exports(ply: Path, encode) -> None:
    model = ply.parent / "model"
    (model / "compressed").mkdir(parents=True)
    mine = model / "compressed/model.ply"
    shutil.copy(ply, mine)
    with pytest.raises(InputError, match=r"model\.ply would be replaced, but no compression"):
        encode(model, "--start_ply", ply, "--export", "ply")
    with pytest.raises(InputError, match=r"model\.ply would be replaced, but is the model to"):
        encode(model, "--start_ply", mine, "--export", "ply")
    encode(model, "--start_ply", mine)
    mine.unlink()
    encode(model, "--start_ply", ply, "--export", "ply")
    shutil.copy(ply, mine)  # the user's again
    encode(model, "--start_ply", ply)
    assert mine.read_bytes() == ply.read_bytes()


@pytest.mark.parametrize("formats", ["", "xyz", "ply,", "f3dgs", "ply sog", "../ply", "ply,ply2"])
def test_unknown_exports_are_refused_before_any_work(tmp_path: Path, encode, formats: str) -> None:
    with pytest.raises(InputError, match=r"--export .*: expected names of formats .* out of"):
        encode(tmp_path / "model", "--start_ply", tmp_path / "gone.ply", "--export", formats)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_cannot_hold_the_model_loses_nothing_else(
    ply: Path, encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, scene: SplatScene) -> Written:
        if scene.splats.count > 1:
            raise InputError("too many Gaussians")
        return write(path, scene)

    (known,) = (known for known in FORMATS if known.endings == (".compressed.ply",))
    write = known.write
    assert write is not None
    others = [other for other in FORMATS if other is not known]
    monkeypatch.setattr(files, "FORMATS", (replace(known, write=fail), *others))
    model = ply.parent / "model"
    with pytest.raises(InputError, match=r"is complete, but .* was not exported: too many"):
        encode(model, "--start_ply", ply, "--export", "compressed.ply,ply")
    assert (model / "compressed/model.f3dgs").exists()
    assert (model / "compressed/model.ply").exists()
    assert "too many Gaussians" in read_report(report_path(model)).notices[-1]


def test_a_file_that_another_program_replaces_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.splat"

    def replaced(read: Path) -> SplatScene:
        write_splats(read, SplatScene(visible(7, 0)))
        return read_splats(read)

    monkeypatch.setattr(measured_file, "read_splats", replaced)
    with pytest.raises(InputError, match=r"a\.splat: another program replaced this file"):
        measured_file.write_measured(path, SplatScene(visible(3, 0)))
