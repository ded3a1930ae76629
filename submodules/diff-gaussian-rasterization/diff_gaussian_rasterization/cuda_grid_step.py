# SPDX-License-Identifier: Apache-2.0
"""Adam on the grids of a version-2 file on a CUDA device; see grid_step.py."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from . import grid_step
from ._cuda import Arguments, KernelRunner, kernels_for, pointer
from .cuda_adam import AdamFactors

_GROUP = 32  # Gaussians of a block, of grid_step.cu


class _Attribute(Arguments):
    """Mirror of `Attribute` in grid_step.cu."""

    _fields_ = (
        ("parameter", pointer),
        ("gradient", pointer),
        ("mean", pointer),
        ("variance", pointer),
        ("seen", pointer),
        ("factors", AdamFactors),
    )


class _GridArguments(Arguments):
    """Mirror of `GridArguments` in grid_step.cu."""

    _fields_ = (
        ("grids", grid_step.Constants),
        ("sh_matrix", pointer),
        *((name, _Attribute) for name in ("xyz", "dc", "rest", "opacity", "scaling", "rotation")),
        ("classes", pointer),
        ("far", pointer),
        ("count", ctypes.c_int64),
        ("channels", ctypes.c_int32),
    )


class _PullBackArguments(Arguments):
    """Mirror of `PullBackArguments` in grid_step.cu."""

    _fields_ = (
        ("gradients", pointer),
        ("sh_matrix", pointer),
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("sh_unit", ctypes.c_float),
    )


def kernels_on(device: torch.device) -> KernelRunner:
    """The kernels of grid_step.cu."""
    return kernels_for("grid_step", device.index)


def pull_back(kernels: KernelRunner, gradients: Tensor, matrix: Tensor, unit: float) -> None:
    """See GridStep.pull_back."""
    rows, channels = len(gradients), len(matrix)
    arguments = _PullBackArguments(
        gradients=gradients, sh_matrix=matrix, rows=rows, channels=channels, sh_unit=unit
    )
    if channels:
        kernels.launch("grid_pull_back", -(-rows // _GROUP), arguments)


def step(
    kernels: KernelRunner,
    model: grid_step.SeenModel,
    constants: grid_step.Constants,
    matrix: Tensor,
    rows: tuple[Tensor, Tensor],
    factors: Mapping[str, AdamFactors],
) -> None:
    """See GridStep. `rows` are the classes and `far`; `factors` by the names of SeenModel."""
    classes, far = rows
    attributes = {
        name.removeprefix("features_"): _attribute(state, factors[name])
        for name, state in zip(model._fields, model, strict=True)
    }
    count, channels = len(classes), len(matrix)
    arguments = _GridArguments(
        grids=constants,
        sh_matrix=matrix,
        **attributes,
        classes=classes,
        far=far,
        count=count,
        channels=channels,
    )
    if channels:
        kernels.launch("grid_harmonics", -(-count // _GROUP), arguments)
    kernels.launch_over("grid_small", count, arguments)


def _attribute(state: grid_step.SeenState, factors: AdamFactors) -> _Attribute:
    return _Attribute(
        parameter=state.adam.parameter.detach(),
        gradient=state.adam.gradient.detach(),
        mean=state.adam.exp_avg,
        variance=state.adam.exp_avg_sq,
        seen=state.seen,
        factors=factors,
    )
