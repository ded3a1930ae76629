# SPDX-License-Identifier: Apache-2.0
"""The Gaussians of a model that an image can show. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_formats.outliers import Adjustments, visible_rows, without_invisible
from splat_formats.repairs import Repairs, showable
from splat_formats.splats import Splats
from utils.errors import InputError


@dataclass(frozen=True, eq=False)
class Visible:
    """Finite Gaussians with an alpha of at least 1/255, and what was done to get them."""

    splats: Splats
    rows: npt.NDArray[np.intp]
    """(n,) where they were in the model."""
    repairs: Repairs
    adjustments: Adjustments


def visible_gaussians(splats: Splats, place: object) -> Visible:
    """The Gaussians that an image can show. InputError, naming `place`, if there are none."""
    visible = visible_part(splats)
    if not visible.splats.count:
        raise InputError(
            f"{place}: expected Gaussians that an image can show, found none among {splats.count:,}"
        )
    return visible


def visible_part(splats: Splats) -> Visible:
    """The same; there may be none."""
    finite = showable(splats)
    rows = finite.rows[visible_rows(finite.splats.opacity)]
    kept, adjustments = without_invisible(finite.splats)
    return Visible(kept, rows, finite.repairs, adjustments)
