# SPDX-License-Identifier: Apache-2.0
"""Adam on a CUDA device; see adam.py, which checks arguments and chooses."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch

from ._cuda import Arguments, KernelRunner, kernels_for, pointer
from .adam import AdamState, check_state


class AdamFactors(Arguments):
    """Mirror of `cuda::AdamFactors`."""

    _fields_ = (
        ("fresh_mean", ctypes.c_float),
        ("beta_variance", ctypes.c_float),
        ("fresh_variance", ctypes.c_float),
        ("epsilon", ctypes.c_float),
        ("step_size", ctypes.c_float),
        ("variance_correction", ctypes.c_float),
    )


class _AdamArguments(Arguments):
    """Mirror of `AdamArguments` in adam.cu."""

    _fields_ = (
        ("parameter", pointer),
        ("gradient", pointer),
        ("mean", pointer),
        ("variance", pointer),
        ("chosen", pointer),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("factors", AdamFactors),
    )


def kernels_on(device: torch.device) -> KernelRunner:
    """The kernels of adam.cu."""
    return kernels_for("adam", device.index)


def adam_step(
    kernels: KernelRunner,
    states: Sequence[AdamState],
    step: int,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """See adam.adam_step."""
    for state in states:
        _launch(kernels, state, None, corrected_factors(state.learning_rate, step, betas, eps))


def update_visible(
    kernels: KernelRunner,
    states: Sequence[AdamState],
    visible: torch.Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """See adam.update_visible."""
    visible = visible.contiguous()
    for state in states:
        _launch(kernels, state, visible, plain_factors(state.learning_rate, betas, eps))


def corrected_factors(
    learning_rate: float, step: int, betas: tuple[float, float], eps: float
) -> AdamFactors:
    """The constants of step `step`, which counts from 1, with its bias correction."""
    step_size = learning_rate / (1.0 - betas[0] ** step)
    return _factors(betas, eps, step_size, 1.0 / math.sqrt(1.0 - betas[1] ** step))


def plain_factors(learning_rate: float, betas: tuple[float, float], eps: float) -> AdamFactors:
    """The constants of a step without bias correction."""
    return _factors(betas, eps, learning_rate, 1.0)


def _factors(
    betas: tuple[float, float], eps: float, step_size: float, variance_correction: float
) -> AdamFactors:
    return AdamFactors(
        fresh_mean=1.0 - betas[0],
        beta_variance=betas[1],
        fresh_variance=1.0 - betas[1],
        epsilon=eps,
        step_size=step_size,
        variance_correction=variance_correction,
    )


def _launch(
    kernels: KernelRunner, state: AdamState, chosen: torch.Tensor | None, factors: AdamFactors
) -> None:
    rows, width = check_state(state, state.parameter.device)
    arguments = _AdamArguments(
        parameter=state.parameter.detach(),
        gradient=state.gradient.detach(),
        mean=state.exp_avg,
        variance=state.exp_avg_sq,
        chosen=chosen,
        rows=rows,
        width=width,
        factors=factors,
    )
    kernels.launch_over("adam_update", rows * width, arguments)
