# SPDX-License-Identifier: Apache-2.0
"""compress.py and its model folder: what it records, refuses, warns of and leaves unchanged."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from interrupted_runs import stop_after
from PIL import Image

import compress
import render
from gaussian_compression import pipeline, training_free
from gaussian_compression.report import CompressionReport, read_report, report_path
from scene.colmap_loader import read_points3D_binary
from scene.gaussian_model import GaussianModel
from splat_codec.model_file import decode
from splat_formats.files import read_splats, write_splats
from splat_formats.ply import write_ply
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.folder_lock import locked

Compress = Callable[..., CompressionReport]
PLY = "point_cloud/iteration_{}/point_cloud.ply"
SHORT = ("--warmup_iterations", 1, "--finetune_iterations", 1, "--max_psnr_drop", 100)


@pytest.fixture(scope="module")
def splats(small_scene: Path) -> Splats:
    """A model of the small scene: its points, as small grey balls."""
    points = read_points3D_binary(small_scene / "sparse/0/points3D.bin")[0].astype(np.float32)
    count = len(points)
    return Splats(
        xyz=points,
        features_dc=np.zeros((count, 1, 3), np.float32),
        features_rest=np.zeros((count, 0, 3), np.float32),
        opacity=np.zeros((count, 1), np.float32),
        scaling=np.full((count, 3), -3, np.float32),
        rotation=np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
    )


@pytest.fixture
def model(tmp_path: Path, splats: Splats) -> Path:
    """A model folder with one trained iteration."""
    write_ply(tmp_path / "model" / PLY.format(9), splats)
    return tmp_path / "model"


@pytest.fixture
def run(small_scene: Path, command_line, monkeypatch: pytest.MonkeyPatch) -> Compress:
    """Compresses into a folder, in one round unless something else is given."""
    monkeypatch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])

    def run(model: Path, *arguments: object, scene: Path = small_scene) -> CompressionReport:
        rounds = () if "--max_rounds" in arguments else ("--max_rounds", 1)
        final = () if "--final_iterations" in arguments else ("--final_iterations", 1)
        command_line("-s", scene, "-m", model, *SHORT, *rounds, *final, *arguments)
        compress.main()
        return read_report(report_path(model))

    return run


def numbers(model: Path) -> list[int]:
    names = [path.name for path in (model / "point_cloud").iterdir()]
    return sorted(int(name.removeprefix("iteration_")) for name in names)


def test_a_second_shorter_run_leaves_only_its_own_result(model: Path, run: Compress) -> None:
    trained = (model / PLY.format(9)).read_bytes()
    assert run(model, "--final_iterations", 5).compressed.iteration == 9 + 8
    report = run(model)
    assert report.compressed.iteration == 9 + 4
    assert numbers(model) == [9, 13]
    assert (model / PLY.format(9)).read_bytes() == trained
    decoded = decode((model / "compressed/model.f3dgs").read_bytes()).splats
    assert read_splats(model / PLY.format(13)).splats.count == decoded.count
    assert report.environments[0]["from_round"] == 0
    assert report.environments[0]["kernels"]["diff_gaussian_rasterization"]["version"]


def test_a_start_file_of_any_format_does_not_touch_the_trained_model(
    model: Path, splats: Splats, run: Compress, tmp_path: Path
) -> None:
    (model / PLY.format(9)).parent.rename(model / "point_cloud/iteration_4")  # 0 + 4 iterations
    trained = (model / PLY.format(4)).read_bytes()
    write_splats(tmp_path / "start.spz", SplatScene(splats))
    assert run(model, "--start_ply", tmp_path / "start.spz").compressed.iteration == 5
    assert numbers(model) == [4, 5]
    assert [path.name for path in (model / PLY.format(4)).parent.iterdir()] == ["point_cloud.ply"]
    assert (model / PLY.format(4)).read_bytes() == trained


def test_a_corrected_source_is_recorded_and_nothing_else_changes(
    model: Path, run: Compress, small_scene: Path
) -> None:
    (model / "cfg_args").write_text(
        "Namespace(sh_degree=0, source_path='/moved/away', eval=True, mine=(1, 'x'))"
    )
    (model / "input.ply").write_text("of the user")
    run(model)
    recorded = (model / "cfg_args").read_text()
    assert f"source_path='{small_scene}'" in recorded and "mine=(1, 'x')" in recorded
    assert (model / "input.ply").read_text() == "of the user"
    assert json.loads((model / "cameras.json").read_text())


def test_the_render_mode_of_a_ply_is_recorded_everywhere(
    tmp_path: Path, splats: Splats, run: Compress
) -> None:
    start, model = tmp_path / "start.ply", tmp_path / "model"
    write_splats(start, SplatScene(splats, SplatMetadata(antialiasing=True)))
    report = run(model, "--start_ply", start)
    assert "antialiasing=True" in (model / "cfg_args").read_text()
    assert decode((model / "compressed/model.f3dgs").read_bytes()).metadata["antialiasing"] is True
    assert read_splats(model / PLY.format(report.compressed.iteration)).metadata.antialiasing


def test_a_second_run_at_the_same_time_is_refused_at_the_start(model: Path, run: Compress) -> None:
    with locked(model), pytest.raises(InputError, match=r"is in use by .*, process "):
        run(model)
    assert not (model / "compressed").exists()


def test_a_run_does_not_continue_with_changed_photographs(
    model: Path, run: Compress, small_scene: Path, tmp_path: Path, monkeypatch
) -> None:
    scene = shutil.copytree(small_scene, tmp_path / "scene")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(0, patched)
        run(model, scene=scene)
    moved = scene.rename(tmp_path / "elsewhere")  # the same photographs, another folder
    photograph = sorted((moved / "images").iterdir())[3]
    original = photograph.read_bytes()
    pixels = np.array(Image.open(photograph))
    pixels[5, 5] ^= 1
    Image.fromarray(pixels).save(photograph)
    with pytest.raises(InputError, match=r"holds rounds of another run, with .*views"):
        run(model, scene=moved)
    photograph.write_bytes(original)
    assert run(model, scene=moved).stopping


def test_a_run_continues_in_another_environment_with_a_warning(
    model: Path, run: Compress, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(0, patched)
        patched.setattr(
            pipeline, "environment", lambda device: {"torch": "1.0", "kernels": {"a": "1"}}
        )
        run(model)
    report = run(model)
    assert (
        "the bytes of its file may differ" in caplog.text and "torch was 1.0, is 2" in caplog.text
    )
    assert "kernels.a was 1, is None" in caplog.text
    assert [found["from_round"] for found in report.environments] == [0, 1]
    assert report.environments[0]["torch"] == "1.0" != report.environments[1]["torch"]
    assert any("may differ" in notice for notice in report.notices)


def test_a_run_continues_rounds_of_an_earlier_version_with_a_warning(
    model: Path, run: Compress, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    fingerprint = pipeline._Run._fingerprint

    def earlier(self: pipeline._Run) -> dict:
        found = fingerprint(self)
        return {n: v for n, v in found.items() if n != "guard_views"} | {"source_path": "/old"}

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(0, patched)
        patched.setattr(pipeline._Run, "_fingerprint", earlier)
        run(model)
    run(model)
    assert "did not record guard_views" in caplog.text


@pytest.mark.parametrize("flag", ["sh_sparsity", "max_psnr_drop", "noise", "sparsity"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_numbers_out_of_range_are_refused(
    model: Path, run: Compress, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(InputError, match=f"--{flag} {float(value)}: "):
        run(model, f"--{flag}={value}")


def test_foreign_files_among_the_rounds_stay(model: Path, run: Compress) -> None:
    rounds = model / "compressed/rounds"
    rounds.mkdir(parents=True)
    (rounds / "mine.txt").write_text("precious")
    (rounds / ".round_001.0123abcd.tmp.npz").write_text("of a killed run")
    run(model)
    assert [path.name for path in rounds.iterdir()] == ["mine.txt"]


def test_an_abbreviated_option_is_refused(
    model: Path, run: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(model, "--training_fre")
    assert "unrecognized arguments: --training_fre" in capsys.readouterr().err


def test_a_folder_of_training_free_can_be_rendered(
    model: Path, small_scene: Path, command_line
) -> None:
    for source in ((), ("-s", small_scene)):
        command_line("--training_free", "-m", model, *source)
        training_free.main()
        command_line("-m", model, "--skip_test", "--quiet")
        if not source:
            with pytest.raises(InputError, match="-s/--source_path is required"):
                render.main()
    render.main()
    assert len(list((model / "train/ours_10/renders").iterdir())) == 10


def test_a_failed_save_leaves_no_iteration(tmp_path: Path, splats: Splats, monkeypatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splat_formats.ply._header", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*point_cloud\.ply"):
        GaussianModel.from_splats(splats).save_ply(tmp_path / PLY.format(7))
    assert list(tmp_path.iterdir()) == []
