# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py: its parts that need no GPU, and how it records those that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import _cuda

from benchmarks import gpu
from benchmarks.gpu_checks import CASES, differences


def test_all_kernels_agree_in_the_emulation(tmp_path: Path) -> None:
    status = gpu.main(["--out", str(tmp_path), "--emulate"])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: each.get("error") for name, each in results.items()} == dict.fromkeys(CASES)
    assert status == 0
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("agrees with the CPU") == len(CASES)


def test_a_failing_part_is_recorded_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("a | b\nc")

    parts = {"first": fails, "second": lambda: {"seconds": 2}}
    monkeypatch.setattr(gpu, "parts_of", lambda arguments: parts)
    assert gpu.main(["--out", str(tmp_path / "new")]) == 1
    results = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert results["first"]["error"] == "RuntimeError: a | b\nc"
    assert "fails()" in results["first"]["trace"] or "in fails" in results["first"]["trace"]
    assert results["second"]["seconds"] == 2
    rows = (tmp_path / "new" / "gpu.md").read_text().splitlines()
    assert rows[2].startswith("| first | **failed:** RuntimeError: a \\| b c | ")
    assert rows[3].startswith("| second | seconds 2 | ")


def a_case(monkeypatch: pytest.MonkeyPatch, *results: list[float]) -> None:
    """A case that gives the first results on the CPU, then the others."""
    left = iter(results)
    case = {"case": lambda device: {"numbers": torch.tensor(next(left))}}
    monkeypatch.setattr(gpu, "CASES", case)


