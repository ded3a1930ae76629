# SPDX-License-Identifier: Apache-2.0
"""A model together with what its file holds beside the Gaussians. NumPy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from splat_formats.splats import Splats

Origin = tuple[float, float, float]

NO_ORIGIN: Origin = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class SplatMetadata:
    """What a file holds beside the Gaussians, and what its reader had to change."""

    antialiasing: bool = False
    """The model is meant to be rendered with the 2D dilation compensated (Mip-Splatting)."""
    origin: Origin = NO_ORIGIN
    """To be added to `Splats.xyz`, in float64, for world coordinates."""
    notices: tuple[str, ...] = ()
    """One sentence for everything that the reader repaired, clamped, fused or ignored."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The metadata of a .f3dgs file (docs/format.md), JSON values; empty for other formats."""


@dataclass(frozen=True, eq=False)
class SplatScene:
    """Gaussians and their metadata."""

    splats: Splats
    metadata: SplatMetadata = field(default_factory=SplatMetadata)


@dataclass(frozen=True, eq=False)
class Written:
    """How the Gaussians in a file that was written correspond to those of its scene."""

    notices: tuple[str, ...] = ()
    """One sentence for everything that the format cannot hold."""
    rows: npt.NDArray[np.intp] | None = None
    """(n,) Gaussian i of the file is Gaussian rows[i] of the scene; None: the same order."""
    axes_ordered: bool = False
    """Whether the file holds the ellipsoids in the form of `axes.with_ordered_axes`."""
