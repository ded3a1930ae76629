# SPDX-License-Identifier: Apache-2.0
"""Grids whose rounding has been measured in the images, attribute by attribute.

A sensitivity is a derivative: it tells what a small change does. Rounding changes parameters by
whole steps, so the images of the rounded model are compared with those of the model as it was.
"""

import logging
from collections.abc import Callable

from gaussian_compression.grid_quantizer import GridQuantizer
from gaussian_compression.grid_straight_through import (
    NUMBERS_BESIDE_SH,
    NUMBERS_OF,
    fitted_quantizer,
)
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import GridSettings
from scene.raw_parameters import RawParameters

LEEWAY = 3.0
"""Rounding may add so many times its share before its steps are made finer: SH with a dead zone
and numbers that follow a rule of few terms need more than even errors over each step."""
_TRIES = 3

AddedError = Callable[[RawParameters, RawParameters], float]
"""(before, after) -> squared difference of their images, as a part of the error of `before`."""

logger = logging.getLogger(__name__)


def checked_quantizer(
    raw: RawParameters,
    sensitivity: RenderSensitivity,
    settings: GridSettings,
    added_error: AddedError,
) -> GridQuantizer:
    """Grids and classes as `fitted_quantizer` gives them, refined until the images confirm them.

    Where an attribute adds more than LEEWAY times its share, its sensitivities are raised by what
    was measured, and the grids fitted again. A warning is logged if that does not suffice.
    """
    for tries_left in reversed(range(_TRIES + 1)):
        quantizer = fitted_quantizer(raw, sensitivity, settings)
        seen = quantizer.decoded(quantizer.to_coding_basis(raw))
        total = added_error(raw, seen) / settings.noise
        if total <= LEEWAY:
            break
        if not tries_left:
            logger.warning(
                "rounding adds %.2g times the error that --noise allows to the training views",
                total,
            )
            break
        factors = _excess(raw, seen, settings.noise, added_error)
        sensitivity = sensitivity.raised(factors or dict.fromkeys(raw._fields, total))
    return quantizer


def _excess(
    raw: RawParameters, seen: RawParameters, noise: float, added_error: AddedError
) -> dict[str, float]:
    """Attributes that add more than LEEWAY shares when rounded alone: by how many shares."""
    per_number = noise / (NUMBERS_BESIDE_SH + raw.features_rest[0].numel())
    numbers = {**NUMBERS_OF, "features_rest": raw.features_rest[0].numel()}
    shares = {
        name: added_error(raw, raw._replace(**{name: rounded})) / (per_number * numbers[name])
        for name, rounded in seen.named()
        if numbers[name]
    }
    return {name: share for name, share in shares.items() if share > LEEWAY}
