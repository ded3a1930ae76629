# SPDX-License-Identifier: Apache-2.0
"""Values that are not finite. NumPy only.

Those that are a limit are clamped to a finite value that renders the same. No renderer can show a
Gaussian with any other one: it is dropped before a model is compressed.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from splat_formats.outliers import MOST_OPACITY
from splat_formats.splats import FloatArray, Splats

OPAQUE = np.float32(MOST_OPACITY)  # a logit: its sigmoid in float32 is 1
# A flat Gaussian's log scale is this far below its largest one: at 6e-6 of that size, no image
# shows the thickness.
FLATNESS = np.float32(12)
POINT = np.float32(-20)  # log scale of a Gaussian without any extent

_Test = Callable[[FloatArray], npt.NDArray[np.bool_]]

_OPAQUE = "with opacity +inf: fully opaque"
_FLAT = "with a log scale of -inf: flat"
_UNKNOWN_SH = "with higher SH coefficients that are not finite: these become 0"


@dataclass(frozen=True)
class Repairs:
    """What was done to values that are not finite, in numbers of Gaussians."""

    clamped: Mapping[str, int] = field(default_factory=dict)
    """By what became of them; a Gaussian may be in several."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By the first reason why no image can show them."""

    def plus(self, other: "Repairs") -> "Repairs":
        """What was done to two models together."""
        return Repairs(
            Counter(self.clamped) + Counter(other.clamped),
            Counter(self.dropped) + Counter(other.dropped),
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """A sentence for each kind of value that was clamped, and one for all that were dropped."""
        found = [
            f"{gaussians(self.clamped[what])} {what}"
            for what in (_OPAQUE, _FLAT, _UNKNOWN_SH)
            if what in self.clamped
        ]
        if self.dropped:
            reasons = [reason for reason, _, _ in _REASONS if reason in self.dropped]
            parts = ", ".join(f"{self.dropped[reason]:,} with {reason}" for reason in reasons)
            count = gaussians(sum(self.dropped.values()))
            found.append(f"dropped {count} that no image can show: {parts}")
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Clamped:
    """Gaussians whose limits are clamped to finite values."""

    splats: Splats
    repairs: Repairs

    @property
    def notices(self) -> tuple[str, ...]:
        """See Repairs."""
        return self.repairs.notices


@dataclass(frozen=True, eq=False)
class Showable:
    """The Gaussians of a model that a renderer can show."""

    splats: Splats
    repairs: Repairs
    rows: npt.NDArray[np.intp]
    """(n,) where the Gaussians were in the model."""

    @property
    def notices(self) -> tuple[str, ...]:
        """See Repairs."""
        return self.repairs.notices

    @property
    def dropped(self) -> int:
        """How many Gaussians are left out."""
        return sum(self.repairs.dropped.values())


def clamp_limits(splats: Splats) -> Clamped:
    """Opacity +inf becomes fully opaque, log scale -inf a very small one, and a higher SH
    coefficient that is not finite becomes 0."""
    counts: dict[str, int] = {}
    changed: dict[str, FloatArray] = {}
    opaque = _found(splats.opacity, np.isposinf)
    if opaque.any():
        changed["opacity"] = np.where(opaque, OPAQUE, splats.opacity)
        counts[_OPAQUE] = int(opaque.sum())
    flat = _found(splats.scaling, np.isneginf)
    if flat.any():
        changed["scaling"] = np.where(flat, flat_scale(splats.scaling), splats.scaling)
        counts[_FLAT] = int(flat.any(axis=1).sum())
    unknown = _found(splats.features_rest, _not_finite)
    if unknown.any():
        changed["features_rest"] = np.where(unknown, np.float32(0), splats.features_rest)
        counts[_UNKNOWN_SH] = int(unknown.any(axis=(1, 2)).sum())
    return Clamped(replace(splats, **changed) if changed else splats, Repairs(counts))


def showable(splats: Splats) -> Showable:
    """The Gaussians, with limits clamped, without those that no renderer can show."""
    clamped = clamp_limits(splats)
    splats, reasons = clamped.splats, _undefined_rows(clamped.splats)
    if not reasons:
        return Showable(splats, clamped.repairs, np.arange(splats.count))
    dropped = {reason: int(rows.sum()) for reason, rows in reasons.items()}
    rows = np.flatnonzero(~np.any(list(reasons.values()), axis=0))
    return Showable(splats.rows(rows), replace(clamped.repairs, dropped=dropped), rows)


def flat_scale(scaling: FloatArray) -> FloatArray:
    """(N, 1) log scales along which Gaussians with these other log scales (N, any) are flat."""
    finite = np.where(np.isfinite(scaling), scaling, POINT + FLATNESS)
    return finite.max(axis=1, keepdims=True) - FLATNESS


def zero_rows(splats: Splats) -> int:
    """How many Gaussians have nothing but zeros."""
    rows = np.flatnonzero(splats.rotation[:, 0] == 0)  # few, in most models
    for attribute in fields(splats):
        column = getattr(splats, attribute.name)[rows]
        others = tuple(range(1, column.ndim))
        rows = rows[~column.any(axis=others)]
    return len(rows)


def gaussians(count: int) -> str:
    """The number with its noun: "1 Gaussian", "2 Gaussians"."""
    return f"{count:,} Gaussian{'' if count == 1 else 's'}"


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
