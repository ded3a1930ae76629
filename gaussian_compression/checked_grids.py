# SPDX-License-Identifier: Apache-2.0
"""Grids whose rounding errors are measured in the images, attribute by attribute.

A sensitivity is a derivative: it holds for small changes. Rounding changes parameters by whole
steps, so the images of the rounded model are compared with those of the model before rounding.
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
"""Rounding may add up to this many times its share before its steps are made finer: SH, which have
a dead zone, and numbers whose steps follow a rule of few terms add more than errors that are even
over each step."""
_TRIES = 3

AddedError = Callable[[RawParameters, RawParameters], float]
"""(before, after) -> squared difference of their images, as a fraction of the error of `before`."""

logger = logging.getLogger(__name__)


def checked_quantizer(
    raw: RawParameters,
    sensitivity: RenderSensitivity,
    settings: GridSettings,
    added_error: AddedError,
) -> GridQuantizer:
    """Grids and classes of `fitted_quantizer`, made finer until rounding adds little to the images.

    Where an attribute adds more than LEEWAY times its share, its sensitivities are multiplied by
    the measured ratio, and the grids are fitted again. A warning is logged if that is not enough.
    """
    for tries_left in reversed(range(_TRIES + 1)):
        quantizer = fitted_quantizer(raw, sensitivity, settings)
        rounded = quantizer.decoded(quantizer.to_coding_basis(raw))
        total = added_error(raw, rounded) / settings.noise
        if total <= LEEWAY:
            break
        if not tries_left:
            logger.warning(
                "rounding adds %.2g times the error that --noise allows on the training views; "
                "a smaller --noise gives finer grids",
                total,
            )
            break
        factors = _excess(raw, rounded, settings.noise, added_error)
        sensitivity = sensitivity.raised(factors or dict.fromkeys(raw._fields, total))
    return quantizer


def _excess(
    raw: RawParameters, rounded: RawParameters, noise: float, added_error: AddedError
) -> dict[str, float]:
    """The shares that an attribute adds when it is rounded alone, where these exceed LEEWAY."""
    per_number = noise / (NUMBERS_BESIDE_SH + raw.features_rest[0].numel())
    numbers = {**NUMBERS_OF, "features_rest": raw.features_rest[0].numel()}
    shares = {
        name: added_error(raw, raw._replace(**{name: values})) / (per_number * numbers[name])
        for name, values in rounded.named()
        if numbers[name]
    }
    return {name: share for name, share in shares.items() if share > LEEWAY}
