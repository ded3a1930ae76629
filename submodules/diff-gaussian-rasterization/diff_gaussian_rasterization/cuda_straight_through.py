# SPDX-License-Identifier: Apache-2.0
"""Adam under fake quantisation on a CUDA device; see straight_through.py."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from . import straight_through
from ._cuda import Arguments, KernelRunner, kernels_for, pointer
from .adam import check_state
from .cuda_adam import AdamFactors, corrected_factors

_BLOCK_NUMBERS = 2048  # of straight_through.cu


class _StraightThroughArguments(Arguments):
    """Mirror of `StraightThroughArguments` in straight_through.cu."""

    _fields_ = (
        ("parameter", pointer),
        ("gradient", pointer),
        ("mean", pointer),
        ("variance", pointer),
        ("seen", pointer),
        ("ranges", pointer),
        ("range", pointer),
        ("count", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("factors", AdamFactors),
        ("kind", ctypes.c_int32),
        ("minimum", ctypes.c_float),
        ("step", ctypes.c_float),
        ("top", ctypes.c_float),
    )


def kernels_on(device: torch.device) -> KernelRunner:
    """The kernels of straight_through.cu."""
    return kernels_for("straight_through", device.index)


def step(
    kernels: KernelRunner,
    states: Sequence[straight_through.QuantizedState],
    number: int,
    betas: tuple[float, float],
    eps: float,
) -> Tensor:
    """Range (low, high) of each parameter after step `number`, (S, 2); 0, 0 of an empty one.

    See straight_through.straight_through_step.
    """
    device = states[0].adam.parameter.device
    ranges = torch.zeros((len(states), 2), device=device)
    for state, place in zip(states, ranges, strict=True):
        check_state(state.adam, device)
        straight_through.check_seen(state, device)
        _launch(
            kernels, state, corrected_factors(state.adam.learning_rate, number, betas, eps), place
        )
    return ranges


def _launch(
    kernels: KernelRunner,
    state: straight_through.QuantizedState,
    factors: AdamFactors,
    place: Tensor,
) -> None:
    count = state.adam.parameter.numel()
    if count == 0:
        return
    blocks = -(-count // _BLOCK_NUMBERS)
    grid = state.grid or straight_through.NO_GRID
    arguments = _StraightThroughArguments(
        parameter=state.adam.parameter.detach(),
        gradient=state.adam.gradient.detach(),
        mean=state.adam.exp_avg,
        variance=state.adam.exp_avg_sq,
        seen=state.seen,
        ranges=place.new_empty((blocks, 2)),
        range=place,
        count=count,
        blocks=blocks,
        factors=factors,
        kind=straight_through.kind_of(state),
        minimum=grid.minimum,
        step=grid.step,
        top=grid.levels - 1,
    )
    kernels.launch("straight_through_update", blocks, arguments)
    kernels.launch("join_ranges", 1, arguments)
