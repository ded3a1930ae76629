# SPDX-License-Identifier: Apache-2.0
"""Calls the installed `diff_gaussian_rasterization`, of any generation, or gswarp or gsplat.

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

from gaussian_renderer import gsplat_adapter
from gaussian_renderer.rasterizer_values import Gaussians, Rasterized, View
from scene.device import default_device, required_gswarp
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
    """Draw `gaussians` with the chosen package; without Gaussians, the plain background."""
    draw = _PEERS.get(view.rasterizer, _draw_by_installed)
    return draw(gaussians, view)


def _draw_by_installed(gaussians: Gaussians, view: View) -> Rasterized:
    package = installed_package()
    offered = capabilities(package)
    _check(offered, gaussians, view)
    if gaussians.means.shape[0] == 0:
        return _empty(gaussians, view)
    rasterizer = package.GaussianRasterizer(_settings(package, offered, view))
    result = rasterizer(**_arguments(offered, gaussians))
    inverse_depth = result[2] if len(result) > 2 else None
    return Rasterized(result[0], result[1], inverse_depth)


def _draw_by_gswarp(gaussians: Gaussians, view: View) -> Rasterized:
    """By gswarp, which has the interface of 2023 and accepts antialiasing without applying it.

    Its third output is not an inverse depth.
    """
    package = required_gswarp()
    offered = Capabilities(antialiasing=False, separate_dc=False, devices=("cuda",))
    _check(offered, gaussians, view)
    if gaussians.means.shape[0] == 0:
        return _empty(gaussians, view)
    rasterizer = package.GaussianRasterizer(_settings(package, offered, view))
    image, radii, *_ = rasterizer(**_arguments(offered, gaussians))
    return Rasterized(image, radii, None)


def _draw_by_gsplat(gaussians: Gaussians, view: View) -> Rasterized:
    if gaussians.means.shape[0] == 0:
        return _empty(gaussians, view)
    return gsplat_adapter.draw(gaussians, view)


_PEERS = {"gswarp": _draw_by_gswarp, "gsplat": _draw_by_gsplat}


def _check(offered: Capabilities, gaussians: Gaussians, view: View) -> None:
    name = view.rasterizer if view.rasterizer in _PEERS else "the installed rasteriser"
    _check_device(name, offered, gaussians, view)
    if view.antialiasing and not offered.antialiasing:
        raise InputError(f"--antialiasing: {name} does not support anti-aliasing")


def _check_device(name: str, offered: Capabilities, gaussians: Gaussians, view: View) -> None:
    device = gaussians.means.device.type
    chosen = ("cuda",) if view.rasterizer == "cuda" else ()
    if device not in (*offered.devices, *chosen):
        raise InputError(
            f"{name} runs on {' and '.join(offered.devices)}, but the Gaussians are on {device}"
        )


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
