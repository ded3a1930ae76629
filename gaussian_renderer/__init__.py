# SPDX-License-Identifier: Apache-2.0
"""`render`: one view of a Gaussian model, with the signature of Inria's code base."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaussian_renderer.rasterizer import Gaussians, View, rasterize
from scene.exposure import exposed
from scene.foreign_models import harmonics_of
from scene.gaussian_model import GaussianModel
from utils.sh_utils import eval_sh

__all__ = ["GaussianModel", "render"]


def render(
    viewpoint_camera: Any,
    pc: GaussianModel,
    pipe: Any,
    bg_color: Tensor,
    scaling_modifier: float = 1.0,
    separate_sh: bool | Tensor | None = False,
    override_color: Tensor | None = None,
    use_trained_exp: bool = False,
) -> dict[str, Tensor]:
    """The image and what densification needs, as a dict.

    `render` (3,H,W) in 0..1; `viewspace_points` (N,3), whose `grad` is the screen-space gradient in
    NDC units; `radii` (N,) int32 pixels; `visibility_filter` (K,1), indices of radii > 0; and
    `depth` (1,H,W), inverse depth, if the installed rasteriser computes it.

    `bg_color` (3,) is on the model's device. The camera needs FoVx, FoVy (radians), image_width,
    image_height, world_view_transform, full_proj_transform and camera_center only. `pipe` may lack
    any of its flags. The installed rasteriser determines whether SH is passed in two parts, so
    `separate_sh` has no effect; a tensor there is `override_color`, as in the 2023 signature.

    With `use_trained_exp` the model's exposure of the camera's image changes the colours; cameras
    without `image_name`, such as the network viewer's, have none. InputError for other images.
    """
    if isinstance(separate_sh, Tensor):
        override_color = separate_sh
    screen_points = torch.zeros_like(pc.get_xyz, requires_grad=torch.is_grad_enabled())
    gaussians = Gaussians(
        means=pc.get_xyz,
        screen_points=screen_points,
        opacities=pc.get_opacity,
        **_shape(pc, pipe, scaling_modifier),
        **_color(viewpoint_camera, pc, pipe, override_color),
    )
    drawn = rasterize(gaussians, _view(viewpoint_camera, pc, pipe, bg_color, scaling_modifier))
    image = drawn.image
    if use_trained_exp and hasattr(viewpoint_camera, "image_name"):
        image = exposed(image, pc.get_exposure_from_name(viewpoint_camera.image_name))
    result = {
        "render": image.clamp(0, 1),
        "viewspace_points": screen_points,
        "visibility_filter": (drawn.radii > 0).nonzero(),
        "radii": drawn.radii,
    }
    if drawn.inverse_depth is not None:
        result["depth"] = drawn.inverse_depth
    return result


def _view(
    camera: Any, model: GaussianModel, pipe: Any, background: Tensor, scale_modifier: float
) -> View:
    device = model.get_xyz.device
    return View(
        height=int(camera.image_height),
        width=int(camera.image_width),
        tan_half_fov=(math.tan(camera.FoVx * 0.5), math.tan(camera.FoVy * 0.5)),
        background=background,
        scale_modifier=scale_modifier,
        world_view=camera.world_view_transform.to(device),
        full_projection=camera.full_proj_transform.to(device),
        camera_center=camera.camera_center.to(device),
        sh_degree=model.active_sh_degree,
        debug=getattr(pipe, "debug", False),
        antialiasing=getattr(pipe, "antialiasing", False),
        rasterizer=getattr(pipe, "rasterizer", "auto"),
    )


def _shape(model: GaussianModel, pipe: Any, scale_modifier: float) -> dict[str, Tensor]:
    if getattr(pipe, "compute_cov3D_python", False):
        return {"covariance": model.get_covariance(scale_modifier)}
    return {"scaling": model.get_scaling, "rotation": model.get_rotation}


def _color(
    camera: Any, model: GaussianModel, pipe: Any, override_color: Tensor | None
) -> dict[str, Tensor]:
    if override_color is not None:
        return {"colors": override_color}
    if getattr(pipe, "convert_SHs_python", False):
        return {"colors": _colors_from_sh(camera, model)}
    sh_dc, sh_rest = harmonics_of(model)
    return {"sh_dc": sh_dc, "sh_rest": sh_rest}


def _colors_from_sh(camera: Any, model: GaussianModel) -> Tensor:
    """RGB (N,3), not below 0, of each Gaussian for this camera."""
    toward = model.get_xyz - camera.camera_center.to(model.get_xyz.device)
    coefficients = model.get_features.transpose(1, 2)
    colors = eval_sh(model.active_sh_degree, coefficients, functional.normalize(toward))
    return (colors + 0.5).clamp_min(0.0)
