# SPDX-License-Identifier: Apache-2.0
"""The device of models and cameras: by what is installed, or as the option --rasterizer chooses."""

import logging
from functools import cache
from types import ModuleType

import torch

from arguments import RASTERIZERS
from utils.errors import InputError
from utils.logged_once import log_once
from utils.optional_modules import load, load_required, supported_devices

logger = logging.getLogger(__name__)

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
    """The device on which the rasteriser runs that --rasterizer names, one of RASTERIZERS.

    auto: `default_device`. cuda: this project's CUDA kernels. inria: the original package, or
    another with its interface. gswarp, gsplat: these packages. InputError where that cannot be
    used on this machine.
    """
    if rasterizer not in RASTERIZERS:
        names = ", ".join(RASTERIZERS)
        raise InputError(f"--rasterizer: expected one of {names}, got {rasterizer}")
    if rasterizer == "auto":
        return default_device()
    if rasterizer == "cpu":
        return torch.device("cpu")
    check = {
        "inria": _check_original,
        "gswarp": required_gswarp,
        "gsplat": required_gsplat,
        "cuda": _check_own_kernels,
    }[rasterizer]
    check()
    if not torch.cuda.is_available():
        raise InputError(f"--rasterizer {rasterizer}: PyTorch finds no CUDA device on this machine")
    return torch.device("cuda")


def required_gswarp() -> ModuleType:
    """The package gswarp. InputError where it cannot be imported."""
    return _peer("gswarp", "1.1.0")


def required_gsplat() -> ModuleType:
    """The package gsplat. InputError where it cannot be imported."""
    return _peer("gsplat", "1.5.3")


def _peer(name: str, version: str) -> ModuleType:
    package = load_required(name, f"--rasterizer {name}", f"pip install {name}=={version}")
    if (found := getattr(package, "__version__", version)) != version:
        text = f"{name} {found} is installed: --rasterizer {name} was written for {version}"
        log_once(logger, text, logging.WARNING)
    return package


def _check_original() -> None:
    package = load_required("diff_gaussian_rasterization", "--rasterizer inria", "see docs/gpu.md")
    if hasattr(package, "supported_devices"):
        raise InputError(
            "--rasterizer inria: the installed diff_gaussian_rasterization is this project's: "
            "install the original in its place"
        )


def _check_own_kernels() -> None:
    check = load_required("diff_gaussian_rasterization.check", "--rasterizer cuda", _INSTALL)
    try:
        check.machine()
    except check.CudaMissingError as error:
        raise InputError(f"--rasterizer cuda: {str(error).removesuffix('.')}") from error
