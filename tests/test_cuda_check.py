# SPDX-License-Identifier: Apache-2.0
"""`python -m diff_gaussian_rasterization.check`, without a GPU and with an emulated one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from cuda_paths import cuda_path
from diff_gaussian_rasterization import check
from diff_gaussian_rasterization._cuda import CudaMissingError

FOUND = check.Machine("A card", "sm_90", 3 << 30, "CUDA 13.0", "nvrtc 13.0", "13.0.3", "2.13.0")


def emulated_frame(device: torch.device) -> dict[str, torch.Tensor]:
    if device.type == "cpu":
        return original(device)
    with cuda_path():
        return original(torch.device("cpu"))


original = check.small_frame


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "machine", lambda: FOUND)
    monkeypatch.setattr(check, "small_frame", emulated_frame)


def test_without_a_gpu_it_is_one_sentence_and_status_1() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "diff_gaussian_rasterization.check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: PyTorch {torch.__version__}, which is made ")
    assert result.stderr.endswith("finds no CUDA device on this machine.\n")
    assert result.stderr.count("\n") == 1


def test_a_card_whose_results_agree(a_card: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main() == 0
    out = capsys.readouterr().out
    for text in ("A card, 3.0 GiB, sm_90", "CUDA 13.0", "nvrtc 13.0", "13.0.3", "2.13.0"):
        assert text in out
    for name in ("image", "inverse depth", "radii", "gradient of features_rest"):
        assert f"difference from the CPU, {name}: " in out


def test_the_frame_has_something_to_compare() -> None:
    frame = original(torch.device("cpu"))
    assert len(frame) == 9
    assert int((frame["radii"] > 0).sum()) > 200
    assert float(frame["image"].std()) > 0.1
    assert all(float(tensor.double().norm()) > 0 for tensor in frame.values())


@pytest.mark.parametrize("wrong", [0.0, float("nan")])
def test_results_that_differ_are_named(
    wrong: float, a_card: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoiled(device: torch.device) -> dict[str, torch.Tensor]:
        frame = emulated_frame(device)
        if device.type == "cuda":
            frame["image"][:, 20] = wrong
        return frame

    monkeypatch.setattr(check, "small_frame", spoiled)
    assert check.main() == 1
    assert "but image differ more" in capsys.readouterr().err


def test_a_compiler_without_support_for_the_card_is_one_sentence(
    a_card: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(device: torch.device) -> Any:
        raise CudaMissingError("no support.")

    monkeypatch.setattr(check, "small_frame", fails)
    assert check.main() == 1
    assert capsys.readouterr().err == "error: no support.\n"


def test_what_was_found_is_read_from_its_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Maker:
        def version(self) -> str:
            return "version"

        def architecture(self, device: int) -> str:
            return f"sm_{device}"

    class Properties:
        name, total_memory = "card", 5

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    monkeypatch.setattr(check, "BindingsDriver", Maker)
    monkeypatch.setattr(check, "NvrtcCompiler", Maker)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 1")
    assert check.machine(7) == check.Machine(
        *("card", "sm_7", 5, "version", "version", "cuda-bindings 1", torch.__version__)
    )
