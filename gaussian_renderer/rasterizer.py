# SPDX-License-Identifier: Apache-2.0
"""Calls the installed `diff_gaussian_rasterization`, of any generation.

Three generations are in use: the 2023 one (image and radii), the one with inverse depth and
anti-aliasing, and the accelerated one, which takes the SH coefficients in two parts. The
capabilities are read from the package's settings and signature, never from its version.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scene.device import default_device
from utils.errors import InputError
from utils.optional_modules import load_required, supported_devices

__all__ = [
    "Capabilities",
    "Gaussians",
    "Rasterized",
    "View",
    "capabilities",
    "default_device",
    "installed_package",
    "rasterize",
]


@dataclass(frozen=True)
class Capabilities:
    """What an installed rasteriser package offers."""

    antialiasing: bool
    separate_dc: bool
    """Takes SH degree 0 and the higher bands as two tensors, which avoids a copy of all of them."""
    devices: tuple[str, ...]
    """Device types it runs on."""


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


def installed_package() -> ModuleType:
    """The rasteriser of this environment. Raises `InputError` if none can be imported."""
    install = "pip install submodules/diff-gaussian-rasterization"
    return load_required("diff_gaussian_rasterization", "rendering", install)


@lru_cache(maxsize=8)
def capabilities(package: ModuleType) -> Capabilities:
    """What `package` offers, read from its settings' fields and its rasteriser's arguments."""
    arguments = inspect.signature(package.GaussianRasterizer.forward).parameters
    return Capabilities(
        antialiasing="antialiasing" in package.GaussianRasterizationSettings._fields,
        separate_dc="dc" in arguments,
        devices=supported_devices(package),
    )


def rasterize(gaussians: Gaussians, view: View) -> Rasterized:
    """Draw `gaussians` with the installed package; without Gaussians, the plain background."""
    package = installed_package()
    offered = capabilities(package)
    _check(offered, gaussians, view)
    if gaussians.means.shape[0] == 0:
        return _empty(gaussians, view)
    rasterizer = package.GaussianRasterizer(_settings(package, offered, view))
    result = rasterizer(**_arguments(offered, gaussians))
    inverse_depth = result[2] if len(result) > 2 else None
    return Rasterized(result[0], result[1], inverse_depth)


def _check(offered: Capabilities, gaussians: Gaussians, view: View) -> None:
    device = gaussians.means.device.type
    chosen = ("cuda",) if view.rasterizer == "cuda" else ()
    if device not in (*offered.devices, *chosen):
        raise InputError(
            f"the installed rasteriser runs on {' and '.join(offered.devices)}, but the Gaussians "
            f"are on {device}"
        )
    if view.antialiasing and not offered.antialiasing:
        raise InputError("--antialiasing: the installed rasteriser does not support anti-aliasing")


def _settings(package: ModuleType, offered: Capabilities, view: View) -> Any:
    latest = {"antialiasing": view.antialiasing} if offered.antialiasing else {}
    return package.GaussianRasterizationSettings(
        image_height=view.height,
        image_width=view.width,
        tanfovx=view.tan_half_fov[0],
        tanfovy=view.tan_half_fov[1],
        bg=view.background,
        scale_modifier=view.scale_modifier,
        viewmatrix=view.world_view,
        projmatrix=view.full_projection,
        sh_degree=view.sh_degree,
        campos=view.camera_center,
        prefiltered=False,
        debug=view.debug,
        **latest,
    )


def _arguments(offered: Capabilities, gaussians: Gaussians) -> dict[str, Tensor | None]:
    return {
        "means3D": gaussians.means,
        "means2D": gaussians.screen_points,
        "opacities": gaussians.opacities,
        **_sh_arguments(offered, gaussians),
        "colors_precomp": gaussians.colors,
        "scales": gaussians.scaling,
        "rotations": gaussians.rotation,
        "cov3D_precomp": gaussians.covariance,
    }


def _sh_arguments(offered: Capabilities, gaussians: Gaussians) -> dict[str, Tensor | None]:
    if gaussians.sh_dc is None or gaussians.sh_rest is None:
        return {"shs": None}
    if offered.separate_dc:
        return {"dc": gaussians.sh_dc, "shs": gaussians.sh_rest}
    return {"shs": torch.cat((gaussians.sh_dc, gaussians.sh_rest), dim=1)}


def _empty(gaussians: Gaussians, view: View) -> Rasterized:
    """The background, as a part of the graph, so that `backward` gives gradients of shape (0,3)."""
    nothing = gaussians.means.sum() + gaussians.screen_points.sum()
    image = view.background.view(3, 1, 1).expand(3, view.height, view.width) + nothing
    radii = torch.zeros(0, dtype=torch.int32, device=gaussians.means.device)
    return Rasterized(image, radii, None)
