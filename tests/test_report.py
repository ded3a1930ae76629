# SPDX-License-Identifier: Apache-2.0
"""The report of a compression: finite numbers, read as written, and reports of schema 1."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaussian_compression.report import (
    SCHEMA,
    CompressionReport,
    ErrorFigures,
    FileFigures,
    GuardFigures,
    PromiseFigures,
    StartFigures,
    StoppingFigures,
    read_report,
    write_report,
)
from gaussian_compression.rounds import Measurement, Quality, Round, StageTime
from utils.errors import InputError

REPORT = CompressionReport(
    start=StartFigures("m.ply", 7000, 10, 1, 5000, Quality(30.0, 0.9), Quality(29.0, None)),
    compressed=FileFigures(7100, 8, 3, 500, 10.0, 62.5, {"xyz": 400, "other": 100}, {"meta": 9}),
    settings={"stopping": {"max_psnr_drop": 0.1}, "grids": None},
    environments=({"from_round": 0, "torch": "2"}, {"from_round": 2, "torch": "3"}),
    stopping=StoppingFigures(2, "enough"),
    guard=GuardFigures("train", ("a.png", "b.png"), None),
    promise=PromiseFigures(0.1, 0.05, True, True),
    rounds=(Round(0, 10, 5, Quality(30.0, 0.9), 1.0, 2.0, Measurement(Quality(1.0, 2.0), 7)),),
    stages=(StageTime("rounds", 1.0, 2.0),),
    seed=3,
    identity={"resolution": 2},
    errors={"xyz": ErrorFigures("%", 1.0, 2.0, 3.0, 16)},
    layer_ends=(1, 8),
    notices=("one Gaussian was dropped",),
)
OLD: dict[str, Any] = {
    "start": {
        **{"ply": "m.ply", "iteration": 7000, "gaussians": 10, "dropped_non_finite": 1},
        **{"bytes": 5000, "guard": {"psnr": 30.0, "ssim": 0.9}, "test": {"psnr": None}},
    },
    "compressed": {
        **{"iteration": 7100, "gaussians": 8, "sh_degree": 3, "bytes": 500, "ratio": 10.0},
        **{"bytes_per_gaussian": 62.5, "bytes_per_attribute": {"xyz": 400, "other": 100}},
        **{"guard": {"psnr": 30.0, "ssim": 0.9}, "test": {"psnr": None, "ssim": None}},
    },
    "stopping": {"shipped_round": 2, "reason": "enough"},
    "guard": {"views_from": "train", "image_names": ["a.png"], "warning": None},
    "rounds": [],
    "stages": [{"stage": "rounds", "wall_seconds": 1.0, "cpu_seconds": 2.0}],
    "settings": {"stopping": {"max_psnr_drop": math.inf}},
    "seed": 0,
    "identity": {},
    "versions": {"torch": "2", "numpy": "1"},
}
OLD["start"]["test"]["ssim"] = None
OLD_TRAINING_FREE = {
    **{"gaussians": 8, "dropped_non_finite": 1, "sh_degree": 1, "quality": "high", "bytes": 500},
    **{"bytes_per_gaussian": 62.5, "bytes_per_section": {"meta": 9}, "layers": [1, 8]},
    **{"errors": {"xyz": {"rms": 0.1, "max": 0.2}}, "seconds": 1.5},
}


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", REPORT)
    assert read_report(tmp_path / "report.json") == REPORT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite_and_the_others_are_named(tmp_path: Path, value: float) -> None:
    round_0 = replace(REPORT.rounds[0], guard=Quality(value, 0.9))
    broken = replace(REPORT, rounds=(round_0,), settings={"a": {"b": [1.0, value]}})
    write_report(tmp_path / "report.json", broken)
    found = strict((tmp_path / "report.json").read_text())
    assert found["not_finite"] == ["settings.a.b[1]", "rounds[0].guard.psnr"]
    assert read_report(tmp_path / "report.json").rounds[0].guard == Quality(None, 0.9)


def test_old_reports_are_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(OLD))
    report = read_report(path)
    assert (report.schema, report.start.bytes, report.compressed.iteration) == (SCHEMA, 5000, 7100)
    assert report.environments == ({"from_round": 0, "torch": "2", "numpy": "1"},)
    assert report.settings == {"stopping": {"max_psnr_drop": None}}
    path.write_text(json.dumps(OLD_TRAINING_FREE))
    report = read_report(path)
    assert (report.schema, report.start.gaussians, report.compressed.bytes) == (SCHEMA, 9, 500)
    assert report.errors["xyz"].rms == 0.1
    write_report(path, report)
    assert read_report(path) == report


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", '{"schema": "x"}', '{"schema": 2}', '{"start": {}}']
)
def test_what_is_no_report_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=r"report\.json: expected the report of a compression"):
        read_report(tmp_path / "report.json")


def test_a_later_schema_is_named(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", replace(REPORT, schema=SCHEMA + 1))
    with pytest.raises(InputError, match=f"schema {SCHEMA + 1}, expected at most {SCHEMA}"):
        read_report(tmp_path / "report.json")
