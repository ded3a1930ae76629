# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metrics
from utils.errors import InputError
from utils.image_metrics import score_images
from utils.image_utils import save_png
from utils.optional_modules import installed
from utils.perceptual_metrics import ms_ssim

ROOT = Path(__file__).parents[1]
NO_LPIPS = {"LPIPS": None}


def make_model(folder: Path, count: int = 3, method: str = "ours_30000") -> Path:
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        for kind in ("renders", "gt"):
            image = torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8, generator=generator)
            save_png(folder / "test" / method / kind / f"{i:05}.png", image)
    return folder


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    # No weights are to be found: what this machine has must not matter.
    environment = {**os.environ, "TORCH_HOME": str(cwd), "LPIPS_WEIGHTS": ""}
    return subprocess.run(
        [sys.executable, ROOT / "metrics.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_the_files_have_the_usual_form(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    metrics.score_model(model, {"LPIPS": lambda render, truth: 0.25})
    results = json.loads((model / "results.json").read_text())
    per_view = json.loads((model / "per_view.json").read_text())
    assert list(results) == list(per_view) == ["ours_30000"]
    assert list(results["ours_30000"]) == ["SSIM", "PSNR", "LPIPS"]
    views = per_view["ours_30000"]
    assert list(views["PSNR"]) == ["00000.png", "00001.png", "00002.png"]
    for metric, mean in results["ours_30000"].items():
        assert mean == pytest.approx(sum(views[metric].values()) / 3)
    assert results["ours_30000"]["LPIPS"] == 0.25
    folder = model / "test" / "ours_30000"
    expected = score_images(
        metrics.load_png(folder / "renders" / "00001.png"),
        metrics.load_png(folder / "gt" / "00001.png"),
    )
    assert (views["PSNR"]["00001.png"], views["SSIM"]["00001.png"]) == expected
    assert (model / "results.json").read_text().startswith('{\n "ours_30000": {\n  "SSIM": ')


def test_every_method_is_scored(tmp_path: Path) -> None:
    make_model(tmp_path, method="ours_7000")
    metrics.score_model(make_model(tmp_path), NO_LPIPS)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["ours_30000", "ours_7000"]


def test_every_model_given_is_scored_once_and_without_weights(tmp_path: Path) -> None:
    models = [make_model(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "link").symlink_to(models[0])
    again = (tmp_path / "link", f"{models[1]}/", "b/../a")
    end = run("-m", models[0], "-m", models[1], "--model_paths", *again, cwd=tmp_path)
    assert end.returncode == 0, end.stderr
    lines = end.stdout.splitlines()
    assert (
        sum(
            "LPIPS is left out: LPIPS weights vgg16-397923af.pth and vgg.pth not found" in line
            for line in lines
        )
        == 1
    )
    assert [line for line in lines if line.startswith("Scene")] == [f"Scene: {m}" for m in models]
    for model in models:
        results = json.loads((model / "results.json").read_text())["ours_30000"]
        assert list(results) == ["SSIM", "PSNR"] and results["PSNR"] > 0
        per_view = json.loads((model / "per_view.json").read_text())["ours_30000"]
        assert list(per_view) == ["SSIM", "PSNR"]
    for name in ("results.json", "per_view.json"):
        assert lines.count(f"Left out of {name}: ours_30000 LPIPS") == 2


def test_a_failing_model_does_not_stop_the_others(tmp_path: Path) -> None:
    good = make_model(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    end = run("--model_paths", tmp_path / "bad", good, cwd=tmp_path)
    assert end.returncode == 1
    assert f"error: {tmp_path / 'bad' / 'test'}: no rendered test images" in end.stderr
    assert "Traceback" not in end.stderr
    assert "1 of 2 models could not be scored" in end.stderr
    assert (good / "results.json").exists() and not (tmp_path / "bad" / "results.json").exists()


def test_a_failing_method_does_not_stop_the_others(tmp_path: Path, capsys) -> None:
    make_model(tmp_path, method="ours_7000")
    (make_model(tmp_path) / "test" / "ours_30000" / "gt" / "00001.png").unlink()
    (tmp_path / "test" / ".DS_Store").write_bytes(b"no method")
    with pytest.raises(InputError, match=r"image 00001\.png is missing in .*ours_30000"):
        metrics.score_model(tmp_path, NO_LPIPS)
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["ours_7000"]
    assert "Method: ours_7000" in capsys.readouterr().out


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "test" / "ours_1" / "renders").mkdir(parents=True)
    with pytest.raises(InputError, match=r"renders: expected rendered images, found none"):
        metrics.score_model(tmp_path, NO_LPIPS)
    with pytest.raises(InputError, match="other: there is no such folder"):
        metrics.score_model(tmp_path / "other", NO_LPIPS)


def test_a_photo_that_is_missing_or_of_another_size(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    photo = model / "test" / "ours_30000" / "gt" / "00001.png"
    save_png(photo, torch.zeros(3, 20, 23, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"renders/00001\.png: .*24x20 pixels, the photo 23x20"):
        metrics.score_model(model, NO_LPIPS)
    photo.unlink()
    with pytest.raises(InputError, match=r"image 00001\.png is missing in .*gt"):
        metrics.score_model(model, NO_LPIPS)
    assert not (model / "results.json").exists()


def save_pair(folder: Path, name: str, render: torch.Tensor, photo: torch.Tensor) -> None:
    save_png(folder / "renders" / name, render)
    save_png(folder / "gt" / name, photo)


def no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def test_infinite_scores_are_left_out_of_the_files(tmp_path: Path, capsys) -> None:
    black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    save_pair(tmp_path / "test" / "ours_1", "00000.png", black, black)
    save_pair(tmp_path / "test" / "ours_1", "00001.png", black + 9, black)
    metrics.score_model(tmp_path, NO_LPIPS)
    results, per_view = (
        json.loads((tmp_path / name).read_text(), parse_constant=no_constant)
        for name in ("results.json", "per_view.json")
    )
    assert list(results) == list(per_view) == ["ours_1"]
    assert list(results["ours_1"]) == ["SSIM"]
    assert list(per_view["ours_1"]["PSNR"]) == ["00001.png"]
    printed = capsys.readouterr().out
    assert "  PSNR :             inf\n" in printed
    assert "Left out of results.json: ours_1 PSNR, ours_1 LPIPS\n" in printed
    assert "Left out of per_view.json: ours_1 PSNR 00000.png, ours_1 LPIPS\n" in printed


def test_extra_measures_follow_the_usual_ones(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (3, 180, 180), dtype=torch.uint8, generator=generator)
    render = photo // 2 + 60
    save_pair(tmp_path / "test" / "ours_1", "00000.png", render, photo)
    end = run("-m", tmp_path, "--extra", cwd=tmp_path)
    assert end.returncode == 0, end.stderr
    scores = json.loads((tmp_path / "results.json").read_text())["ours_1"]
    assert list(scores)[:3] == ["SSIM", "PSNR", "MS-SSIM"]
    assert ("FLIP" in scores) == installed("flip_evaluator")
    assert scores["MS-SSIM"] == pytest.approx(ms_ssim(render, photo))
    if installed("flip_evaluator"):
        assert 0 < scores["FLIP"] < 1
    else:
        assert "FLIP is left out: it needs" in end.stdout


def test_images_too_small_for_five_scales(tmp_path: Path, capsys) -> None:
    metrics.score_model(
        make_model(tmp_path), {**NO_LPIPS, "MS-SSIM": metrics.load_extra()["MS-SSIM"]}
    )
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["ours_30000"].keys() == {"SSIM", "PSNR"}
    assert "MS-SSIM is left out for images with a side of less than 176 pixels" in (
        capsys.readouterr().out
    )
