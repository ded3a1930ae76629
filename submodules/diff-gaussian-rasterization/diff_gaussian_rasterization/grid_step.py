# SPDX-License-Identifier: Apache-2.0
"""Adam on the grids of a version-2 file, fused: step, symbols and decoded values in one pass.

`seen` is the decoded value of a parameter, which the renderer uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from . import native
from .adam import AdamState, check_state, check_step, corrected_group
from .native import address, checked
from .straight_through import EvenGrid as EvenGrid

CLASSES = 32
SH_CHANNELS = (0, 9, 24, 45)


class Rule(NamedTuple):
    """Bits from integers: clip((bias + factors . (class, three scale symbols)) >> 16, 0, most)."""

    bias: int
    factors: tuple[int, ...]
    """Four."""
    most: int
    """At most 15."""


class Cells(NamedTuple):
    """Cubic cells from `origin` on, 2^bits a side; `shift` low bits are dropped."""

    origin: tuple[float, float, float]
    cell: float
    bits: int
    shift: Rule


class Turns(NamedTuple):
    """x, y, z of unit quaternions with w >= 0, in steps << shift."""

    step: float
    shift: Rule


class Colour(NamedTuple):
    """DC: symbols are (dc x forward / unit - low) / size, rounded.

    Decoded values are (symbols x size + low) x inverse x step.
    """

    forward: torch.Tensor
    """(3, 3)"""
    unit: float
    inverse: torch.Tensor
    """(3, 3) whole numbers."""
    step: float
    low: tuple[int, int, int]
    size: torch.Tensor
    """(32,) by class: powers of two."""


class Harmonics(NamedTuple):
    """Higher SH: symbols are coordinates x steps_per_unit, rounded.

    Decoded values are symbols x matrix x step. Rounding adds `rounding` (at least 0 and below 1) to
    the magnitude and truncates.
    """

    matrix: torch.Tensor
    """(C, C) whole numbers."""
    unit: float
    """The number for 1 in `matrix`: gradients by coordinates are gradients x matrix^T / unit."""
    step: torch.Tensor
    """(32,) by class."""
    steps_per_unit: torch.Tensor
    """(32,) by class."""
    rounding: float


class Grids(NamedTuple):
    """All grids of a model. Float32 arithmetic and tensors, without fused multiply-adds."""

    position: Cells
    opacity: EvenGrid
    scale: EvenGrid
    rotation: Turns
    colour: Colour
    harmonics: Harmonics


class SeenState(NamedTuple):
    """A parameter's Adam state, and the tensor for its decoded values."""

    adam: AdamState
    seen: torch.Tensor


class SeenModel(NamedTuple):
    """Tensors as `raw.RawGaussians` has them; `features_rest`: coordinates, its `seen`: SH."""

    xyz: SeenState
    features_dc: SeenState
    features_rest: SeenState
    opacity: SeenState
    scaling: SeenState
    rotation: SeenState


class _EvenGrid(ctypes.Structure):
    """Mirror of `rasterizer::EvenGrid`."""

    _fields_ = [(name, ctypes.c_float) for name in ("minimum", "step", "top")]


class _Rule(ctypes.Structure):
    """Mirror of `rasterizer::LinearRule`."""

    _fields_ = [
        ("bias", ctypes.c_int64),
        ("factors", ctypes.c_int64 * 4),
        ("most", ctypes.c_int64),
    ]


class Constants(ctypes.Structure):
    """Mirror of `rasterizer::GridConstants`."""

    _fields_ = [
        ("origin", ctypes.c_float * 3),
        ("cell", ctypes.c_float),
        ("top_cell", ctypes.c_float),
        ("rotation_step", ctypes.c_float),
        ("opacity", _EvenGrid),
        ("scale", _EvenGrid),
        ("position_shift", _Rule),
        ("rotation_shift", _Rule),
        ("dc_forward", ctypes.c_float * 9),
        ("dc_unit", ctypes.c_float),
        ("dc_inverse", ctypes.c_float * 9),
        ("dc_step", ctypes.c_float),
        ("dc_low", ctypes.c_float * 3),
        ("dc_size", ctypes.c_float * CLASSES),
        ("sh_step", ctypes.c_float * CLASSES),
        ("sh_steps_per_unit", ctypes.c_float * CLASSES),
        ("sh_matrix", ctypes.c_void_p),
        ("sh_unit", ctypes.c_float),
        ("sh_rounding", ctypes.c_float),
    ]


