# SPDX-License-Identifier: Apache-2.0
"""Frames a second: how they are computed, stored by render.py and printed by metrics.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metrics
from gaussian_renderer import speed
from gaussian_renderer.speed import FrameClock, RenderingFigures, read_figures, write_figures
from tests.test_metrics import NO_LPIPS, make_model
from utils.errors import InputError

FIGURES = RenderingFigures(115_016, 28_524_000, 13, 41.25, "a processor, 2 threads")
LINE = "115,016 Gaussians, PLY 28.52 MB, 41.2 FPS (median of 13 views, a processor, 2 threads)"


def test_frames_a_second_are_those_of_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.25, 10.0, 10.5, 20.0, 29.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(times))
    clock = FrameClock(torch.device("cpu"))
    for _ in range(3):
        with clock.frame():
            pass
    assert clock.frames == 3 and clock.fps() == pytest.approx(2.0)


def test_only_a_gpu_is_warmed_up() -> None:
    devices = [torch.device("cpu"), torch.device("cuda", 1)]
    assert [FrameClock(device).needs_warm_up for device in devices] == [False, True]


def test_a_clock_without_resolution_gives_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.time, "perf_counter", lambda: 1.0)
    clock = FrameClock(torch.device("cpu"))
    with clock.frame():
        pass
    assert clock.fps() > 0


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_figures(tmp_path) is None
    write_figures(tmp_path, FIGURES)
    assert read_figures(tmp_path) == FIGURES
    assert FIGURES.text() == LINE
    assert replace(FIGURES, gaussians=0).text().startswith("0 Gaussians")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"fps": 1}',
        '{"gaussians": "many"}',
        "[" * 100_000,
        "\x00",
        '{"gaussians": 1, "ply_bytes": 2, "views": 3, "fps": 4.0, "device": []}',
    ],
)
def test_damaged_figures_are_named(tmp_path: Path, text: str) -> None:
    speed.figures_path(tmp_path).write_text(text)
    with pytest.raises(InputError, match=r"rendering\.json: expected the figures of render\.py"):
        read_figures(tmp_path)


def test_metrics_prints_them_and_leaves_results_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path, count=1)
    metrics.score_model(model, NO_LPIPS)
    before = (model / "results.json").read_bytes(), (model / "per_view.json").read_bytes()
    assert "FPS" not in capsys.readouterr().out
    write_figures(model / "test" / "ours_30000", FIGURES)
    metrics.score_model(model, NO_LPIPS)
    assert f"ours_30000: {LINE}\n" in capsys.readouterr().out
    assert before == ((model / "results.json").read_bytes(), (model / "per_view.json").read_bytes())
    # Damaged figures do not cost the scores.
    speed.figures_path(model / "test" / "ours_30000").write_text("{")
    (model / "results.json").unlink()
    with pytest.raises(InputError, match=r"rendering\.json"):
        metrics.score_model(model, NO_LPIPS)
    assert (model / "results.json").read_bytes() == before[0]


def test_the_device_is_named() -> None:
    assert speed.device_name(torch.device("cpu")).endswith(f"{torch.get_num_threads()} threads")
