# SPDX-License-Identifier: Apache-2.0
"""Which device models and cameras live on when the caller does not say."""

from functools import cache

import torch

# The original CUDA packages carry no `supported_devices`: they run on CUDA only.
ORIGINAL_DEVICES = ("cuda",)


@cache
def default_device() -> torch.device:
    """CUDA if there is such a device and the installed rasteriser can use it, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Imported here: without a GPU there is nothing to ask it, and loading a model needs no kernels.
    import diff_gaussian_rasterization as package

    supported = getattr(package, "supported_devices", ORIGINAL_DEVICES)
    return torch.device("cuda" if "cuda" in supported else "cpu")
