# SPDX-License-Identifier: Apache-2.0
"""The device of models and cameras whose caller does not choose one."""

from functools import cache

import torch

from utils.optional_modules import load, supported_devices


@cache
def default_device() -> torch.device:
    """CUDA if there is such a device and the installed rasteriser can use it, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Loaded only where there is a GPU: loading a model on a CPU needs no rasteriser.
    package = load("diff_gaussian_rasterization")
    is_usable = package is not None and "cuda" in supported_devices(package)
    return torch.device("cuda" if is_usable else "cpu")
