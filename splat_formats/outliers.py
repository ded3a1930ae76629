# SPDX-License-Identifier: Apache-2.0
"""Numbers that would make the grids of all Gaussians coarse: clamped, dropped or stored exactly.

A grid spans all its numbers, so one number far from the others makes it coarse, or long. Therefore
opacities are clamped to where their sigmoid is 0 or 1 in float32; Gaussians that no image shows are
dropped; and scales and colours far from all others are stored exactly, and replaced on the grid by
a stand-in in the range of the others.
"""

import logging
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from splat_codec.exact_values import FIRST_CHANNELS, NONE, ExactValues
from splat_formats.splats import FloatArray, Splats

MOST_OPACITY = 17.0
"""Logit: above 16.64 the sigmoid is 1 in float32, and below -17 the alpha is less than 2^-24."""
LEAST_VISIBLE_OPACITY = -5.55
"""Logit: below -5.54 an alpha is less than 1/255 everywhere, and rasterisers skip it."""

_REACH = {"scaling": 3.0, "features_dc": 8.0, "features_rest": 8.0}
"""How far numbers may lie beyond the middle 99 %, in widths of these."""
_FREE_REACH = {"scaling": 4.0, "features_dc": 4.0, "features_rest": 2.0}
"""At least this far, in the attribute's units: this makes a grid hardly longer."""
_WIDEST = np.float32(110)
"""Log scale: beyond, a standard deviation is 0 or infinite in float32. No grid reaches farther,
even where many Gaussians, or one of a few, have such numbers."""
_GREATEST_COLOUR = np.float32(1e9)
"""Of a coefficient: sums of squares of greater ones overflow where grids are designed."""
_SAMPLE = 1 << 17
_SAMPLE_OF_ENDS = 1 << 14

_Number = TypeVar("_Number", bound=np.generic)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adjustments:
    """What was done to a model before it was put on grids, in numbers of Gaussians."""

    opacities_clamped: int = 0
    invisible_dropped: int = 0
    stored_exactly: int = 0
    """With one number or more beyond its grid."""
    colours_limited: int = 0
    """Where the file cannot hold such numbers (version 1)."""

    def __str__(self) -> str:
        parts = {
            "with an opacity clamped to where the sigmoid is 0 or 1": self.opacities_clamped,
            "dropped because no image can show them (alpha below 1/255)": self.invisible_dropped,
            "with numbers far from all others, stored exactly": self.stored_exactly,
            "with colours far from all others, moved to the edge of the grid": self.colours_limited,
        }
        return "; ".join(f"Gaussians {what}: {count:,}" for what, count in parts.items() if count)

    def plus(self, other: "Adjustments") -> "Adjustments":
        """What was done to two models together."""
        names = (field.name for field in fields(self))
        return Adjustments(*(getattr(self, name) + getattr(other, name) for name in names))

    def log(self) -> None:
        """Logs what was done, if anything was; a warning where images may show it."""
        if str(self):
            logger.log(logging.WARNING if self.colours_limited else logging.INFO, "%s", self)


def without_invisible(splats: Splats) -> tuple[Splats, Adjustments]:
    """The Gaussians that an image can show, opacities clamped; what was done."""
    visible = visible_rows(splats.opacity)
    kept = splats if visible.all() else splats.rows(visible)
    kept, clamped = with_clamped_opacity(kept)
    return kept, Adjustments(clamped, splats.count - kept.count)


def visible_rows(opacity: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) whether the opacity (N, 1) is high enough for an image to show the Gaussian."""
    return opacity[:, 0] >= np.float32(LEAST_VISIBLE_OPACITY)


def with_clamped_opacity(splats: Splats) -> tuple[Splats, int]:
    """Opacities clamped to where the sigmoid still changes in float32; their number."""
    beyond = int(np.count_nonzero(np.abs(splats.opacity) > MOST_OPACITY))
    if not beyond:
        return splats, 0
    clamped = np.clip(splats.opacity, -MOST_OPACITY, MOST_OPACITY).astype(np.float32)
    return replace(splats, opacity=clamped), beyond


def set_aside(splats: Splats) -> tuple[Splats, ExactValues]:
    """The model with stand-ins for numbers far from all others, and those numbers.

    A stand-in of a scale is the nearest number that is not set aside, of a colour the median.
    """
    exact, stand_ins = NONE, {}
    for name in _REACH if splats.count else ():
        columns = splats.columns()[name]
        low, high = _bounds(columns, name)
        if (columns.min(axis=0) >= low).all() and (columns.max(axis=0) <= high).all():
            continue
        beyond = (columns < low) | (columns > high)
        rows, places = beyond.nonzero()
        channels = FIRST_CHANNELS[name] + places
        exact = exact.joined(ExactValues.of(rows, channels, columns[rows, places]))
        replaced = columns.copy()
        if name == "scaling":
            inside = columns[~beyond] if not beyond.all() else np.clip(columns, -_WIDEST, _WIDEST)
            replaced = np.clip(columns, inside.min(), inside.max())
        else:
            stand_in = np.median(np.clip(sample(columns), low, high), axis=0)
            replaced[rows, places] = stand_in[places]
        stand_ins[name] = replaced.reshape(getattr(splats, name).shape)
    return replace(splats, **stand_ins), exact


def with_limited_colours(splats: Splats) -> tuple[Splats, int]:
    """Colours clamped so that none is far from all others; the number of Gaussians changed.

    For a format without exact values, whose grids span all colours.
    """
    limited, moved = {}, np.zeros(splats.count, np.bool_)
    for name in ("features_dc", "features_rest") if splats.count else ():
        columns = splats.columns()[name]
        low, high = _bounds(columns, name)
        within = np.clip(columns, low, high)
        moved |= (within != columns).any(axis=1)
        limited[name] = within.reshape(getattr(splats, name).shape)
    return replace(splats, **limited), int(np.count_nonzero(moved))


def _bounds(columns: FloatArray, name: str) -> tuple[FloatArray, FloatArray]:
    """The bounds of each column of (N, C); numbers beyond are far from all others."""
    if name == "scaling":  # all three have one grid
        columns = columns.reshape(-1, 1)
    greatest = _WIDEST if name == "scaling" else _GREATEST_COLOUR
    low, high = (
        np.clip(bound.astype(np.float64), -greatest, greatest) for bound in middle(columns)
    )
    width = np.maximum(_REACH[name] * (high - low), _FREE_REACH[name])
    return (
        np.maximum(low - width, -greatest).astype(np.float32),
        np.minimum(high + width, greatest).astype(np.float32),
    )


def middle(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The ends of the middle 99 % of each column of (N, C); from 5 rows on without the extremes.

    N is at least 1.
    """
    chosen = sample(columns, _SAMPLE_OF_ENDS)
    last = len(chosen) - 1
    aside = max(last // 200, 1 if last >= 4 else 0)
    ends = np.partition(chosen, [aside, last - aside], axis=0)
    return ends[aside], ends[last - aside]


def sample(rows: npt.NDArray[_Number], size: int = _SAMPLE) -> npt.NDArray[_Number]:
    """Every n-th row, at least `size` where there are as many: enough for statistics."""
    return rows[:: max(1, len(rows) // size)]
