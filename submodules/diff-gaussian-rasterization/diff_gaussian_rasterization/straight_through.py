# SPDX-License-Identifier: Apache-2.0
"""Adam under fake quantisation, fused: step, range and quantised values in one pass over memory.

`seen` is the quantised value of a parameter, which the renderer uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from . import native
from .adam import AdamState, check_step, corrected_group
from .native import address, checked

EXACT, HALF, GRID = 0, 1, 2


class EvenGrid(NamedTuple):
    """value = minimum + step x symbol, symbols 0 ... levels - 1; float32, not fused."""

    minimum: float
    step: float
    levels: int


NO_GRID = EvenGrid(0.0, 1.0, 1)


class QuantizedState(NamedTuple):
    """A parameter's Adam state and its quantisation."""

    adam: AdamState
    seen: torch.Tensor | None
    """The quantised values, rewritten by the step; None if the parameter is not quantised."""
    grid: EvenGrid | None
    """None: half precision (or no quantisation, if `seen` is None)."""


class Range(NamedTuple):
    """Least and greatest parameter after the step; 0, 0 of an empty tensor."""

    low: float
    high: float


class _Group(ctypes.Structure):
    """Mirror of `rasterizer::StraightThroughGroup`."""

    _fields_ = [
        ("adam", native.AdamGroup),
        ("seen", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("minimum", ctypes.c_float),
        ("step", ctypes.c_float),
        ("top", ctypes.c_float),
    ]


class _Range(ctypes.Structure):
    """Mirror of `rasterizer::ParameterRange`."""

    _fields_ = [("low", ctypes.c_float), ("high", ctypes.c_float)]


native.library.straight_through_update.argtypes = [
    ctypes.POINTER(_Group),
    ctypes.c_int32,
    ctypes.POINTER(native.AdamConstants),
    ctypes.POINTER(_Range),
    ctypes.c_int32,
]


def straight_through_step(
    states: Sequence[QuantizedState],
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> list[Range]:
    """Update parameters, moments and quantised values in place; the new range of each parameter.

    `step` counts from 1. Tensors are float32, on one device, contiguous; else ValueError. On a CUDA
    device this waits for the ranges.
    """
    check_step(step)
    if states and native.on_cuda(states[0].adam.parameter):
        from . import cuda_straight_through

        kernels = cuda_straight_through.kernels_on(states[0].adam.parameter.device)
        found = cuda_straight_through.step(kernels, states, step, betas, eps)
        return [Range(*pair) for pair in found.tolist()]
    groups = (_Group * len(states))(*(_group(state, step, betas) for state in states))
    ranges = (_Range * len(states))()
    native.check_status(
        native.library.straight_through_update(
            groups,
            len(states),
            native.AdamConstants(*betas, eps),
            ranges,
            torch.get_num_threads(),
        )
    )
    return [Range(each.low, each.high) for each in ranges]


def _group(state: QuantizedState, step: int, betas: tuple[float, float]) -> _Group:
    check_seen(state, native.CPU)
    grid = state.grid or NO_GRID
    return _Group(
        corrected_group(state.adam, step, betas),
        address(state.seen),
        kind_of(state),
        grid.minimum,
        grid.step,
        grid.levels - 1,
    )


def check_seen(state: QuantizedState, device: torch.device) -> None:
    """ValueError unless `seen` fits to the parameter and the grid."""
    if state.seen is not None:
        shape = tuple(state.adam.parameter.shape)
        checked("seen", state.seen, shape, written=True, device=device)
    elif state.grid is not None:
        raise ValueError("a grid needs a tensor `seen`.")


def kind_of(state: QuantizedState) -> int:
    """EXACT, HALF or GRID."""
    return EXACT if state.seen is None else HALF if state.grid is None else GRID
