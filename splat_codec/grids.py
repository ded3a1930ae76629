# SPDX-License-Identifier: Apache-2.0
"""The grids of a version-2 model: the meaning of its integers, for each Gaussian.

A Gaussian that changes images little (faint, small or distant) needs little precision: its grids
are coarser. Every Gaussian has a `precision` class, from which its steps follow. Integer rules
predict the class from values that are decoded before it; only the difference is stored.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import for_blocks, small_products
from splat_codec.quantizers import MAX_VALUE

Integers = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

CLASSES = 32
MAX_POSITION_BITS = 21
MAX_SHIFT = 15
MAX_LEVELS = 1 << 12
MATRIX_UNIT = 1 << 12
GREATEST_SYMBOL = 2**15 - 1
"""For colours and for magnitudes of SH."""
MAX_ROTATION_STEP = 2.0**32
"""Keeps the squares of components finite."""


@dataclass(frozen=True)
class LinearRule:
    """A class from integers: clip((bias + sum of factors x integers) >> 16, 0, most)."""

    bias: int
    factors: tuple[int, ...]
    most: int

    def apply(self, *terms: Integers) -> Integers:
        """The class (N,) of integers (N,) below 2^13 each."""
        classes = np.empty(terms[0].shape, np.int32)

        def one(block: slice) -> None:
            total = np.full(terms[0][block].shape, self.bias, np.int64)
            for factor, term in zip(self.factors, terms, strict=True):
                if factor:
                    total += term[block].astype(np.int64) * factor
            classes[block] = np.clip(total >> 16, 0, self.most)

        for_blocks(len(classes), one)
        return classes


@dataclass(frozen=True)
class PrecisionRule:
    """The predicted precision class: 0 is the finest, CLASSES - 1 the coarsest.

    clip((by_opacity[o] + by_shell[shell] + s0 f0 + s1 f1 + s2 f2) >> 16), where `shell` counts the
    radii whose square is at most the squared distance of a Gaussian's coarse cell from `centre`.
    """

    by_opacity: tuple[int, ...]
    """For each level of the opacity grid."""
    scale_factors: tuple[int, int, int]
    centre: tuple[int, int, int] = (0, 0, 0)
    """Coarse cells."""
    radii: tuple[int, ...] = ()
    """Coarse cells, ascending."""
    by_shell: tuple[int, ...] = (0,)
    """One more entry than `radii`."""

    def apply(self, opacity: Integers, scale: Integers, cells: Integers) -> Integers:
        """The classes (N,) of opacity (N,) and scale (N, 3) symbols and coarse cells (N, 3)."""
        by_opacity, by_shell = (np.array(t, np.int64) for t in (self.by_opacity, self.by_shell))
        squared_radii = np.array(self.radii, np.int64) ** 2
        classes = np.empty(len(cells), np.int32)

        def one(block: slice) -> None:
            total = by_opacity.take(opacity[block])
            for axis, factor in enumerate(self.scale_factors):
                total += scale[block, axis].astype(np.int64) * factor
            squared = np.zeros(len(total), np.int64)
            for axis, centre in enumerate(self.centre):
                squared += (cells[block, axis].astype(np.int64) - centre) ** 2
            total += by_shell.take(np.searchsorted(squared_radii, squared, side="right"))
            classes[block] = np.clip(total >> 16, 0, CLASSES - 1)

        for_blocks(len(classes), one)
        return classes


@dataclass(frozen=True)
class EvenGrid:
    """An even grid: minimum + step x symbol, symbols 0 ... levels - 1; float32 numbers."""

    minimum: float
    step: float
    levels: int

    def symbols(self, values: FloatArray) -> Integers:
        """The nearest symbols; values outside the grid get its first or last symbol."""
        scaled = (values - np.float32(self.minimum)) / np.float32(self.step)
        return np.clip(np.rint(scaled), 0, self.levels - 1).astype(np.int32)

    def values(self, symbols: Integers) -> FloatArray:
        """The float32 values: product and sum are each rounded once."""
        scaled = symbols.astype(np.float32) * np.float32(self.step)
        return scaled + np.float32(self.minimum)


@dataclass(frozen=True, eq=False)
class Transform:
    """Integers to channels: row vector x matrix / 4096, exact up to one final rounding."""

    matrix: npt.NDArray[np.int16]
    """(C, C)."""

    def greatest_sum(self) -> int:
        """The greatest sum of magnitudes in a column."""
        return int(np.abs(self.matrix.astype(np.int64)).sum(axis=0).max(initial=0))

    def inverse(self, symbols: npt.NDArray[np.signedinteger]) -> FloatArray:
        """symbols (N, C) x matrix as float32 (N, C), not divided by 4096.

        Sums of integers below 2^24 are exact in float32, and below 2^53 in float64, in whatever
        order a matrix product adds them up: every platform gets the same bits.
        """
        greatest_sum = self.greatest_sum()
        greatest = max(int(symbols.max(initial=0)), -int(symbols.min(initial=0)))
        if greatest_sum * greatest < 2**24:
            return small_products(symbols.astype(np.float32), self.matrix.astype(np.float32))
        exact = small_products(symbols.astype(np.float64), self.matrix.astype(np.float64))
        return exact.astype(np.float32)

    def forward(self, values: FloatArray) -> FloatArray:
        """Coordinates (N, C), not yet divided by a step, whose inverse is close to `values`."""
        return small_products(values, self.inverse_matrix())

    def inverse_matrix(self) -> FloatArray:
        """(C, C): the inverse of matrix / MATRIX_UNIT."""
        return np.linalg.inv(self.matrix.astype(np.float64) / MATRIX_UNIT).astype(np.float32)


@dataclass(frozen=True)
class PositionGrid:
    """Cubic cells: coordinate = origin + cell x (integer + (2^shift >> 1))."""

    origin: tuple[float, float, float]
    cell: float
    bits: int
    coarse_bits: int
    """The octree's levels."""
    shift: LinearRule
    """Number of low bits not stored for a Gaussian, from precision class, s0, s1, s2."""


