# SPDX-License-Identifier: Apache-2.0
"""The comparison of predictions: which loss is true, and where a prediction reaches the limit."""

import math
from pathlib import Path

import pytest

from benchmarks.guard_rules import (
    PREDICTIONS,
    adopted,
    at_limit,
    extrapolated,
    read,
    rows,
    scatter,
    summary,
)
from utils.files import write_json

FORMER = next(iter(PREDICTIONS))


def state(
    model: str, stage: str, number: int, gaussians: int, guard: float, training: float, test: float
) -> dict[str, object]:
    """Cycles and rounds have 400 iterations; four cycles make round 0."""
    views = {
        name: {"psnr": [psnr - 1, psnr + 1], "ssim": [0.9, 0.9]}
        for name, psnr in (("guard", guard), ("training", training), ("test", test))
    }
    done = 400 * number + (1600 if stage == "round" else 0)
    return {"model": model, "stage": stage, "round": number, "gaussians": gaussians,
            "iterations": done, "views": views}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A scene whose guard views lose 0.2 dB in each round, and whose test views lose half."""
    states = [
        state("unpruned", "start", 0, 1000, 40.0, 40.0, 30.0),
        state("unpruned", "cycle", 1, 1000, 37.0, 38.0, 30.0),
        state("unpruned", "cycle", 2, 1000, 36.0, 38.0, 30.0),
        state("unpruned", "cycle", 3, 1000, 37 - math.log2(3), 38.0, 30.0),
        state("unpruned", "round", 0, 1000, 35.0, 38.0, 31.0),
        state("pruned", "round", 1, 500, 34.8, 37.5, 31.0),
        state("unpruned", "round", 1, 1000, 34.9, 38.1, 31.1),
        state("pruned", "round", 2, 250, 34.6, 37.0, 30.9),
        state("unpruned", "round", 2, 1000, 34.9, 38.2, 31.1),
        state("pruned", "final", 2, 250, 36.0, 38.0, 31.2),
        state("unpruned", "final", 2, 1000, 37.0, 39.0, 31.4),
    ]
    path = tmp_path / "scene.json"
    write_json(path, {"scene": "made", "states": states})
    return path


def test_losses_are_against_round_0_or_the_twin(file: Path) -> None:
    course = read(file)
    assert course.true_loss(2) == pytest.approx(0.2)
    assert course.loss(2, "guard") == pytest.approx(0.4)
    assert course.loss(2, "guard", against=None) == pytest.approx(0.3)
    assert PREDICTIONS["the same, median of the views"](course, 2) == pytest.approx(0.3)
    assert PREDICTIONS["trend from the first round on"](course, 2) == pytest.approx(0.2)
    # Against round 1, training views lose 1.1 and guard views 0.3.
    assert extrapolated(course, 2, "psnr", 0.2) == pytest.approx(0.3 - 0.25 * 0.8)
    # Against the unpruned course, training views lose 1.0 after round 2, and guard views, which
    # fall by 1 dB as iterations double, lose 0.4 less what they would have lost anyway.
    guard = 0.4 - math.log2(2400 / 1600)
    assert adopted(course, 2, 0.2) == pytest.approx(guard - 0.25 * (1.0 - guard))


def test_the_true_loss_is_read_where_a_prediction_reaches_the_limit(file: Path) -> None:
    course = read(file)
    kept, lost = at_limit(course, PREDICTIONS[FORMER], 0.1)
    assert kept == pytest.approx(2**-0.5)  # half a round of halving
    assert lost == pytest.approx(0.05)
    assert at_limit(course, PREDICTIONS[FORMER], 0.5) is None


def test_tables_and_plot_show_the_figures(file: Path) -> None:
    course = read(file)
    assert any(line == f"| {FORMER} | +0.050 dB at 71 % |" for line in summary([course], 0.1))
    assert "| made | 2 | 25 % | +0.400 | +0.300 | +1.100 | +0.200 |" in "\n".join(rows([course]))
    svg = scatter([course])
    assert svg.startswith("<svg") and "predicted loss, dB" in svg and f"made: {FORMER}" in svg
