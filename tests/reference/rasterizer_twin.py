# SPDX-License-Identifier: Apache-2.0
"""The rasteriser once more, written plainly in PyTorch float64, to compare values and gradients.

Every pixel evaluates every Gaussian, without tiles; but a Gaussian is drawn only within the tile
rectangle around its radius, which is part of the definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 16


@dataclass(frozen=True)
class View:
    """A camera; the fields are those of GaussianRasterizationSettings."""

    height: int
    width: int
    tan_x: float
    tan_y: float
    background: Tensor
    scale_modifier: float
    view: Tensor
    projection: Tensor
    sh_degree: int
    position: Tensor
    antialiasing: bool
    low_pass: float
    offsets: Tensor | None = None
    """(H, W, 2), pixels: where pixels are sampled, from their centres."""

    @property
    def margin(self) -> float:
        """The largest component of the offsets."""
        return 0.0 if self.offsets is None else float(self.offsets.abs().max())


@dataclass(frozen=True)
class Gaussians:
    """float64 tensors; either shs or colors, either scales and rotations or covariances."""

    means: Tensor
    opacities: Tensor
    shs: Tensor | None = None
    colors: Tensor | None = None
    scales: Tensor | None = None
    rotations: Tensor | None = None
    covariances: Tensor | None = None


@dataclass(frozen=True)
class Rendering:
    """image (3, H, W), inverse_depth (1, H, W), radii (N,), weights (N, H, W).

    The weights are those of blending, alpha times transmittance, where a Gaussian changes a pixel,
    and -1 elsewhere.
    """

    image: Tensor
    inverse_depth: Tensor
    radii: Tensor
    weights: Tensor


def render(g: Gaussians, view: View, screen_offset: Tensor) -> Rendering:
    """The picture; `screen_offset` (N, 2), zeros, moves the centres in device coordinates."""
    ones = torch.ones_like(g.means[:, :1])
    camera_space = (torch.cat([g.means, ones], 1) @ view.view)[:, :3]
    in_front = camera_space[:, 2] > 0.2
    # Gaussians behind the camera are in no sum; a depth of 1 keeps their numbers finite.
    depth = torch.where(in_front, camera_space[:, 2], 1.0)

    clip = torch.cat([g.means, ones], 1) @ view.projection
    device = clip[:, :2] / (clip[:, 3:] + 1e-7) + screen_offset
    size = torch.tensor([view.width, view.height], dtype=torch.float64)
    center = ((device + 1) * size - 1) / 2

    covariance = screen_covariance(g, view, camera_space, depth)
    determinant = torch.linalg.det(covariance)
    blurred = covariance + view.low_pass * torch.eye(2, dtype=torch.float64)
    blurred_determinant = torch.linalg.det(blurred)
    opacity = g.opacities[:, 0]
    if view.antialiasing:
        opacity = opacity * (determinant / blurred_determinant).clamp_min(2.5e-5).sqrt()
    conic = torch.linalg.inv(blurred)

    radius, rectangle = radius_and_rectangle(center, blurred, blurred_determinant, view)
    visible = in_front & (rectangle[:, 0] < rectangle[:, 2]) & (rectangle[:, 1] < rectangle[:, 3])
    order = torch.argsort(camera_space[:, 2].float(), stable=True)
    order = order[visible[order]]
    color = colors(g, view)
    values = torch.cat([color, 1 / depth[:, None]], 1)
    blended, left_over, drawn = blend(
        center[order], conic[order], opacity[order], values[order], rectangle[order], view
    )
    image = blended[:, :3] + left_over[:, None] * view.background
    weights = torch.full((len(g.means), view.height, view.width), -1.0, dtype=torch.float64)
    weights[order] = drawn.reshape(-1, view.height, view.width)
    return Rendering(
        image.T.reshape(3, view.height, view.width),
        blended[:, 3].reshape(1, view.height, view.width),
        torch.where(visible, radius, 0).int(),
        weights,
    )


def screen_covariance(g: Gaussians, view: View, camera_space: Tensor, depth: Tensor) -> Tensor:
    """(N, 2, 2) in pixels squared, before the low-pass filter."""
    focal_x = view.width / (2 * view.tan_x)
    focal_y = view.height / (2 * view.tan_y)
    clamped = []
    perspective = torch.linalg.inv(view.view) @ view.projection
    for axis, tangent in ((0, view.tan_x), (1, view.tan_y)):
        ratio = camera_space[:, axis] / depth
        # Off-axis views: the image's centre is not on the optical axis.
        middle = float(-perspective[2, axis] / perspective[axis, axis])
        low, high = middle - 1.3 * tangent, middle + 1.3 * tangent
        outside = (ratio < low) | (ratio > high)
        # Where it is clamped it counts as a constant, also with respect to the depth.
        constant = (ratio.clamp(low, high) * depth).detach()
        clamped.append(torch.where(outside, constant, camera_space[:, axis]))
    zero = torch.zeros_like(depth)
    jacobian = torch.stack(
        [
            torch.stack([focal_x / depth, zero, -focal_x * clamped[0] / depth**2], 1),
            torch.stack([zero, focal_y / depth, -focal_y * clamped[1] / depth**2], 1),
        ],
        1,
    )
    projection = jacobian @ view.view[:3, :3].T
    return projection @ world_covariance(g, view.scale_modifier) @ projection.transpose(1, 2)


def world_covariance(g: Gaussians, scale_modifier: float) -> Tensor:
    """(N, 3, 3)."""
    if g.covariances is not None:
        c = g.covariances
        return c[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    assert g.rotations is not None and g.scales is not None
    w, x, y, z = g.rotations.unbind(1)
    rotation = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        1,
    ).reshape(-1, 3, 3)
    axes = rotation * (scale_modifier * g.scales)[:, None, :]
    return axes @ axes.transpose(1, 2)


def radius_and_rectangle(
    center: Tensor, blurred: Tensor, determinant: Tensor, view: View
) -> tuple[Tensor, Tensor]:
    """Radius in whole pixels, and (x0, y0, x1, y1) in tiles, clamped to the image."""
    middle = (blurred[:, 0, 0] + blurred[:, 1, 1]) / 2
    gap = (middle**2 - determinant).clamp_min(0.1).sqrt()
    radius = (3 * (middle + gap).sqrt()).ceil().detach()
    grid = torch.tensor([math.ceil(view.width / TILE), math.ceil(view.height / TILE)])
    reach = radius[:, None] + view.margin
    low = ((center.detach() - reach) / TILE).trunc()
    high = ((center.detach() + reach + TILE - 1) / TILE).trunc()
    corners = [torch.minimum(corner.clamp_min(0), grid) for corner in (low, high)]
    return radius, torch.cat(corners, 1)


def colors(g: Gaussians, view: View) -> Tensor:
    """(N, 3), not negative."""
    if g.colors is not None:
        return g.colors
    assert g.shs is not None
    direction = torch.nn.functional.normalize(g.means - view.position, dim=1)
    basis = harmonics(view.sh_degree, direction)
    return (torch.einsum("nk,nkc->nc", basis, g.shs[:, : basis.shape[1]]) + 0.5).clamp_min(0)


def harmonics(degree: int, direction: Tensor) -> Tensor:
    """The real spherical harmonics up to the degree, (N, (degree + 1)^2)."""
    x, y, z = direction.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    functions = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        c = 0.4886025119029199
        functions += [-c * y, c * z, -c * x]
    if degree >= 2:
        c, d, e = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
        functions += [c * x * y, -c * y * z, d * (2 * zz - xx - yy), -c * x * z, e * (xx - yy)]
    if degree >= 3:
        functions += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(functions, 1)


def blend(
    center: Tensor, conic: Tensor, opacity: Tensor, values: Tensor, rectangle: Tensor, view: View
) -> tuple[Tensor, Tensor, Tensor]:
    """Front to back: blended values (pixels, 4), and the transmittance left over (pixels,).

    The last are the weights of `Rendering`, (Gaussians, pixels).
    """
    rows, columns = torch.meshgrid(
        torch.arange(view.height), torch.arange(view.width), indexing="ij"
    )
    pixels = torch.stack([columns.flatten(), rows.flatten()], 1).double()
    total = pixels.new_zeros(len(pixels), values.shape[1])
    transmittance = pixels.new_ones(len(pixels))
    stopped = torch.zeros(len(pixels), dtype=torch.bool)
    tile = (pixels / TILE).floor()
    weights = []
    if view.offsets is not None:
        pixels = pixels + view.offsets.reshape(-1, 2).double()
    for i in range(len(center)):
        inside = ((tile >= rectangle[i, :2]) & (tile < rectangle[i, 2:])).all(1)
        offset = center[i] - pixels
        power = -0.5 * torch.einsum("pi,ij,pj->p", offset, conic[i], offset)
        unclamped = opacity[i] * power.exp()
        # The gradient ignores the clamp.
        alpha = unclamped + (unclamped.clamp_max(0.99) - unclamped).detach()
        drawn = inside & (power <= 0) & (alpha >= 1 / 255) & ~stopped
        after = transmittance * (1 - alpha)
        stopped = stopped | (drawn & (after < 1e-4))
        drawn = drawn & ~stopped
        weight = torch.where(drawn, alpha * transmittance, 0.0)
        weights.append(torch.where(drawn, weight, -1.0).detach())
        total = total + weight[:, None] * values[i]
        transmittance = torch.where(drawn, after, transmittance)
    return total, transmittance, torch.stack(weights or [pixels.new_empty(0)])
