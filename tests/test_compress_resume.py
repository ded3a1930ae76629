# SPDX-License-Identifier: Apache-2.0
"""compress.py as a command: killed and run again, started from PLYs, with invalid input."""

import contextlib
import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaussian_compression.report import (
    CompressionReport,
    pictures_folder,
    read_report,
    report_path,
)
from gaussian_compression.report_pictures import stored_pictures
from sample_scene import SceneSettings, make_scene
from splat_formats.ply import read_ply, write_ply
from splat_formats.splats import Splats
from utils.cli import run

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--warmup_iterations", "8", "--finetune_iterations", "8", "--final_iterations", "8"),
    *("--max_psnr_drop", "100", "--max_rounds", "3"),
)

EXPORT = ("--export", "compressed.ply")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene") / "scene"
    make_scene(folder, SceneSettings(views=12, width=80, height=60, points=600, light_samples=4))
    return folder


@pytest.fixture(scope="module")
def trained(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("model") / "model"
    run_script(
        "train.py", "-s", scene, "-m", model, "--eval", "--iterations", "40",
        "--disable_viewer", "--test_iterations", "-1",
    )  # fmt: skip
    return model


@pytest.fixture(scope="module")
def compressed(scene: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model's folder after an uninterrupted run. Tests must not write to it."""
    model = copied(trained, tmp_path_factory.mktemp("compressed") / "model")
    run_script("compress.py", "-s", scene, "-m", model, *SHORT, *EXPORT)
    return model


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = in_process(script, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def refused(script: str, *arguments: object) -> str:
    done = in_process(script, *arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr


def in_process(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in this process, which saves the two seconds of importing PyTorch."""
    words = [script, *map(str, arguments)]
    main = importlib.import_module(script.removesuffix(".py")).main
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        unittest.mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run(main)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def copied(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    return target


def file_of(model: Path) -> bytes:
    return (model / "compressed/model.f3dgs").read_bytes()


def report_of(model: Path) -> CompressionReport:
    return read_report(report_path(model))


def without_times(report: CompressionReport) -> CompressionReport:
    """The report without times and paths, in which repeated runs differ."""
    return replace(
        report,
        start=replace(report.start, ply=""),
        command=(),
        rounds=tuple(replace(done, wall_seconds=0, cpu_seconds=0) for done in report.rounds),
        stages=tuple(replace(stage, wall_seconds=0, cpu_seconds=0) for stage in report.stages),
    )


def newest_iteration(model: Path) -> Path:
    numbers = [int(p.name.removeprefix("iteration_")) for p in (model / "point_cloud").iterdir()]
    return model / "point_cloud" / f"iteration_{max(numbers)}"


def test_killed_and_run_again_gives_the_same_bytes(
    scene: Path, trained: Path, compressed: Path, tmp_path: Path
) -> None:
    interrupted = copied(trained, tmp_path / "model")
    arguments = command("compress.py", "-s", scene, "-m", interrupted, *SHORT)
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (interrupted / "compressed/rounds/round_001.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (interrupted / "compressed/model.f3dgs").exists()
    again = subprocess.run([*arguments, *EXPORT], capture_output=True, text=True, check=True)
    assert "continues after round" in again.stdout
    assert file_of(interrupted) == file_of(compressed)
    assert without_times(report_of(interrupted)) == without_times(report_of(compressed))
    pictures = [pictures_folder(report_path(model)) for model in (interrupted, compressed)]
    first, second = (stored_pictures(folder, report_of(compressed)) for folder in pictures)
    assert first == second and len(first) == 10
    assert not (interrupted / "compressed/rounds").exists()


def test_outputs_and_report(scene: Path, trained: Path, compressed: Path, tmp_path: Path) -> None:
    # A second run starts from the trained model again, not from the first one's result.
    model = copied(compressed, tmp_path / "model")
    done = run_script(
        "compress.py",
        "-s",
        scene,
        "-m",
        model,
        *SHORT,
        "--measure_test_every",
        "2",
        "--export",
        "ply,spz",
    )
    report = report_of(model)
    assert [entry.file for entry in report.exports] == ["model.ply", "model.spz"]
    assert (report.exports[0].guard, report.exports[0].test) == (
        report.compressed.guard,
        report.compressed.test,
    )  # fmt: skip
    psnr = report.compressed.test.psnr
    assert report.exports[1].test.psnr == pytest.approx(psnr, abs=0.5)
    assert f"{report.exports[1].test.psnr:.3f}" in done.stdout
    start = read_ply(trained / "point_cloud/iteration_40/point_cloud.ply").count
    expected = start
    for _ in range(3):
        expected -= int(0.2 * expected)
    assert report.compressed.gaussians == expected
    assert report.compressed.iteration == 40 + 8 + 3 * 8 + 8
    assert report.compressed.bytes == len(file_of(model))
    by_attribute = report.compressed.bytes_per_attribute
    assert sum(by_attribute.values()) == len(file_of(model))
    assert min(by_attribute.values()) >= 0
    assert by_attribute["xyz"] > 0
    assert [done.number for done in report.rounds] == [0, 1, 2, 3]
    assert [done.measurement is not None for done in report.rounds] == [True, False] * 2
    assert report.stopping.shipped_round == 3
    assert report.guard.image_names
    assert file_of(model) == file_of(compressed)
    page, command_given = model / "compressed/report.html", report.command
    assert command_given[:5] == ("compress.py", "-s", str(scene), "-m", str(model))
    assert report.preset == "balanced"
    changed = {"max_psnr_drop": 100.0, "max_ssim_drop": None, "max_rounds": 3}
    assert report.changed_settings["stopping"] == changed
    for views in ("guard", "test"):
        psnr = [view.compressed.psnr for view in report.views if view.views == views]
        assert np.mean(psnr) == pytest.approx(getattr(report.compressed, views).psnr)
    counted = report.histograms["opacity"]
    assert sum(counted.compressed) + counted.compressed_outside == expected
    assert sum(counted.start) + counted.start_outside == start
    drawn = page.read_bytes()
    page.unlink()
    assert f"Report: {page}" in run_script("report.py", model).stdout
    assert page.read_bytes() == drawn


def test_decompressed_file_is_the_decoded_model_bit_by_bit(
    compressed: Path, tmp_path: Path
) -> None:
    model = compressed
    out = tmp_path / "out.ply"
    run_script("decompress.py", model / "compressed/model.f3dgs", out)
    assert out.read_bytes() == (newest_iteration(model) / "point_cloud.ply").read_bytes()
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('torch is not installed here')")
    without_torch = {**os.environ, "PYTHONPATH": str(blocked)}
    arguments = command("decompress.py", model / "compressed/model.f3dgs", tmp_path / "bare.ply")
    subprocess.run(arguments, env=without_torch, check=True, capture_output=True)
    assert (tmp_path / "bare.ply").read_bytes() == out.read_bytes()


def test_bare_ply_of_lower_degree(scene: Path, trained: Path, tmp_path: Path) -> None:
    full = read_ply(trained / "point_cloud/iteration_40/point_cloud.ply")
    fields = {name: getattr(full, name) for name in full.__dataclass_fields__}
    bare = Splats(**{**fields, "features_rest": full.features_rest[:, :3].copy()})
    write_ply(tmp_path / "bare.ply", bare)
    out = tmp_path / "out"
    start = ("--start_ply", tmp_path / "bare.ply")
    run_script("compress.py", "-s", scene, "-m", out, "--eval", *start, *SHORT, "--max_rounds", 1)
    assert read_ply(newest_iteration(out) / "point_cloud.ply").sh_degree == 1
    run_script("render.py", "-m", out, "--skip_train", "--quiet")
    assert list((out / "test").glob("ours_*/renders/*.png"))
    message = refused("compress.py", "-s", scene, "-m", tmp_path / "x", "--sh_degree", 3, *start)
    assert "SH degree 1" in message


def test_pretrained_dir_leaves_that_folder_alone(
    scene: Path, trained: Path, tmp_path: Path
) -> None:
    before = sorted(path.relative_to(trained) for path in trained.rglob("*"))
    out = tmp_path / "out"
    run_script("compress.py", "-s", scene, "-m", out, "--pretrained_dir", trained, *SHORT)
    assert sorted(path.relative_to(trained) for path in trained.rglob("*")) == before
    assert report_of(out).start.iteration == 40


def test_guard_on_test_views_is_marked(scene: Path, trained: Path, tmp_path: Path) -> None:
    model = copied(trained, tmp_path / "model")
    done = run_script(
        "compress.py", "-s", scene, "-m", model, *SHORT, "--guard", "test", "--max_rounds", 1
    )
    assert "test views" in done.stderr
    assert report_of(model).guard.warning


def test_a_tight_rule_stores_the_unpruned_model(scene: Path, trained: Path, tmp_path: Path) -> None:
    model = copied(trained, tmp_path / "model")
    run_script(
        "compress.py", "-s", scene, "-m", model, "--warmup_iterations", 20,
        "--finetune_iterations", 1, "--final_iterations", 1, "--prune_fraction", 0.9,
        "--max_psnr_drop", 0, "--guard_memory", 0,
    )  # fmt: skip
    report = report_of(model)
    assert report.stopping.shipped_round == 0
    assert report.compressed.gaussians == report.start.gaussians


def test_bad_input_is_one_sentence(scene: Path, trained: Path, tmp_path: Path) -> None:
    ply = trained / "point_cloud/iteration_40/point_cloud.ply"
    short, empty = tmp_path / "short.ply", tmp_path / "empty.ply"
    short.write_bytes(ply.read_bytes()[:-100])
    splats = read_ply(ply)
    write_ply(empty, Splats(**{n: getattr(splats, n)[:0] for n in splats.__dataclass_fields__}))
    missing = copied(scene, tmp_path / "scene")
    next((missing / "images").iterdir()).unlink()
    in_scene = ("compress.py", "-s", scene)
    cases = {
        "no trained model": (*in_scene, "-m", tmp_path / "none"),
        "required": in_scene,
        "short.ply": (*in_scene, "-m", tmp_path / "o", "--start_ply", short),
        "no Gaussians": (*in_scene, "-m", tmp_path / "p", "--start_ply", empty),
        "no_scene": ("compress.py", "-s", tmp_path / "no_scene", "-m",
                     copied(trained, tmp_path / "a")),
        "images": ("compress.py", "-s", missing, "-m", copied(trained, tmp_path / "b")),
        "--prune_fraction": (*in_scene, "-m", copied(trained, tmp_path / "c"),
                             "--prune_fraction", 2),
    }  # fmt: skip
    for expected, arguments in cases.items():
        assert expected in refused(*arguments)


def test_damaged_files_are_refused_without_output(tmp_path: Path) -> None:
    junk = tmp_path / "junk.f3dgs"
    junk.write_bytes(np.random.default_rng(0).bytes(500))
    message = refused("decompress.py", junk, tmp_path / "out.ply")
    assert "not a .f3dgs file" in message
    assert "No such file" in refused("decompress.py", tmp_path / "gone", tmp_path / "out.ply")
    assert not (tmp_path / "out.ply").exists()
