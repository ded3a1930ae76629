# SPDX-License-Identifier: Apache-2.0
"""Sums over views by the rasteriser package's kernels, where it has them, else by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from utils.optional_modules import installed

KERNEL_MODULE = "diff_gaussian_rasterization.statistics"


def statistics_kernels(device: torch.device) -> Any | None:
    """The module with the kernels, if they run on `device`."""
    return _kernels() if device.type == "cpu" else None


@cache
def _kernels() -> Any | None:
    return import_module(KERNEL_MODULE) if installed(KERNEL_MODULE) else None


@torch.no_grad()
def add_to(totals: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
    """Add each part to its total, in place."""
    kernels = statistics_kernels(totals[0].device) if totals else None
    if kernels is not None:
        kernels.add_to(totals, parts)
        return
    for total, part in zip(totals, parts, strict=True):
        total.add_(part)
