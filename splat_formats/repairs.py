# SPDX-License-Identifier: Apache-2.0
"""Values that are not finite. NumPy only.

Those that are a limit are clamped to a finite value that renders the same. No renderer can show a
Gaussian with any other one: it is dropped before a model is compressed.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from splat_formats.outliers import MOST_OPACITY
from splat_formats.splats import FloatArray, Splats

OPAQUE = np.float32(MOST_OPACITY)  # a logit: its sigmoid in float32 is 1
# A flat Gaussian's log scale is this far below its largest one: at 6e-6 of that size, no image
# shows the thickness.
FLATNESS = np.float32(12)
POINT = np.float32(-20)  # log scale of a Gaussian without any extent

_COUNT = re.compile(r"(\d[\d,]*)( Gaussians?\b|)")  # of a notice

_Test = Callable[[FloatArray], npt.NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Clamped:
    """Gaussians whose limits are clamped to finite values."""

    splats: Splats
    notices: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Showable:
    """The Gaussians of a model that a renderer can show."""

    splats: Splats
    notices: tuple[str, ...]
    dropped: int
    """How many Gaussians are left out."""
    rows: npt.NDArray[np.intp]
    """(n,) where the Gaussians were in the model."""


def clamp_limits(splats: Splats) -> Clamped:
    """Opacity +inf becomes fully opaque, log scale -inf a very small one, and a higher SH
    coefficient that is not finite becomes 0."""
    notices: list[str] = []
    changed: dict[str, FloatArray] = {}
    opaque = _found(splats.opacity, np.isposinf)
    if opaque.any():
        changed["opacity"] = np.where(opaque, OPAQUE, splats.opacity)
        notices.append(f"{gaussians(opaque.sum())} with opacity +inf: fully opaque")
    flat = _found(splats.scaling, np.isneginf)
    if flat.any():
        changed["scaling"] = np.where(flat, flat_scale(splats.scaling), splats.scaling)
        notices.append(f"{gaussians(flat.any(axis=1).sum())} with a log scale of -inf: flat")
    unknown = _found(splats.features_rest, _not_finite)
    if unknown.any():
        changed["features_rest"] = np.where(unknown, np.float32(0), splats.features_rest)
        count = gaussians(unknown.any(axis=(1, 2)).sum())
        notices.append(f"{count} with higher SH coefficients that are not finite: these become 0")
    return Clamped(replace(splats, **changed) if changed else splats, tuple(notices))


def showable(splats: Splats) -> Showable:
    """The Gaussians, with limits clamped, without those that no renderer can show."""
    clamped = clamp_limits(splats)
    splats, reasons = clamped.splats, _undefined_rows(clamped.splats)
    if not reasons:
        return Showable(splats, clamped.notices, 0, np.arange(splats.count))
    lost = np.any(list(reasons.values()), axis=0)
    parts = ", ".join(f"{rows.sum():,} with {reason}" for reason, rows in reasons.items())
    count = int(lost.sum())
    notice = f"dropped {gaussians(count)} that no image can show: {parts}"
    rows = np.flatnonzero(~lost)
    return Showable(splats.rows(rows), (*clamped.notices, notice), count, rows)


def flat_scale(scaling: FloatArray) -> FloatArray:
    """(N, 1) log scales along which Gaussians with these other log scales (N, any) are flat."""
    finite = np.where(np.isfinite(scaling), scaling, POINT + FLATNESS)
    return finite.max(axis=1, keepdims=True) - FLATNESS


def zero_rows(splats: Splats) -> int:
    """How many Gaussians have nothing but zeros."""
    rows = np.flatnonzero(splats.rotation[:, 0] == 0)  # few, in most models
    for field in fields(splats):
        column = getattr(splats, field.name)[rows]
        others = tuple(range(1, column.ndim))
        rows = rows[~column.any(axis=others)]
    return len(rows)


def gaussians(count: int) -> str:
    """The number with its noun: "1 Gaussian", "2 Gaussians"."""
    return f"{count:,} Gaussian{'' if count == 1 else 's'}"


def summed_notices(notices: Iterable[str]) -> tuple[str, ...]:
    """One sentence for those that differ in their numbers only, with the sums of these."""
    sums: dict[str, list[int]] = {}
    for notice in notices:
        counts = [int(found[1].replace(",", "")) for found in _COUNT.finditer(notice)]
        text = _COUNT.sub(lambda found: f"\0{found[2] and ' Gaussian'}", notice)
        sums[text] = [a + b for a, b in zip(sums.get(text, [0] * len(counts)), counts, strict=True)]
    return tuple(_with_counts(text, counts) for text, counts in sums.items())


def _with_counts(text: str, counts: list[int]) -> str:
    first, *parts = text.split("\0")
    for count, part in zip(counts, parts, strict=True):
        is_noun = part.startswith(" Gaussian")
        first += (
            gaussians(count) + part.removeprefix(" Gaussian") if is_noun else f"{count:,}{part}"
        )
    return first


def _undefined_rows(splats: Splats) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Rows that no renderer can show, by the first reason that holds for each."""
    reasons: dict[str, npt.NDArray[np.bool_]] = {}
    earlier = np.zeros(splats.count, bool)
    for reason, names, test in _REASONS:
        for name in names:
            wrong = _found(getattr(splats, name), test)
            if not wrong.any():
                continue
            rows = wrong.reshape(splats.count, -1).any(axis=1) & ~earlier
            earlier |= rows
            if rows.any():
                reasons[reason] = reasons.get(reason, np.False_) | rows
    return reasons


def _not_finite(values: FloatArray) -> npt.NDArray[np.bool_]:
    return ~np.isfinite(values)


_REASONS: tuple[tuple[str, tuple[str, ...], _Test], ...] = (
    ("a position that is not finite", ("xyz",), _not_finite),
    ("opacity -inf", ("opacity",), np.isneginf),
    ("an infinite size", ("scaling",), np.isposinf),
    (
        "an opacity, size, rotation or colour that is not finite",
        ("opacity", "scaling", "rotation", "features_dc"),
        _not_finite,
    ),
)


def _found(values: FloatArray, test: _Test) -> npt.NDArray[np.bool_]:
    """Where the test is true; a single False if all values are finite, as their sum shows."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.add.reduce(values, axis=None)):
            return np.zeros(1, bool)
    return test(values)
