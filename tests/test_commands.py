# SPDX-License-Identifier: Apache-2.0
"""The command lines as users type them, from photographs to figures, on a tiny scene."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gaussian_compression.report import read_report, report_path
from sample_scene import SceneSettings, make_scene
from splat_formats.ply import read_ply

ROOT = Path(__file__).parents[1]
SCENE = SceneSettings(views=10, width=64, height=48, points=400, light_samples=2)
TEST_VIEWS = 2  # every eighth of ten: numbers 0 and 8
ITERATIONS = 60


def start(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of the project; its name comes first."""
    command = [sys.executable, str(ROOT / str(words[0])), *map(str, words[1:])]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def succeed(*words: object) -> str:
    """Runs a script that must end well, and returns what it printed."""
    result = start(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fail(*words: object) -> str:
    """Runs a script that must end with status 1 and one line, and returns that line."""
    result = start(*words)
    assert result.returncode == 1, (result.stdout, result.stderr)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in result.stderr
    return last


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    """Returns an image file's content, (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image)


@dataclass(frozen=True)
class Workshop:
    """The folders of one pass through all commands, and what those printed."""

    scene: Path
    model: Path
    decoded: Path
    printed: dict[str, str]

    @property
    def iterations(self) -> list[int]:
        """The saved iterations, ascending."""
        folders = (self.model / "point_cloud").iterdir()
        return sorted(int(folder.name.removeprefix("iteration_")) for folder in folders)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    scene, model, decoded = folder / "scene", folder / "model", folder / "decoded.ply"
    make_scene(scene, SCENE)
    printed = {}
    printed["train"] = succeed(
        *("train.py", "-s", scene, "-m", model, "--eval", "--iterations", ITERATIONS),
        *("--densify_from_iter", 20, "--densification_interval", 20, "--test_iterations", 50),
        "--disable_viewer",
    )
    printed["compress"] = succeed(
        *("compress.py", "-s", scene, "-m", model, "--preset", "fast3dgs", "--max_rounds", 2),
        *("--warmup_iterations", 4, "--finetune_iterations", 4, "--final_iterations", 6),
        *("--max_psnr_drop", 50),
    )
    printed["decompress"] = succeed("decompress.py", model / "compressed" / "model.f3dgs", decoded)
    succeed("render.py", "-m", model, "--iteration", ITERATIONS, "--skip_train", "--quiet")
    succeed("render.py", "-m", model, "--quiet")
    printed["metrics"] = succeed("metrics.py", "-m", model)
    return Workshop(scene, model, decoded, printed)


def test_training_leaves_the_known_folder(workshop: Workshop) -> None:
    for name in ("cfg_args", "cameras.json", "input.ply"):
        assert (workshop.model / name).stat().st_size > 0
    assert workshop.iterations[0] == ITERATIONS
    cloud = read_ply(workshop.model / "point_cloud" / f"iteration_{ITERATIONS}/point_cloud.ply")
    assert cloud.count > 100
    assert cloud.sh_degree == 3
    assert "Training complete." in workshop.printed["train"]
    assert "[ITER 50] Evaluating test: L1 " in workshop.printed["train"]


def test_training_and_compression_leave_the_data_set_alone(
    workshop: Workshop, tmp_path: Path
) -> None:
    make_scene(tmp_path / "fresh", SCENE)

    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    assert contents(workshop.scene) == contents(tmp_path / "fresh")


def test_compression_keeps_its_promise(workshop: Workshop) -> None:
    report = read_report(report_path(workshop.model))
    before, after = report.start.gaussians, report.compressed.gaussians
    kept = before
    for _ in range(2):
        kept -= int(0.05 * kept)
    assert after == kept
    size = (workshop.model / "compressed" / "model.f3dgs").stat().st_size
    assert report.compressed.bytes == size
    assert size < (report.start.bytes or 0) / 3
    assert not (workshop.model / "compressed" / "rounds").exists()


def test_decoding_gives_what_was_measured(workshop: Workshop) -> None:
    last = workshop.model / "point_cloud" / f"iteration_{workshop.iterations[-1]}"
    assert workshop.iterations[-1] > ITERATIONS
    assert workshop.decoded.read_bytes() == (last / "point_cloud.ply").read_bytes()


def test_the_file_says_where_it_comes_from(workshop: Workshop) -> None:
    printed = succeed("decompress.py", workshop.model / "compressed" / "model.f3dgs", "--info")
    found = json.loads(printed)
    report = read_report(report_path(workshop.model))
    assert found["gaussians"] == report.compressed.gaussians
    metadata = found["metadata"]
    assert metadata["source"]["gaussians"] == report.start.gaussians
    assert metadata["settings"]["preset"] == "fast3dgs"
    assert metadata["settings"]["stopping"] == {"max_psnr_drop": 50.0, "max_rounds": 2}
    assert not metadata["antialiasing"]
    np.testing.assert_allclose(metadata["up"], [0, 0, 1], atol=0.2)


@pytest.mark.parametrize("without", ["", "plane_coder"])
def test_decoding_needs_numpy_alone(workshop: Workshop, tmp_path: Path, without: str) -> None:
    program = (
        f"import runpy, sys; sys.modules |= dict.fromkeys(['torch', {without!r}]);"
        "sys.path.insert(0, sys.argv[1]);"
        "script = sys.argv.pop(1) + '/decompress.py'; runpy.run_path(script, run_name='__main__')"
    )
    file = workshop.model / "compressed" / "model.f3dgs"
    command = [sys.executable, "-c", program, str(ROOT), str(file), str(tmp_path / "out.ply")]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert (tmp_path / "out.ply").read_bytes() == workshop.decoded.read_bytes()
    assert ("decoded by NumPy" in done.stdout) == bool(without)


def test_renders_are_pairs_of_the_same_size(workshop: Workshop) -> None:
    last = workshop.iterations[-1]
    counts = {"test": TEST_VIEWS, "train": SCENE.views - TEST_VIEWS}
    for split, count in counts.items():
        folder = workshop.model / split / f"ours_{last}"
        names = [f"{i:05d}.png" for i in range(count)]
        assert sorted(path.name for path in (folder / "renders").iterdir()) == names
        assert sorted(path.name for path in (folder / "gt").iterdir()) == names
        assert pixels(folder / "renders" / names[0]).shape == (SCENE.height, SCENE.width, 3)
    photograph = pixels(workshop.scene / "images" / "view_000.png")
    saved = pixels(workshop.model / "test" / f"ours_{last}" / "gt" / "00000.png")
    np.testing.assert_array_equal(saved, photograph)


def test_metrics_cover_both_iterations_and_agree_with_the_report(workshop: Workshop) -> None:
    results = json.loads((workshop.model / "results.json").read_text())
    per_view = json.loads((workshop.model / "per_view.json").read_text())
    names = {f"ours_{ITERATIONS}", f"ours_{workshop.iterations[-1]}"}
    assert set(results) == set(per_view) == names
    for name in names:
        for metric in ("PSNR", "SSIM"):
            views = per_view[name][metric]
            assert len(views) == TEST_VIEWS
            assert results[name][metric] == pytest.approx(sum(views.values()) / TEST_VIEWS)
        assert 8 < results[name]["PSNR"] < 60
        assert 0 < results[name]["SSIM"] < 1
    report = read_report(report_path(workshop.model))
    measured = results[f"ours_{workshop.iterations[-1]}"]
    assert report.compressed.test.psnr == pytest.approx(measured["PSNR"], abs=1e-3)
    assert report.compressed.test.ssim == pytest.approx(measured["SSIM"], abs=1e-4)


def test_report_of_the_demo(workshop: Workshop, tmp_path: Path) -> None:
    picture = tmp_path / "side_by_side.png"
    printed = succeed("tools/demo_report.py", workshop.model, workshop.decoded, picture)
    size = (workshop.model / "compressed" / "model.f3dgs").stat().st_size
    assert f"{size:,}" in printed
    assert {"Gaussians", "bytes", "PSNR,", "SSIM"} <= set(printed.split())
    assert printed.endswith(f"Report: {workshop.model / 'compressed' / 'report.html'}\n")
    assert pixels(picture).shape[1] >= 3 * SCENE.width


def test_report_of_the_demo_refuses_another_ply(workshop: Workshop, tmp_path: Path) -> None:
    trained = workshop.model / "point_cloud" / f"iteration_{ITERATIONS}" / "point_cloud.ply"
    said = fail("tools/demo_report.py", workshop.model, trained, tmp_path / "picture.png")
    assert "differs" in said
    assert not (tmp_path / "picture.png").exists()


def test_bare_ply_compresses_into_a_folder_of_its_own(workshop: Workshop, tmp_path: Path) -> None:
    trained = workshop.model / "point_cloud" / f"iteration_{ITERATIONS}" / "point_cloud.ply"
    succeed(
        *("compress.py", "-s", workshop.scene, "-m", tmp_path / "new", "--start_ply", trained),
        *("--eval", "--warmup_iterations", 1, "--finetune_iterations", 1, "--final_iterations", 1),
        *("--max_rounds", 1, "--preset", "fast3dgs", "--position_bits", 16, "--max_psnr_drop", 50),
    )
    assert (tmp_path / "new" / "compressed" / "model.f3dgs").stat().st_size > 0
    for name in ("cameras.json", "input.ply"):  # as training leaves them, for viewers
        assert (tmp_path / "new" / name).read_bytes() == (workshop.model / name).read_bytes()
    succeed("render.py", "-m", tmp_path / "new", "--quiet")


def test_missing_photographs_are_named(workshop: Workshop, tmp_path: Path) -> None:
    shutil.copytree(workshop.scene, tmp_path / "scene")
    shutil.rmtree(tmp_path / "scene" / "images")
    said = fail(
        *("train.py", "-s", tmp_path / "scene", "-m", tmp_path / "model", "--iterations", 2),
        "--disable_viewer",
    )
    assert str(tmp_path / "scene" / "images") in said


def test_folder_that_is_no_data_set_is_named(tmp_path: Path) -> None:
    said = fail("train.py", "-s", tmp_path, "-m", tmp_path / "model", "--disable_viewer")
    assert str(tmp_path) in said


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_truncated_ply_is_named(workshop: Workshop, tmp_path: Path, share: float) -> None:
    trained = workshop.model / "point_cloud" / f"iteration_{ITERATIONS}" / "point_cloud.ply"
    whole = trained.read_bytes()
    damaged = tmp_path / "damaged.ply"
    damaged.write_bytes(whole[: int(len(whole) * share)])
    said = fail(
        *("compress.py", "-s", workshop.scene, "-m", tmp_path / "new", "--start_ply", damaged)
    )
    assert "damaged.ply" in said
    assert not list(tmp_path.rglob("*.f3dgs"))


def test_truncated_model_file_is_named_and_leaves_no_ply(
    workshop: Workshop, tmp_path: Path
) -> None:
    whole = (workshop.model / "compressed" / "model.f3dgs").read_bytes()
    damaged = tmp_path / "damaged.f3dgs"
    damaged.write_bytes(whole[: len(whole) // 2])
    assert "damaged.f3dgs" in fail("decompress.py", damaged, tmp_path / "out.ply")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.f3dgs"]


@pytest.mark.parametrize(
    "words",
    [("render.py", "-m"), ("metrics.py", "-m"), ("compress.py", "-m")],
    ids=lambda words: words[0],
)
def test_model_that_is_not_there_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    assert "nowhere" in fail(*words, tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
