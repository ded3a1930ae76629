# SPDX-License-Identifier: Apache-2.0
"""Which device models and cameras live on when the caller does not say."""

from functools import cache

import torch

from utils.optional_modules import load

# The original CUDA packages carry no `supported_devices`: they run on CUDA only.
ORIGINAL_DEVICES = ("cuda",)


@cache
def default_device() -> torch.device:
    """CUDA if there is such a device and the installed rasteriser can use it, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Here and not above: without a GPU the answer is known, and loading a model needs no kernels.
    package = load("diff_gaussian_rasterization")
    supported = getattr(package, "supported_devices", ORIGINAL_DEVICES) if package else ()
    return torch.device("cuda" if "cuda" in supported else "cpu")
