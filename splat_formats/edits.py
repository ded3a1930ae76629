# SPDX-License-Identifier: Apache-2.0
"""Smaller scenes: a part of the Gaussians, or of their spherical harmonics. NumPy only."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from splat_formats.differences import alpha_of
from splat_formats.scene import Origin, SplatScene
from splat_formats.splats import REST_COEFFICIENTS, Splats
from utils.errors import InputError

_Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """A box with faces along the axes, in world coordinates; its faces belong to it.

    Raises InputError if a corner is not finite, or `low` is above `high` on an axis.
    """

    low: Origin
    high: Origin

    def __post_init__(self) -> None:
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            if not -np.inf < low <= high < np.inf:
                raise InputError(
                    f"box: expected finite numbers, the lower one first, got {low:g} to {high:g} "
                    f"on axis {axis}"
                )


@dataclass(frozen=True)
class Edits:
    """What is removed from a scene; None: nothing. Raises InputError for an impossible value."""

    sh_degree: int | None = None
    """Highest degree of spherical harmonics to keep."""
    box: Box | None = None
    """Gaussians with centres outside are removed."""
    min_opacity: float | None = None
    """0 to 1: Gaussians with a lower opacity are removed."""

    def __post_init__(self) -> None:
        if self.min_opacity is not None and not 0 <= self.min_opacity <= 1:
            raise InputError(f"opacity {self.min_opacity}: expected a number from 0 to 1")


def edited(scene: SplatScene, edits: Edits) -> SplatScene:
    """The rest of the scene, rows in order. InputError if the edits remove all its Gaussians."""
    kept = edited_part(scene, edits)
    require_some(scene.splats.count, kept.splats.count)
    return kept


def require_some(before: int, after: int) -> None:
    """InputError if edits removed all Gaussians of a model that had some."""
    if before and not after:
        raise InputError(
            f"none of the {before:,} Gaussians is left: expected a box and an opacity that keep "
            "some"
        )


def edited_part(scene: SplatScene, edits: Edits) -> SplatScene:
    """The rest of a part of a model; there may be none."""
    splats = scene.splats
    kept = np.ones(splats.count, bool)
    if edits.box is not None:
        kept &= _inside(scene, edits.box)
    if edits.min_opacity is not None:
        kept &= alpha_of(splats)[:, 0] >= edits.min_opacity
    if not kept.all():
        splats = splats.rows(kept)
    if edits.sh_degree is not None:
        splats = cut_to_degree(splats, edits.sh_degree)
    return replace(scene, splats=splats)


def cut_to_degree(splats: Splats, sh_degree: int) -> Splats:
    """The Gaussians without the spherical harmonics above `sh_degree`.

    InputError if the model has a lower degree.
    """
    if sh_degree == splats.sh_degree:
        return splats
    if sh_degree > splats.sh_degree:
        raise InputError(
            f"--sh_degree {sh_degree}: expected at most {splats.sh_degree}, the model's degree"
        )
    kept = REST_COEFFICIENTS[sh_degree]
    return replace(splats, features_rest=np.ascontiguousarray(splats.features_rest[:, :kept]))


def _inside(scene: SplatScene, box: Box) -> _Rows:
    """(N,) whether a centre is in the box; False for a position that is not a number."""
    world = scene.splats.xyz.astype(np.float64) + np.array(scene.metadata.origin)
    return ((world >= np.array(box.low)) & (world <= np.array(box.high))).all(axis=1)