@dataclass(frozen=True, eq=False)
class Grids:
    """Everything that turns a model's integers into values."""

    sh_degree: int
    position: PositionGrid
    opacity: EvenGrid
    scale: EvenGrid
    precision: PrecisionRule
    rotation_step: float
    rotation_shift: LinearRule
    """From precision class, s0, s1, s2."""
    dc_step: float
    dc_low: tuple[int, int, int]
    """The value of symbol 0 of each transformed colour channel, in steps."""
    dc_transform: Transform
    dc_shift: LinearRule
    """From precision class."""
    sh_steps: tuple[float, ...]
    """One float32 step a precision class."""
    sh_transform: Transform

    def __post_init__(self) -> None:
        _check(self)

    def sh_steps_per_unit(self) -> FloatArray:
        """(CLASSES,): one unit of a transformed SH coefficient in steps of each class."""
        return np.float32(1) / (np.array(self.sh_steps, np.float32) * np.float32(MATRIX_UNIT))

    @property
    def sh_channels(self) -> int:
        """Higher SH coefficients of all three colours."""
        return 3 * ((self.sh_degree + 1) ** 2 - 1)


def _check(grids: Grids) -> None:
    """ValueError unless every number is within the format's limits."""
    position, channels = grids.position, grids.sh_channels
    steps = [position.cell, grids.opacity.step, grids.scale.step, grids.rotation_step]
    steps += [grids.dc_step, *grids.sh_steps]
    numbers = [*position.origin, grids.opacity.minimum, grids.scale.minimum, *steps]
    rules = [position.shift, grids.rotation_shift, grids.dc_shift]
    precision = grids.precision
    greatest = _greatest_values(grids) if np.isfinite(np.array(numbers, np.float32)).all() else [0]
    factors = [f for rule in rules for f in (rule.bias, *rule.factors)]
    factors += [*precision.by_opacity, *precision.scale_factors, *precision.by_shell]
    limits = {
        "SH degree": 0 <= grids.sh_degree <= 3,
        "number": bool(np.isfinite(np.array(numbers, np.float32)).all()),
        "step": bool((np.array(steps, np.float32) > 0).all()),
        "rotation step": grids.rotation_step <= MAX_ROTATION_STEP,
        "decoded value": max(greatest) <= MAX_VALUE,
        "position bits": 1 <= position.coarse_bits <= position.bits <= MAX_POSITION_BITS,
        "position shift": position.shift.most <= position.bits - position.coarse_bits,
        "levels": all(2 <= grid.levels <= MAX_LEVELS for grid in (grids.opacity, grids.scale)),
        "rule": all(0 <= rule.most <= MAX_SHIFT for rule in rules),
        "factor": all(abs(factor) < 2**31 for factor in factors),
        "opacity rule": len(precision.by_opacity) == grids.opacity.levels,
        "shells": len(precision.by_shell) == len(precision.radii) + 1 <= 64,
        "radii": sorted(precision.radii) == list(precision.radii)
        and all(0 <= r < 2**24 for r in precision.radii),
        "centre": all(abs(c) < 2**24 for c in precision.centre),
        "DC offset": all(abs(low) < 2**15 for low in grids.dc_low),
        "SH steps": len(grids.sh_steps) == CLASSES,
        "transform": grids.dc_transform.matrix.shape == (3, 3)
        and grids.sh_transform.matrix.shape == (channels, channels),
    }
    for what, holds in limits.items():
        if not holds:
            raise ValueError(f"grids: {what} out of range")


def _greatest_values(grids: Grids) -> list[float]:
    """Bounds of the magnitudes that the integers of a file can decode to."""
    position = grids.position
    dc = (2**15 << max(0, min(grids.dc_shift.most, MAX_SHIFT))) + max(map(abs, grids.dc_low))
    return [
        *(abs(origin) + position.cell * 2.0**position.bits for origin in position.origin),
        *(
            abs(grid.minimum) + grid.step * float(grid.levels)
            for grid in (grids.opacity, grids.scale)
        ),
        dc * grids.dc_transform.greatest_sum() * grids.dc_step,
        2.0**15 * grids.sh_transform.greatest_sum() * max(grids.sh_steps),
    ]
