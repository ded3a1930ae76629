# SPDX-License-Identifier: Apache-2.0
"""The option --rasterizer: which device and backend it chooses, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import check

import compress
import render
import train
from gaussian_renderer import rasterizer
from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.cpu_backend import CpuBackend
from gaussian_renderer.cuda_backend import CudaBackend
from scene import device
from utils.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(check, "machine", lambda: None)


def install_an_original(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("diff_gaussian_rasterization")
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", package)


def test_our_kernels_run_on_a_gpu_only_if_they_are_asked_for(a_gpu: None) -> None:
    assert device.default_device.__wrapped__() == CPU
    assert device.device_for("cuda") == CUDA
    assert device.device_for("cpu") == CPU


def test_auto_is_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "default_device", lambda: CUDA)
    assert device.device_for("auto") == CUDA
    assert device.device_for("cpu") == CPU


def test_what_the_kernels_miss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise check.CudaMissingError("the CUDA driver was not found.")

    monkeypatch.setattr(check, "machine", fails)
    with pytest.raises(InputError, match=r"^--rasterizer cuda: the CUDA driver was not found$"):
        device.device_for("cuda")


def test_the_kernels_of_an_original_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    install_an_original(monkeypatch)
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization.check", None)
    with pytest.raises(InputError, match=r"--rasterizer cuda needs the package .* pip install"):
        device.device_for("cuda")


def test_originals_run_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--rasterizer inria: .* is this project's"):
        device.device_for("inria")
    install_an_original(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--rasterizer inria: PyTorch finds no CUDA device"):
        device.device_for("inria")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.device_for("inria") == CUDA


def test_another_name_is_refused() -> None:
    with pytest.raises(
        InputError, match="expected one of auto, cuda, cpu, inria, gswarp, gsplat, got gpu"
    ):
        device.device_for("gpu")


def test_the_backend_follows_the_choice() -> None:
    chosen = RenderOptions(rasterizer="cuda")
    assert isinstance(backend_for(CUDA, chosen), CudaBackend)
    in_python = RenderOptions(rasterizer="cuda", convert_SHs_python=True)
    assert isinstance(backend_for(CUDA, in_python), AutogradBackend)
    for name in ("auto", "inria", "gswarp", "gsplat"):
        assert isinstance(backend_for(CUDA, RenderOptions(rasterizer=name)), AutogradBackend)
    assert isinstance(backend_for(CPU, RenderOptions(rasterizer="cpu")), CpuBackend)
    with pytest.raises(InputError, match="expected a model on a GPU, but it is on cpu"):
        backend_for(CPU, chosen)


def test_incomplete_packages_are_refused_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("fused_ssim.l1_ssim_value_and_gradient")
    with pytest.raises(InputError, match="--rasterizer cuda: the kernels are not complete: pip"):
        backend_for(CUDA, RenderOptions(rasterizer="cuda"))


def test_render_lets_our_package_draw_on_a_gpu_only_if_it_is_asked_for() -> None:
    gaussians: Any = SimpleNamespace(means=SimpleNamespace(device=CUDA))
    offered = rasterizer.Capabilities(antialiasing=True, separate_dc=True, devices=("cpu",))

    def view(name: str) -> Any:
        return SimpleNamespace(rasterizer=name, antialiasing=False)

    rasterizer._check(offered, gaussians, view("cuda"))
    with pytest.raises(InputError, match="runs on cpu, but the Gaussians are on cuda"):
        rasterizer._check(offered, gaussians, view("auto"))


@pytest.mark.parametrize("name", ["cuda", "inria", "gswarp", "gsplat", "gpu"])
def test_scripts_refuse_what_they_cannot_use(
    name: str, small_scene: Path, tmp_path: Path, command_line
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = tmp_path / "model"
    common = ("-s", small_scene, "-m", model, "-r", 2, "--quiet")
    command_line(*common, "--iterations", 1)
    train.main()
    names = sorted(path.name for path in model.rglob("*"))
    for script in (train, render, compress):
        command_line(*(common[:-1] if script is compress else common), "--rasterizer", name)
        with pytest.raises(InputError, match="--rasterizer"):
            script.main()
    assert sorted(path.name for path in model.rglob("*")) == names


def test_the_choice_of_the_cpu_trains_and_renders(
    small_scene: Path, tmp_path: Path, command_line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "default_device", lambda: CUDA)  # which does not exist here
    model = tmp_path / "model"
    common = ("-s", small_scene, "-m", model, "-r", 2, "--quiet", "--rasterizer", "cpu")
    command_line(*common, "--iterations", 1)
    train.main()
    command_line(*common)
    render.main()
    assert len(list(model.glob("train/ours_1/renders/*.png"))) == 10
