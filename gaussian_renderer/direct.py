# SPDX-License-Identifier: Apache-2.0
"""The installed rasteriser's calls without autograd: raw parameters in, activations in the kernel.

Only this project's own package has them (its module `raw`); for any other, `direct_rasterizer` says
None, and callers go through `render`.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gaussian_renderer.rasterizer import installed_package
from scene.raw_parameters import RawParameters
from utils.optional_modules import installed


def direct_rasterizer(device: torch.device, options: Any) -> Any | None:
    """The module `raw` of the installed package, if it can draw with these pipeline options."""
    in_python = ("convert_SHs_python", "compute_cov3D_python")
    if device.type != "cpu" or any(getattr(options, name, False) for name in in_python):
        return None
    package = installed_package()
    name = f"{package.__name__}.raw"
    return import_module(name) if installed(name) else None


def draw_directly(
    rasterizer: Any,
    raw: RawParameters,
    camera: Any,
    options: Any,
    background: Tensor,
    sh_degree: int,
    *,
    training: bool,
) -> Any:
    """The package's frame of one view, its image clamped to 0..1; see its module `raw`.

    `background` (3,) RGB; only with `training` is kept what the backward pass needs.
    """
    settings = installed_package().GaussianRasterizationSettings(
        image_height=int(camera.image_height),
        image_width=int(camera.image_width),
        tanfovx=math.tan(camera.FoVx * 0.5),
        tanfovy=math.tan(camera.FoVy * 0.5),
        bg=background,
        scale_modifier=1.0,
        viewmatrix=camera.world_view_transform,
        projmatrix=camera.full_proj_transform,
        sh_degree=sh_degree,
        campos=camera.camera_center,
        prefiltered=False,
        debug=getattr(options, "debug", False),
        antialiasing=getattr(options, "antialiasing", False),
    )
    gaussians = rasterizer.RawGaussians(*raw)
    return rasterizer.render(gaussians, settings, training=training, clamp=True)
