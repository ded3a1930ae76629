# SPDX-License-Identifier: Apache-2.0
"""What the writers of most lossy formats do first. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.order import morton_order
from splat_formats.repairs import gaussians, showable
from splat_formats.scene import NO_ORIGIN, SplatScene
from splat_formats.splats import Splats


@dataclass(frozen=True, eq=False)
class Prepared:
    """The Gaussians of a scene that can be shown, in the order in which they are written."""

    splats: Splats
    rows: npt.NDArray[np.intp]
    """(n,) where they were in the scene."""
    notices: tuple[str, ...]
    """One sentence for everything that was repaired or dropped."""


def prepared(scene: SplatScene) -> Prepared:
    """The Gaussians with finite values in Morton order: neighbours in space have similar values,
    which makes compressed files smaller. The origin, which other formats lack, is dropped."""
    shown = showable(scene.splats)
    order = morton_order(shown.splats.xyz)
    notices = (*shown.notices, *origin_notices(scene))
    return Prepared(shown.splats.rows(order), shown.rows[order], notices)


def origin_notices(scene: SplatScene) -> tuple[str, ...]:
    """A sentence for an origin that is dropped."""
    origin = scene.metadata.origin
    if origin == NO_ORIGIN:
        return ()
    shown = ", ".join(f"{value:.10g}" for value in origin)
    return (f"the format has no origin: add ({shown}) to positions for world coordinates",)


def clipped_notices(counts: dict[str, int]) -> tuple[str, ...]:
    """A sentence for each kind of value that is clipped to the format's range; `counts` has the
    number of Gaussians by what is clipped."""
    return tuple(
        f"clipped: {what} of {gaussians(count)}" for what, count in counts.items() if count
    )