@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_a_result_that_differs_from_the_cpus_is_an_error(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_case(monkeypatch, [1.0], [wrong], [wrong])
    with pytest.raises(RuntimeError, match=r"differs from the CPU: \{'numbers': "):
        gpu.correctness("case", gpu.CPU, gpu.nullcontext)


def test_a_second_run_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    a_case(monkeypatch, [1.0], [1.0], [1.0 + 2e-7])
    with pytest.raises(RuntimeError, match=r"a second run gives other values: \['numbers'\]"):
        gpu.correctness("case", gpu.CPU, gpu.nullcontext)
    a_case(monkeypatch, [1.0], [1.0 + 2e-7], [1.0 + 2e-7])
    assert gpu.correctness("case", gpu.CPU, gpu.nullcontext)["differences"]["numbers"] < 3e-7


def test_decoded_values_are_compared_by_their_number() -> None:
    expected = {"decoded xyz": torch.zeros(4), "xyz": torch.ones(4)}
    found = {"decoded xyz": torch.tensor([0.0, 9.0, 0.0, 0.0]), "xyz": torch.ones(4)}
    assert differences(found, expected) == {"decoded xyz": 0.25, "xyz": 0.0}


class FakeEvent:
    """Time is the number of events so far."""

    count = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.count += 1
        self.time = FakeEvent.count

    def elapsed_time(self, end: FakeEvent) -> float:
        return float(end.time - self.time)


@pytest.fixture
def fake_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def test_parts_of_an_iteration_are_timed(fake_events: None) -> None:
    calls = []

    def step(lap: gpu.Lap) -> None:
        calls.append(lap)
        lap("one")
        gpu.marked()
        lap("two")

    assert gpu.part_times(step, 5) == {"one": 1.0, "two": 2.0, "whole iteration": 3.0}
    assert len(calls) == gpu.WARM_UP + 5


def test_launches_are_timed_by_name(fake_events: None, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(_cuda.Kernels, "launch", lambda *given: launched.append(given[1:]))
    kernels = object.__new__(_cuda.Kernels)
    with gpu.timed_launches() as launches:
        kernels.launch("one", 1, None)
        kernels.launch("one", 2, None)
        kernels.launch("two", 3, None)
    kernels.launch("three", 4, None)
    assert {name: len(each.events) for name, each in launches.items()} == {"one": 2, "two": 1}
    assert all(each.host_seconds > 0 for each in launches.values())
    assert launched == [("one", 1, None), ("one", 2, None), ("two", 3, None), ("three", 4, None)]
    pairs = [pair for each in launches.values() for pair in each.events]
    assert [a.elapsed_time(b) for a, b in pairs] == [1.0] * 3


@pytest.fixture
def tiny_model_on_the_cpu(fake_events: None, monkeypatch: pytest.MonkeyPatch) -> gpu.RawParameters:
    raw = gpu.made_up(30, 3)
    monkeypatch.setattr(gpu, "CUDA", gpu.CPU)
    monkeypatch.setattr(gpu, "SIZE", (48, 36))
    monkeypatch.setattr(gpu, "made_up", lambda count, degree: raw)
    return raw


@pytest.mark.parametrize("at_once", [False, True])
def test_backward_and_adam_are_timed_without_a_change_of_the_model(
    at_once: bool, tiny_model_on_the_cpu: gpu.RawParameters
) -> None:
    before = tiny_model_on_the_cpu.map(torch.clone)
    times = {"both": 1.0} if at_once else {"backward": 1.0, "Adam": 1.0}
    found = gpu.backward_and_adam(30, 2, at_once)["milliseconds"]
    assert found == {**times, "whole iteration": len(times)}
    assert all(torch.equal(a, b) for a, b in zip(tiny_model_on_the_cpu, before, strict=True))


def test_drawing_is_timed(tiny_model_on_the_cpu: gpu.RawParameters) -> None:
    found = gpu.rendering(30, 2, rasterizer="auto")
    assert found == {"milliseconds": {"drawing": 1.0, "whole iteration": 1.0}}


def test_copies_of_memory_are_timed(
    tiny_model_on_the_cpu: gpu.RawParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing 50 bytes in 1 ms."""
    monkeypatch.setattr(gpu, "COPIED_BYTES", 50)
    assert gpu.copied_memory(2) == {"bytes_a_second": pytest.approx(100e3)}


def test_a_program_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)train\.py failed: .*not_an_option"):
        gpu.script(tmp_path, "train", "--not_an_option")


def test_peers_that_are_installed_are_timed_in_the_same_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "installed", lambda name: name == "gsplat")
    arguments = gpu.parse_arguments(["--out", str(tmp_path), "--counts", "10"])
    names = list(gpu.parts_of(arguments))
    assert [name for name in names if name.endswith(gpu.PEERS)] == [
        "fine-tuning, 10 Gaussians, gsplat",
        "training, 10 Gaussians, gsplat",
        "rendering, 10 Gaussians, gsplat",
    ]
    assert "fine-tuning, 10 Gaussians, photograph on the host" in names
    for name in ("rendering, 10 Gaussians", "backward and Adam, 10 Gaussians, at once"):
        assert name in names


def took(milliseconds: float, **others: Any) -> dict[str, Any]:
    return {"milliseconds": {"whole iteration": milliseconds}, "took": 1.0, **others}


def test_times_are_compared_with_those_of_peers() -> None:
    results = {
        "training, 10 Gaussians": took(2.0),
        "training, 10 Gaussians, gsplat": took(8.0, least_bytes=1),
        "training, 10 Gaussians, photograph on the host": took(2.5),
        "backward and Adam, 10 Gaussians": took(3.0),
        "backward and Adam, 10 Gaussians, at once": took(2.0),
        "fine-tuning, 10 Gaussians": {"error": "no", "took": 1.0},
        "fine-tuning, 10 Gaussians, gsplat": took(8.0),
    }
    assert gpu.ratios(results) == {
        "training, 10 Gaussians, gsplat": 0.25,
        "training, 10 Gaussians, photograph on the host": 0.8,
        "backward and Adam, 10 Gaussians, at once": 1.5,
    }
    table = gpu.table(results)
    assert "| training, 10 Gaussians, gsplat | 0.25 |" in table
    assert "| training, 10 Gaussians | whole iteration 2.000 ms; 500 a second | 1.0 |" in table


def test_times_are_compared_with_the_least_that_the_memory_needs() -> None:
    """2e9 bytes at 1e12 bytes a second are 2 ms."""
    counted = {"least_bytes": 2e9, "launches": 7, "launching": 0.125, "peak_bytes": 3 << 20}
    results = {
        gpu.COPIED: {"bytes_a_second": 1e12, "took": 1.0},
        "training, 10 Gaussians": took(5.0, **counted),
        "training, 10 Gaussians, gsplat": took(8.0, **counted),
    }
    assert gpu.ratios(results) == {
        "training, 10 Gaussians, the memory's least time": 2.5,
        "training, 10 Gaussians, gsplat": 0.625,
    }
    assert "ms; 7 launches in 0.125 ms of the host; 3 MiB |" in gpu.table(results)
