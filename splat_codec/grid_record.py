# SPDX-License-Identifier: Apache-2.0
"""The record of a version-2 model's grids: one fixed sequence of little-endian numbers."""

import struct
from collections.abc import Callable

import numpy as np

from splat_codec.errors import CorruptFile
from splat_codec.grids import (
    CLASSES,
    MAX_LEVELS,
    EvenGrid,
    Grids,
    LinearRule,
    PositionGrid,
    PrecisionRule,
    Transform,
)

Take = Callable[[int], bytes]


def pack_grids(grids: Grids) -> bytes:
    """The record (docs/format.md, "`model`")."""
    position, precision = grids.position, grids.precision
    return b"".join(
        [
            struct.pack("<B", grids.sh_degree),
            struct.pack("<4f2B", *position.origin, position.cell, position.bits,
                        position.coarse_bits),
            _pack_rule(position.shift),
            _pack_even_grid(grids.opacity),
            _pack_even_grid(grids.scale),
            struct.pack(f"<{grids.opacity.levels}i", *precision.by_opacity),
            struct.pack("<6i", *precision.scale_factors, *precision.centre),
            struct.pack(f"<B{len(precision.radii)}I", len(precision.radii), *precision.radii),
            struct.pack(f"<{len(precision.by_shell)}i", *precision.by_shell),
            struct.pack("<f", grids.rotation_step),
            _pack_rule(grids.rotation_shift),
            struct.pack("<f3i", grids.dc_step, *grids.dc_low),
            grids.dc_transform.matrix.astype("<i2").tobytes(),
            _pack_rule(grids.dc_shift),
            struct.pack(f"<{CLASSES}f", *grids.sh_steps),
            grids.sh_transform.matrix.astype("<i2").tobytes(),
        ]
    )  # fmt: skip


def unpack_grids(take: Take, section: str) -> Grids:
    """The grids whose record `take(number of bytes)` yields; CorruptFile if it is not valid."""
    sh_degree = take(1)[0]
    if sh_degree > 3:
        raise CorruptFile(section, f"SH degree {sh_degree}, at most 3 allowed")
    channels = 3 * ((sh_degree + 1) ** 2 - 1)
    *origin, cell, bits, coarse_bits = _numbers(take, "4f2B")
    shift = _unpack_rule(take, 4)
    opacity, scale = _unpack_even_grid(take, section), _unpack_even_grid(take, section)
    by_opacity = _numbers(take, f"{opacity.levels}i")
    *factors, x, y, z = _numbers(take, "6i")
    radii = _numbers(take, f"{take(1)[0]}I")
    by_shell = _numbers(take, f"{len(radii) + 1}i")
    (rotation_step,), rotation_shift = _numbers(take, "f"), _unpack_rule(take, 4)
    dc_step, *dc_low = _numbers(take, "f3i")
    dc_transform, dc_shift = _unpack_matrix(take, 3), _unpack_rule(take, 1)
    try:
        return Grids(
            sh_degree=sh_degree,
            position=PositionGrid(tuple(origin), cell, bits, coarse_bits, shift),
            opacity=opacity,
            scale=scale,
            precision=PrecisionRule(by_opacity, tuple(factors), (x, y, z), radii, by_shell),
            rotation_step=rotation_step,
            rotation_shift=rotation_shift,
            dc_step=dc_step,
            dc_low=tuple(dc_low),
            dc_transform=dc_transform,
            dc_shift=dc_shift,
            sh_steps=_numbers(take, f"{CLASSES}f"),
            sh_transform=_unpack_matrix(take, channels),
        )
    except ValueError as error:
        raise CorruptFile(section, str(error)) from error


def _pack_rule(rule: LinearRule) -> bytes:
    return struct.pack(f"<Bi{len(rule.factors)}i", rule.most, rule.bias, *rule.factors)


def _unpack_rule(take: Take, factors: int) -> LinearRule:
    most, bias, *rest = _numbers(take, f"Bi{factors}i")
    return LinearRule(bias, tuple(rest), most)


def _pack_even_grid(grid: EvenGrid) -> bytes:
    return struct.pack("<2fH", grid.minimum, grid.step, grid.levels)


def _unpack_even_grid(take: Take, section: str) -> EvenGrid:
    minimum, step, levels = _numbers(take, "2fH")
    if levels > MAX_LEVELS:
        raise CorruptFile(section, f"a grid of {levels} levels, at most {MAX_LEVELS} allowed")
    return EvenGrid(minimum, step, levels)


def _unpack_matrix(take: Take, size: int) -> Transform:
    data = np.frombuffer(take(2 * size * size), "<i2")
    return Transform(data.astype(np.int16).reshape(size, size))


def _numbers(take: Take, layout: str) -> tuple:
    return struct.unpack(f"<{layout}", take(struct.calcsize(f"<{layout}")))
