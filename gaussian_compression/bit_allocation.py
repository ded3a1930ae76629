# SPDX-License-Identifier: Apache-2.0
"""Grids from measured sensitivities: every stored number adds the same error. NumPy only.

Small errors of the parameters add up in the images: squared error = sum of sensitivity x error^2.
For a given size the total is least if one more bit gains the same everywhere, that is, if every
number adds the same to it (reverse water-filling; Cover and Thomas, Elements of Information Theory,
10.3). Steps of colours depend on the precision classes, which follow the sensitivities; those of
positions and rotations follow rules of class and scales, which are fitted; scales and opacities
have one step each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from splat_codec.grid_splats import GridSplats
from splat_codec.grids import (
    MATRIX_UNIT,
    MAX_POSITION_BITS,
    MAX_SHIFT,
    Grids,
    Integers,
    LinearRule,
    PositionGrid,
)
from splat_formats.decoded import to_splats
from splat_formats.design_grids import GridSteps, design_grids, robust_box
from splat_formats.snap_to_grids import snap_to_grids
from splat_formats.splats import FloatArray, Splats

_STEP_OF = {"features_dc": "dc_step", "opacity": "opacity_step", "scaling": "scale_step"}
_PASSES = 3
_MOST_CHANGE = 4.0
"""The greatest factor of a step in one pass: errors grow with the square of small steps only."""
_FINEST = 0.01
"""The fraction of Gaussians that may need a finer grid than the finest one."""
_FINEST_TURN = 2.0**-13
"""The finest step of quaternion components: the format has no greater symbols."""
THIN = 0.3**0.5
"""Pixels: the standard deviation of the filter by which the rasteriser widens every Gaussian."""
_UNIT = 1 << 16

Float64s = npt.NDArray[np.float64]


def fit_grids(
    splats: Splats, sensitivity: Splats, tolerance: float, start: GridSteps
) -> tuple[Grids, Integers]:
    """Grids on which each number adds `tolerance` to the images' errors, and the classes.

    `splats` has ordered axes; `sensitivity` holds, for each of its values, the error that an error
    of 1 adds (RenderSensitivity.per_parameter). SH count with errors that are even over a step.
    """
    precision = start
    without_sh = replace(splats, features_rest=splats.features_rest[:, :0])
    for _ in range(_PASSES):
        grids, classes = design_grids(without_sh, precision, _colour_weights(sensitivity))
        snapped = snap_to_grids(without_sh, grids, precision.deadzone, classes)
        found = errors_per_number(without_sh, snapped, sensitivity)
        changed = {step: getattr(precision, step) * _factor(tolerance, found[name])
                   for name, step in _STEP_OF.items()}  # fmt: skip
        changed["sh_step"] = precision.sh_step * _factor(
            tolerance, _even_sh_error(sensitivity, np.array(grids.sh_steps), classes)
        )
        precision = replace(precision, **changed)
    grids, classes = design_grids(splats, precision, _colour_weights(sensitivity))
    measured = splats, sensitivity, tolerance
    return _with_fitted_rules(grids, classes, measured, start.position_bits), classes


def errors_per_number(splats: Splats, snapped: GridSplats, sensitivity: Splats) -> dict[str, float]:
    """The error that each attribute adds to the images, per value of a Gaussian."""
    decoded, errors = to_splats(snapped), {}
    for name in (*_STEP_OF, "xyz", "rotation"):
        before, after = getattr(splats, name), getattr(decoded, name)
        change = _logit_change(before, after) if name == "opacity" else after - before
        squared = getattr(sensitivity, name) * np.square(change, dtype=np.float64)
        errors[name] = float(squared.sum()) / max(1, before.size)
    return errors


def _logit_change(before: FloatArray, after: FloatArray) -> Float64s:
    """The change of logits that gives the same change of opacity with the slope at `before`.

    Near opacities of 0 and 1 the slope changes much within a step: from logit 8 to 5 the opacity
    changes far more than the slope at 8 predicts.
    """
    opacity, changed = (1 / (1 + np.exp(-logits.astype(np.float64))) for logits in (before, after))
    return (changed - opacity) / np.maximum(opacity * (1 - opacity), 1e-30)


def _colour_weights(sensitivity: Splats) -> Float64s:
    """The weights (N,) that decide the precision classes.

    A Gaussian that no view shows has no measured weight: it gets the median.
    """
    weights = sensitivity.features_dc.sum(axis=(1, 2), dtype=np.float64)
    shown = weights > 0
    return np.where(shown, weights, np.median(weights[shown]) if shown.any() else 0)


def _even_sh_error(sensitivity: Splats, sh_steps: np.ndarray, classes: Integers) -> float:
    """As `errors_per_number`, for errors that are even over each step."""
    rest = sensitivity.features_rest
    if not rest.size:
        return 0.0
    steps = sh_steps.astype(np.float64)[classes] * MATRIX_UNIT
    return float((rest.mean(axis=(1, 2), dtype=np.float64) * steps**2 / 12).mean())


def _factor(tolerance: float, error: float) -> float:
    if error <= 0:
        return 1.0
    return float(np.clip(np.sqrt(tolerance / error), 1 / _MOST_CHANGE, _MOST_CHANGE))


def _with_fitted_rules(
    grids: Grids,
    classes: Integers,
    measured: tuple[Splats, Splats, float],
    position_bits: int | None,
) -> Grids:
    splats, sensitivity, tolerance = measured
    terms = (classes, *grids.scale.symbols(splats.scaling).T)
    turns = _fitted(
        _Measured(sensitivity.rotation[:, 1:].mean(axis=1, dtype=np.float64), terms, tolerance),
        lambda finest: (min(max(finest, _FINEST_TURN), 1.0), MAX_SHIFT),
    )
    if turns is not None:
        step, rule = turns
        grids = replace(grids, rotation_step=step, rotation_shift=rule)
    low, high = robust_box(splats.xyz)
    extent, coarse = max(float((high - low).max()), 1e-30), grids.position.coarse_bits

    def bits(cell: float) -> int:
        if position_bits is not None:
            return position_bits
        wanted = np.ceil(np.log2(extent / cell + 1) - 1e-9)
        return int(np.clip(wanted, coarse, MAX_POSITION_BITS))

    def cells(finest: float) -> tuple[float, int]:
        return extent / (2 ** bits(finest) - 1), min(MAX_SHIFT, bits(finest) - coarse)

    places = _fitted(
        _Measured(sensitivity.xyz.mean(axis=1, dtype=np.float64), terms, tolerance), cells
    )
    if places is not None:
        cell, rule = places
        origin = grids.position.origin
        grids = replace(grids, position=PositionGrid(origin, cell, bits(cell), coarse, rule))
    return grids


@dataclass(frozen=True)
class _Measured:
    """The data of a fit: sensitivities (N,), and the integers (N,) that the rule may depend on."""

    sensitivity: Float64s
    terms: tuple[Integers, ...]
    tolerance: float

    def error(self, steps: Float64s) -> float:
        """The error per number, for errors that are even over each step."""
        return float(np.mean(self.sensitivity * steps**2) / 12)


def _fitted(
    measured: _Measured, unit_of: Callable[[float], tuple[float, int]]
) -> tuple[float, LinearRule] | None:
    """The finest step and the rule of shifts whose steps come nearest to the wanted ones.

    `unit_of` maps the finest step wanted to the finest one to use and the greatest shift. None if
    there are too few Gaussians with a sensitivity for a fit.
    """
    shown = measured.sensitivity > 0
    design = np.stack([np.ones(len(shown)), *measured.terms], axis=1)
    if measured.tolerance <= 0 or shown.sum() < 64 * design.shape[1]:
        return None
    wanted = np.log2(12 * measured.tolerance / measured.sensitivity[shown]) / 2
    factors = np.linalg.lstsq(design[shown], wanted, rcond=None)[0]
    for _ in range(2 * _PASSES):
        octaves = design @ factors
        step, most = unit_of(float(2 ** np.quantile(octaves, _FINEST)))
        step = float(np.float32(step))
        bias = round((factors[0] - np.log2(step) + 0.5) * _UNIT)
        rule = LinearRule(bias, tuple(round(f * _UNIT) for f in factors[1:]), most)
        error = measured.error(step * np.exp2(rule.apply(*measured.terms).astype(np.float64)))
        factors[0] += np.log2(measured.tolerance / error) / 2
    return step, rule


def settle_hidden_scales(
    splats: Splats, grids: Grids, sensitivity: Splats, tolerance: float, pixel_sizes: Float64s
) -> tuple[Splats, npt.NDArray[np.bool_]]:
    """The splats with hidden scales set to cheap values; and which scales are hidden (N, 3).

    The thinnest axis of a flat Gaussian is much less than a pixel wide: any smaller value gives the
    same images, and so does any value up to a bound (covariance, exp(2 s), enters them linearly).
    Of all these the file gets the commonest difference from the axis before. Value and bound are
    below THIN pixels (`pixel_sizes` (N,) in world units, the smallest in any view): for a wider
    axis, a small derivative does not predict a large change.
    """
    step, low = grids.scale.step, grids.scale.minimum
    scaling, hidden = splats.scaling.copy(), np.zeros((splats.count, 3), bool)
    symbols = grids.scale.symbols(scaling)
    thin = np.log(np.maximum(THIN * pixel_sizes, 1e-30))
    for axis in (1, 2):
        shown = sensitivity.scaling[:, axis].astype(np.float64)
        hidden[:, axis] = (shown <= 4 * tolerance) & (scaling[:, axis] <= thin)
        before = symbols[:, axis - 1]
        bound = scaling[:, axis] + np.log1p(2 * np.sqrt(tolerance / np.maximum(shown, 1e-30))) / 2
        bound = np.minimum(bound, np.maximum(thin, scaling[:, axis]))
        least = np.maximum(before - np.floor((bound - low) / step).astype(np.int64), 0)
        drops = np.maximum(before - symbols[:, axis], 0)
        drops = np.where(hidden[:, axis], _commonest(drops, hidden[:, axis], least), drops)
        symbols[:, axis] = np.maximum(before - drops, 0)
        settled = grids.scale.values(symbols[:, axis])
        scaling[:, axis] = np.where(hidden[:, axis], settled, scaling[:, axis])
        scaling[:, axis] = np.minimum(scaling[:, axis], scaling[:, axis - 1])
    return replace(splats, scaling=scaling.astype(np.float32)), hidden


def _commonest(
    drops: Integers, free: npt.NDArray[np.bool_], least: npt.NDArray[np.int64]
) -> Integers:
    """For each row the commonest of `drops` that is not below its `least`.

    Counts are first those of rows that are not free, then of all rows as chosen.
    """
    size = int(max(drops.max(initial=0), least.max(initial=0))) + 1
    chosen = drops[~free]
    for _ in range(_PASSES):
        counts = np.bincount(chosen, minlength=size)
        # The place of the greatest count, from the end on.
        backwards = np.maximum.accumulate(counts[::-1])
        is_new = np.r_[True, counts[::-1][1:] >= backwards[:-1]]
        place = np.maximum.accumulate(np.where(is_new, np.arange(size), 0))
        best = (size - 1 - place)[::-1]
        result = best[least].astype(np.int32)
        chosen = np.where(free, result, drops)
    return result