class _Attribute(ctypes.Structure):
    """Mirror of `rasterizer::GridAttribute`."""

    _fields_ = [("adam", native.AdamGroup), ("seen", ctypes.c_void_p)]


class _Model(ctypes.Structure):
    """Mirror of `rasterizer::GridModel`."""

    _fields_ = [
        ("count", ctypes.c_int64),
        *((name, _Attribute) for name in SeenModel._fields),
        ("classes", ctypes.c_void_p),
        ("far", ctypes.c_void_p),
    ]


native.library.grid_pull_back.argtypes = [
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.POINTER(Constants),
    ctypes.c_int32,
    ctypes.c_int32,
]
native.library.grid_update.argtypes = [
    ctypes.POINTER(_Model),
    ctypes.POINTER(Constants),
    ctypes.POINTER(native.AdamConstants),
    ctypes.c_int32,
]


class GridStep:
    """The step of one model with fixed grids and precision classes."""

    def __init__(self, grids: Grids, classes: torch.Tensor, far: torch.Tensor) -> None:
        """`classes` uint8 (N,) below 32; `far` bool (N,): rows whose centres are not rounded.

        ValueError for tensors of another type or shape, and for values out of range.
        """
        self._count, self._device = len(classes), native.kernel_device(classes)
        self._classes = _checked_rows("classes", classes, torch.uint8, self._count, self._device)
        self._far = _checked_rows("far", far, torch.bool, self._count, self._device)
        if self._count and int(classes.max()) >= CLASSES:
            raise ValueError(f"classes must be below {CLASSES}, not {int(classes.max())}.")
        matrix = grids.harmonics.matrix
        self._channels = len(matrix)
        if self._channels not in SH_CHANNELS:
            raise ValueError(f"matrix must have one of {SH_CHANNELS} rows, not {len(matrix)}.")
        self._matrix = checked("matrix", matrix, (self._channels,) * 2, device=self._device)
        self._constants = _constants_of(grids, self._matrix)

    def pull_back(self, gradients: torch.Tensor) -> None:
        """Turns gradients (N, K, 3) for decoded SH, in place, into those for the coordinates.

        float32, on the device of the classes, contiguous; else ValueError.
        """
        shape = (self._count, self._channels // 3, 3)
        checked("gradients", gradients, shape, written=True, device=self._device)
        if native.on_cuda(self._classes):
            from . import cuda_grid_step

            kernels = cuda_grid_step.kernels_on(self._device)
            cuda_grid_step.pull_back(kernels, gradients, self._matrix, self._constants.sh_unit)
            return
        threads = torch.get_num_threads()
        native.check_status(
            native.library.grid_pull_back(
                address(gradients), self._count, self._constants, self._channels, threads
            )
        )

    def __call__(
        self,
        model: SeenModel,
        step: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
    ) -> None:
        """Update parameters, moments and decoded values in place. Gradients are for the parameters.

        `step` counts from 1. Tensors are float32, on the device of the classes, contiguous; else
        ValueError.
        """
        check_step(step)
        widths = dict(zip(SeenModel._fields, (3, 3, self._channels, 1, 3, 4), strict=True))
        if native.on_cuda(self._classes):
            self._step_on_cuda(model, widths, step, betas, eps)
            return
        attributes = [
            self._attribute(name, state, widths[name], step, betas)
            for name, state in zip(SeenModel._fields, model, strict=True)
        ]
        native.check_status(
            native.library.grid_update(
                _Model(self._count, *attributes, address(self._classes), address(self._far)),
                self._constants,
                native.AdamConstants(*betas, eps),
                torch.get_num_threads(),
            )
        )

    def _step_on_cuda(
        self,
        model: SeenModel,
        widths: dict[str, int],
        step: int,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        from . import cuda_adam, cuda_grid_step

        for name, state in zip(SeenModel._fields, model, strict=True):
            self._check_attribute(name, state, widths[name])
            check_state(state.adam, self._device)
        factors = {
            name: cuda_adam.corrected_factors(state.adam.learning_rate, step, betas, eps)
            for name, state in zip(SeenModel._fields, model, strict=True)
        }
        kernels, rows = cuda_grid_step.kernels_on(self._device), (self._classes, self._far)
        cuda_grid_step.step(kernels, model, self._constants, self._matrix, rows, factors)

    def _attribute(
        self, name: str, state: SeenState, width: int, step: int, betas: tuple[float, float]
    ) -> _Attribute:
        self._check_attribute(name, state, width)
        group = corrected_group(state.adam, step, betas)
        group.width = width  # cannot be derived from a tensor without rows
        return _Attribute(group, address(state.seen))

    def _check_attribute(self, name: str, state: SeenState, width: int) -> None:
        parameter = state.adam.parameter
        if len(parameter) != self._count or parameter.numel() != self._count * width:
            raise ValueError(
                f"{name} must have {self._count} rows of {width} numbers, not the shape "
                f"{tuple(parameter.shape)}."
            )
        shape = tuple(parameter.shape)
        checked(f"{name} as seen", state.seen, shape, written=True, device=self._device)


def _constants_of(grids: Grids, matrix: torch.Tensor) -> Constants:
    position, colour, harmonics = grids.position, grids.colour, grids.harmonics
    if not 0 <= harmonics.rounding < 1:
        raise ValueError(f"rounding must be at least 0 and below 1, not {harmonics.rounding}.")
    return Constants(
        origin=position.origin,
        cell=position.cell,
        top_cell=2**position.bits - 1,
        rotation_step=grids.rotation.step,
        opacity=_even_grid(grids.opacity),
        scale=_even_grid(grids.scale),
        position_shift=_rule(position.shift),
        rotation_shift=_rule(grids.rotation.shift),
        dc_forward=_floats("forward", colour.forward, (3, 3)),
        dc_unit=colour.unit,
        dc_inverse=_floats("inverse", colour.inverse, (3, 3)),
        dc_step=colour.step,
        dc_low=colour.low,
        dc_size=_floats("size", colour.size, (CLASSES,)),
        sh_step=_floats("step", harmonics.step, (CLASSES,)),
        sh_steps_per_unit=_floats("steps_per_unit", harmonics.steps_per_unit, (CLASSES,)),
        sh_matrix=address(matrix),
        sh_unit=harmonics.unit,
        sh_rounding=harmonics.rounding,
    )


def _checked_rows(
    name: str, rows: torch.Tensor, dtype: torch.dtype, count: int, device: torch.device
) -> torch.Tensor:
    if rows.dtype != dtype or rows.shape != (count,) or rows.device != device:
        place = native.name_of(device)
        raise ValueError(f"{name} must be a {dtype} tensor ({count},) on {place}.")
    return rows.contiguous()


def _floats(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> ctypes.Array[ctypes.c_float]:
    numbers = checked(name, tensor, shape, device=native.kernel_device(tensor)).flatten().tolist()
    return (ctypes.c_float * len(numbers))(*numbers)


def _even_grid(grid: EvenGrid) -> _EvenGrid:
    return _EvenGrid(grid.minimum, grid.step, grid.levels - 1)


def _rule(rule: Rule) -> _Rule:
    if len(rule.factors) != 4 or not 0 <= rule.most <= 15:
        raise ValueError(f"a rule must have four factors and a `most` of 0 to 15, not {rule}.")
    return _Rule(rule.bias, (ctypes.c_int64 * 4)(*rule.factors), rule.most)
