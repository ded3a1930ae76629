# SPDX-License-Identifier: Apache-2.0
"""The device of models and cameras: by what is installed, or as the option --rasterizer chooses."""

from functools import cache

import torch

from arguments import RASTERIZERS
from utils.errors import InputError
from utils.optional_modules import load, load_required, supported_devices

_INSTALL = "pip install submodules/diff-gaussian-rasterization"


@cache
def default_device() -> torch.device:
    """CUDA if there is such a device and the installed rasteriser can use it, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Loaded only where there is a GPU: loading a model on a CPU needs no rasteriser.
    package = load("diff_gaussian_rasterization")
    is_usable = package is not None and "cuda" in supported_devices(package)
    return torch.device("cuda" if is_usable else "cpu")


def device_for(rasterizer: str) -> torch.device:
    """The device on which the rasteriser runs that --rasterizer names: auto, cuda, cpu or inria.

    auto: `default_device`. cuda: this project's CUDA kernels. inria: the original package, or
    another with its interface. InputError where that cannot be used on this machine.
    """
    if rasterizer not in RASTERIZERS:
        names = ", ".join(RASTERIZERS)
        raise InputError(f"--rasterizer: expected one of {names}, got {rasterizer}")
    if rasterizer == "auto":
        return default_device()
    if rasterizer == "cpu":
        return torch.device("cpu")
    if rasterizer == "inria":
        _check_original()
    else:
        _check_own_kernels()
    return torch.device("cuda")


def _check_original() -> None:
    package = load_required("diff_gaussian_rasterization", "--rasterizer inria", "see docs/gpu.md")
    if hasattr(package, "supported_devices"):
        raise InputError(
            "--rasterizer inria: the installed diff_gaussian_rasterization is this project's: "
            "install the original in its place"
        )
    if not torch.cuda.is_available():
        raise InputError("--rasterizer inria: PyTorch finds no CUDA device on this machine")


def _check_own_kernels() -> None:
    check = load_required("diff_gaussian_rasterization.check", "--rasterizer cuda", _INSTALL)
    try:
        check.machine()
    except check.CudaMissingError as error:
        raise InputError(f"--rasterizer cuda: {str(error).removesuffix('.')}") from error
