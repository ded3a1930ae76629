# SPDX-License-Identifier: Apache-2.0
"""Steps of the grids from measured sensitivities: every stored number may err equally much.

Small errors of the parameters add up in the images: squared error = sum of sensitivity x error^2.
At a given size the total is least where one more bit would gain the same everywhere, that is where
every number adds the same to it (reverse water-filling; Cover and Thomas, Elements of Information
Theory, 10.3). NumPy only.
"""

from dataclasses import replace

import numpy as np

from gaussian_compression.codec.grid_splats import GridSplats
from gaussian_compression.codec.grids import MATRIX_UNIT, Integers
from gaussian_compression.decoded import to_splats
from gaussian_compression.design_grids import Precision, design_grids, snap_to_grids
from splat_formats.splats import Splats

_STEP_OF = {
    "xyz": "position_step",
    "features_dc": "dc_step",
    "opacity": "opacity_step",
    "scaling": "scale_step",
    "rotation": "rotation_step",
}
_FREE_NUMBERS = {"rotation": 3}
"""Numbers that a Gaussian stores of an attribute, where they are not its values."""
_PASSES = 3
_MOST_CHANGE = 4.0
"""Of a step in one pass: errors grow with the square of steps only as long as these are small."""


def fit_precision(
    splats: Splats, sensitivity: Splats, tolerance: float, start: Precision
) -> Precision:
    """`start` with the steps at which each number adds `tolerance` to the error of the images.

    `splats` has ordered axes; `sensitivity` holds, for each of its values, the mean squared error
    of an image (0..1) for an error of 1. SH are judged by the even error over a step.
    """
    precision = start
    for _ in range(_PASSES):
        grids, classes = design_grids(splats, precision, colour_weights(sensitivity))
        snapped = snap_to_grids(splats, grids, precision.deadzone, classes)
        found = errors_per_number(splats, snapped, sensitivity)
        changed = {step: getattr(precision, step) * _factor(tolerance, found[name])
                   for name, step in _STEP_OF.items()}  # fmt: skip
        changed["sh_step"] = precision.sh_step * _factor(
            tolerance, _even_sh_error(sensitivity, np.array(grids.sh_steps), classes)
        )
        precision = replace(precision, **changed)
    return precision


def colour_weights(sensitivity: Splats) -> np.ndarray:
    """What decides a Gaussian's precision class (N,)."""
    return sensitivity.features_dc.sum(axis=(1, 2), dtype=np.float64)


def errors_per_number(splats: Splats, snapped: GridSplats, sensitivity: Splats) -> dict[str, float]:
    """What each attribute adds to the images' mean squared error, per stored number."""
    decoded, errors = to_splats(snapped), {}
    for name in _STEP_OF:
        before, after = getattr(splats, name), getattr(decoded, name)
        squared = getattr(sensitivity, name) * np.square(after - before, dtype=np.float64)
        numbers = _FREE_NUMBERS.get(name, before[0].size if len(before) else 1)
        errors[name] = float(squared.sum()) / (max(1, splats.count) * numbers)
    return errors


def _even_sh_error(sensitivity: Splats, sh_steps: np.ndarray, classes: Integers) -> float:
    """As `errors_per_number`, if errors were even over each step."""
    rest = sensitivity.features_rest
    if not rest.size:
        return 0.0
    steps = sh_steps.astype(np.float64)[classes] * MATRIX_UNIT
    return float((rest.mean(axis=(1, 2), dtype=np.float64) * steps**2 / 12).mean())


def _factor(tolerance: float, error: float) -> float:
    if error <= 0:
        return 1.0
    return float(np.clip(np.sqrt(tolerance / error), 1 / _MOST_CHANGE, _MOST_CHANGE))
