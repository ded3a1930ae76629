# SPDX-License-Identifier: Apache-2.0
"""What a file lost of the scene that was written to it: errors by attribute. NumPy only.

Writers report which Gaussian of the scene each Gaussian of the file is (`Written.rows`), because
many put them in another order and drop some. Rounding makes neighbours alike, so that no search for
the nearest Gaussian could find these pairs with certainty.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import ROWS_AT_ONCE
from splat_formats.axes import with_ordered_axes
from splat_formats.differences import Differences, Floats, differences
from splat_formats.outliers import sample
from splat_formats.repairs import gaussians
from splat_formats.scene import NO_ORIGIN, Origin, SplatScene, Written
from splat_formats.splats import Splats

_MOST_SCALE = 88.0  # logarithm: the greatest and the smallest size that a float32 holds
_WIDTH = 16  # of the first column of the table


@dataclass(frozen=True)
class Loss:
    """The errors of one attribute over all Gaussians (and axes, and channels)."""

    unit: str
    mean: float
    largest: float


@dataclass(frozen=True)
class Losses:
    """What a file lost."""

    before: int
    """Gaussians of the scene."""
    after: int
    """Gaussians in the file."""
    reordered: bool
    """Whether the file has them in another order."""
    not_compared: int
    """Gaussians in the file that had values that are not finite."""
    errors: dict[str, Loss]
    """By attribute."""


def losses(before: SplatScene, after: SplatScene, written: Written) -> Losses:
    """The errors of `after`, which was read from the file that `before` was written to."""
    rows = written.rows
    if after.splats.count != (before.splats.count if rows is None else len(rows)):
        raise ValueError(f"the file has {after.splats.count} Gaussians, the writer reported others")
    totals: dict[str, _Total] = {}
    size, compared = median_size(before.splats), 0
    shift = _shift(before, after)
    for block, start in _pairs(before.splats, after.splats.count, written):
        finite = _finite_rows(start)
        compared += int(finite.sum())
        found = differences(start.rows(finite), after.splats.rows(block).rows(finite), shift)
        for name, (unit, values) in _named(found, size).items():
            totals.setdefault(name, _Total(unit)).add(values)
    return Losses(
        before=before.splats.count,
        after=after.splats.count,
        reordered=rows is not None and bool((np.diff(rows) < 0).any()),
        not_compared=after.splats.count - compared,
        errors={name: total.loss() for name, total in totals.items()},
    )


def lines(found: Losses) -> list[str]:
    """A table for the terminal, one line an attribute, and a line for what else changed."""
    table = []
    if found.errors:
        table.append(f"  {'error':<{_WIDTH}}{'mean':>11}{'largest':>11}")
    for name, error in found.errors.items():
        figures = f"{error.mean:>11.3g}{error.largest:>11.3g}"
        table.append(f"  {name:<{_WIDTH}}{figures}  {error.unit}")
    if found.after < found.before:
        table.append(f"  dropped: {gaussians(found.before - found.after)}")
    if found.not_compared:
        table.append(f"  not compared: {gaussians(found.not_compared)} with values that are not "
                     "finite")  # fmt: skip
    if found.reordered:
        table.append("  the Gaussians are in another order")
    return table


def median_size(splats: Splats) -> float:
    """The median of the standard deviations along the axes, world units; 1 without Gaussians."""
    logarithms = sample(splats.scaling).astype(np.float64)
    finite = logarithms[np.isfinite(logarithms)]
    if not finite.size:
        return 1.0
    return float(np.exp(np.clip(np.median(finite), -_MOST_SCALE, _MOST_SCALE)))


def _named(found: Differences, size: float) -> dict[str, tuple[str, Floats]]:
    """Unit and errors of each attribute."""
    return {
        "position": ("world units", found.distance),
        "position, rel.": ("% of the median Gaussian's size", 100 * found.distance / size),
        "scale": ("% of the axis' length", 100 * found.scale),
        "rotation": ("degrees", found.angle),
        "opacity": ("of 0 to 1", found.opacity),
        "colour": ("levels of 0 to 255", found.colour),
        "SH": ("levels of 0 to 255, rms over directions", found.sh),
    }


class _Total:
    """Mean and largest of numbers that come in parts."""

    def __init__(self, unit: str) -> None:
        self._unit, self._sum, self._count, self._largest = unit, 0.0, 0, 0.0

    def add(self, values: Floats) -> None:
        if values.size:
            self._sum += float(values.sum())
            self._count += values.size
            self._largest = float(np.maximum(self._largest, values.max()))

    def loss(self) -> Loss:
        return Loss(self._unit, self._sum / max(self._count, 1), self._largest)


def _pairs(splats: Splats, count: int, written: Written) -> Iterator[tuple[slice, Splats]]:
    """Blocks of the file's rows, and the scene's Gaussians there in the form that the file has."""
    for low in range(0, count, ROWS_AT_ONCE):
        block = slice(low, min(low + ROWS_AT_ONCE, count))
        start = splats.rows(block if written.rows is None else written.rows[block])
        yield block, with_ordered_axes(start) if written.axes_ordered else start


def _finite_rows(splats: Splats) -> npt.NDArray[np.bool_]:
    finite = np.ones(splats.count, bool)
    for field in fields(splats):
        values = getattr(splats, field.name).reshape(splats.count, -1)
        finite &= np.isfinite(values).all(axis=1)
    return finite


def _shift(before: SplatScene, after: SplatScene) -> Origin:
    """Between the origins. A format without origins drops the scene's, and has a notice of it:
    its positions are compared relative to that origin."""
    if after.metadata.origin == NO_ORIGIN:
        return NO_ORIGIN
    x, y, z = np.subtract(after.metadata.origin, before.metadata.origin)
    return float(x), float(y), float(z)
