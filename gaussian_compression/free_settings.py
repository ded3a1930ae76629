# SPDX-License-Identifier: Apache-2.0
"""The settings of a compression without photographs. NumPy only."""

from dataclasses import dataclass, replace
from typing import Any

from splat_formats.design_grids import QUALITIES, GridSteps


@dataclass(frozen=True)
class FreeSettings:
    """How a model is quantised without training."""

    quality: str = "high"
    sh_degree: int | None = None
    """None: the model's own."""
    position_bits: int | None = None
    """On each axis of the finest position grid; None: what the finest Gaussians need."""
    blocks: int | None = None
    """Of the file; None: one model as a whole, or what its size needs."""

    def steps(self) -> GridSteps:
        """The steps of the grids."""
        return replace(QUALITIES[self.quality], position_bits=self.position_bits)

    def recorded(self) -> dict[str, Any]:
        """Those that are given, for the report and the file."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {**given, "training_free": True}
