# SPDX-License-Identifier: Apache-2.0
"""Differences of a decoded model from its start, in units that can be seen. NumPy only."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gaussian_compression.report import ErrorFigures
from splat_codec.blocks import for_blocks
from splat_formats.axes import with_ordered_axes
from splat_formats.differences import Floats, alpha_of, differences
from splat_formats.outliers import sample
from splat_formats.splats import FloatArray, Splats


@dataclass(frozen=True)
class _Scale:
    """The unit of an attribute's error, and the greatest rms that is good."""

    unit: str
    good: float


SCALES = {
    "xyz": _Scale("% of the Gaussian's size", 16),
    "scaling": _Scale("% of the axis' length", 3),
    "rotation": _Scale("degrees", 12),
    "opacity": _Scale("% of full opacity", 0.6),
    "features_dc": _Scale("8-bit levels of colour, times opacity", 0.75),
    "features_rest": _Scale("8-bit levels of colour, times opacity, mean over directions", 1.25),
}
"""Size: the geometric mean of the standard deviations along the two longer axes. Errors of
colours are multiplied by the opacity.

With errors of this size, renders of fox_model and snowmiku_model have 45 dB or more against those
of the start, and lose at most 0.07 dB of 27 to 28 dB against photographs (PSNR, 6 test views each,
-r 4)."""


@dataclass
class _Collected:
    """The errors of one attribute, in blocks."""

    blocks: list[Floats] = field(default_factory=list)

    def figures(self, scale: _Scale) -> ErrorFigures:
        values = np.concatenate(self.blocks) if self.blocks else np.zeros(0)
        if not values.size:
            return ErrorFigures(scale.unit, 0.0, 0.0, 0.0, scale.good)
        return ErrorFigures(
            unit=scale.unit,
            rms=float(np.sqrt(np.mean(np.square(values)))),
            percentile_99=float(np.quantile(values, 0.99)),
            max=float(values.max()),
            good=scale.good,
        )


class VisibleErrors:
    """The errors of a model, collected part by part."""

    def __init__(self, least: float | None = None) -> None:
        """`least`: the `least_size` of the whole model; None: that of each part."""
        self._least = least
        self._collected = {name: _Collected() for name in SCALES}

    def add(self, start: Splats, decoded: Splats, order: npt.NDArray[np.intp]) -> None:
        """Measures a part. Row i of `decoded` was row order[i] of `start`.

        Spherical harmonics that `decoded` lacks count as 0 there.
        """
        least = least_size(start) if self._least is None else self._least

        def measure(block: slice) -> None:
            before = with_ordered_axes(start.rows(order[block]))
            for name, values in _differences(before, decoded.rows(block), least).items():
                self._collected[name].blocks.append(values.ravel())

        for_blocks(decoded.count, measure)

    def figures(self) -> dict[str, ErrorFigures]:
        """The errors by attribute."""
        return {name: self._collected[name].figures(scale) for name, scale in SCALES.items()}


def visible_errors(
    start: Splats, decoded: Splats, order: npt.NDArray[np.intp]
) -> dict[str, ErrorFigures]:
    """The errors by attribute, as `VisibleErrors.add` measures them."""
    errors = VisibleErrors()
    errors.add(start, decoded, order)
    return errors.figures()


def lines(errors: dict[str, ErrorFigures]) -> list[str]:
    """A table for the terminal, one line an attribute."""
    table = [f"  {'error':<14}{'rms':>9}{'99 %':>9}{'greatest':>10}   good up to an rms of"]
    for name, error in errors.items():
        figures = f"{error.rms:>9.3g}{error.percentile_99:>9.3g}{error.max:>10.3g}"
        exceeded = error.good is not None and error.rms > error.good
        note = ": exceeded" if exceeded else ""
        table.append(f"  {name:<14}{figures}   {error.good:g} {error.unit}{note}")
    return table


def least_size(splats: Splats) -> float:
    """The 1 % quantile of sizes of a sample: distances of smaller Gaussians are measured in it."""
    descending = -np.sort(-sample(splats.scaling), axis=1)
    return float(np.quantile(_sizes(descending), 0.01)) if splats.count else 1.0


def _sizes(scaling: FloatArray) -> Floats:
    """(N,): the sizes of Gaussians with these descending log scales (N, 3)."""
    with np.errstate(over="ignore"):
        return np.exp(scaling[:, :2].astype(np.float64).mean(axis=1))


def _differences(a: Splats, b: Splats, least_size: float) -> dict[str, Floats]:
    """The errors of each Gaussian (and axis, and channel), in the units of SCALES."""
    found, alpha = differences(a, b), alpha_of(a)
    return {
        "xyz": 100 * found.distance / np.maximum(_sizes(a.scaling), least_size),
        "scaling": 100 * found.scale,
        "rotation": found.angle,
        "opacity": 100 * found.opacity,
        "features_dc": found.colour * alpha,
        "features_rest": found.sh * alpha,
    }
