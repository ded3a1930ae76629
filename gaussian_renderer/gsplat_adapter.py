# SPDX-License-Identifier: Apache-2.0
"""Draws views with gsplat (Ye et al. 2024), by its public functions, in Inria's conventions.

Written for gsplat 1.5.3, from its documentation. Set to Inria's values here: the near plane, the
extent of a Gaussian, and the screen-space gradient in NDC units. What differs all the same is in
docs/gpu.md.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from gaussian_renderer.rasterizer_values import Gaussians, Rasterized, View
from scene.device import required_gsplat

NEAR = 0.2
"""World units; nearer Gaussians are not drawn (Inria's value)."""
LOW_PASS = 0.3
"""Square pixels, added to both variances of a projected Gaussian."""
TILE = 16
SIGMAS = 3.0
"""Inria draws a Gaussian in a square of so many of its largest standard deviations."""
LEAST_DISCRIMINANT = 0.1
"""Of the eigenvalues of a projected covariance (Inria's value)."""


def draw(gaussians: Gaussians, view: View) -> Rasterized:
    """Image, radii and inverse depth, with gradients of all inputs and of the screen points."""
    gsplat = required_gsplat()
    radii, means, depths, conics, compensations = gsplat.fully_fused_projection(
        gaussians.means,
        gaussians.covariance,
        gaussians.rotation,
        None if gaussians.scaling is None else gaussians.scaling * view.scale_modifier,
        view.world_view.t()[None].contiguous(),
        intrinsics(view)[None],
        view.width,
        view.height,
        eps2d=LOW_PASS,
        near_plane=NEAR,
        calc_compensations=view.antialiasing,
    )
    to_pixels = means.new_tensor([view.width / 2, view.height / 2])
    means = means + gaussians.screen_points[None, :, :2] * to_pixels
    visible = (radii > 0).all(dim=-1)
    extent = square_radii(conics.detach(), visible)
    depths = torch.where(visible, depths, 1)  # gsplat leaves the others undefined
    opacities = gaussians.opacities[:, 0][None]
    if compensations is not None:
        opacities = opacities * compensations
    tiles = -(-view.width // TILE), -(-view.height // TILE)
    _, entries, order = gsplat.isect_tiles(
        means.detach(),
        extent[..., None].expand(-1, -1, 2).contiguous(),
        depths.detach(),
        TILE,
        *tiles,
    )
    image, _ = gsplat.rasterize_to_pixels(
        means,
        conics,
        torch.cat((_colors(gsplat, gaussians, view)[None], 1 / depths[..., None]), dim=-1),
        opacities,
        view.width,
        view.height,
        TILE,
        gsplat.isect_offset_encode(entries, 1, *tiles),
        order,
        backgrounds=functional.pad(view.background, (0, 1))[None],
    )
    channels = image[0].permute(2, 0, 1)
    return Rasterized(channels[:3], extent[0], channels[3:])


def intrinsics(view: View) -> Tensor:
    """(3,3) focal lengths and principal point in pixels, with pixel centres at halves."""
    perspective = torch.linalg.solve(view.world_view.double(), view.full_projection.double())
    size = torch.tensor([view.width, view.height], dtype=torch.float64, device=perspective.device)
    focal = size / 2 / torch.tensor(view.tan_half_fov, dtype=torch.float64, device=size.device)
    centre = size / 2 * (1 + perspective[2, :2])
    matrix = torch.eye(3, dtype=torch.float64, device=size.device)
    matrix[0, 0], matrix[1, 1] = focal
    matrix[:2, 2] = centre
    return matrix.to(view.world_view.dtype)


def square_radii(conics: Tensor, visible: Tensor) -> Tensor:
    """(1,N) int32 pixels: 3 times the largest standard deviation, as Inria's code base draws."""
    a, b, c = conics.unbind(dim=-1)  # of the inverse of the covariance
    determinant = 1 / (a * c - b * b)
    middle = (a + c) / 2 * determinant
    discriminant = (middle * middle - determinant).clamp_min(LEAST_DISCRIMINANT)
    radii = (SIGMAS * (middle + discriminant.sqrt()).sqrt()).ceil()
    return torch.where(visible, radii, 0).nan_to_num(0, 0, 0).int()


def _colors(gsplat: ModuleType, gaussians: Gaussians, view: View) -> Tensor:
    if gaussians.colors is not None:
        return gaussians.colors
    assert gaussians.sh_dc is not None and gaussians.sh_rest is not None
    coefficients = torch.cat((gaussians.sh_dc, gaussians.sh_rest), dim=1)
    directions = functional.normalize(gaussians.means - view.camera_center)
    colors = gsplat.spherical_harmonics(view.sh_degree, directions, coefficients)
    return (colors + 0.5).clamp_min(0)
