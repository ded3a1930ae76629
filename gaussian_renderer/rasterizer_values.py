# SPDX-License-Identifier: Apache-2.0
"""What every rasteriser gets and returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    """The settings of one image."""

    height: int
    width: int
    tan_half_fov: tuple[float, float]
    """x, y."""
    background: Tensor
    """(3,) RGB."""
    scale_modifier: float
    world_view: Tensor
    """(4,4), row vectors: `[x y z 1] @ M`."""
    full_projection: Tensor
    """(4,4), row vectors."""
    camera_center: Tensor
    """(3,) world units."""
    sh_degree: int
    debug: bool = False
    antialiasing: bool = False
    rasterizer: str = "auto"
    """`cuda` allows this project's package on a GPU, which it does not declare yet."""


@dataclass(frozen=True)
class Gaussians:
    """Effective values; either colours or SH, and either covariance or scaling and rotation."""

    means: Tensor
    """(N,3) world units."""
    screen_points: Tensor
    """(N,3) zeros; receives the screen-space gradient, NDC units."""
    opacities: Tensor
    """(N,1) in 0..1."""
    sh_dc: Tensor | None = None
    """(N,1,3)."""
    sh_rest: Tensor | None = None
    """(N,K,3)."""
    colors: Tensor | None = None
    """(N,3)."""
    scaling: Tensor | None = None
    """(N,3) standard deviations."""
    rotation: Tensor | None = None
    """(N,4) unit quaternions, wxyz."""
    covariance: Tensor | None = None
    """(N,6) xx, xy, xz, yy, yz, zz."""


@dataclass(frozen=True)
class Rasterized:
    """One image, and what else the rasteriser returns."""

    image: Tensor
    """(3,H,W), not clamped."""
    radii: Tensor
    """(N,) int32 pixels; 0 where not visible."""
    inverse_depth: Tensor | None
    """(1,H,W), where the package computes it."""
