# SPDX-License-Identifier: Apache-2.0
"""The five functions of gsplat that the adapter calls, plainly in PyTorch, on any device.

Signatures, shapes and conventions are those of gsplat's documentation: pixel centres at halves, the
principal point from K, screen gradients in pixels, alpha up to 0.999. One camera, no packing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.sh_utils import eval_sh

__version__ = "1.5.3"


@dataclass(frozen=True)
class Entries:
    """What isect_tiles found: per Gaussian its first and last tile, and its place by depth."""

    first: Tensor
    last: Tensor
    order: Tensor


def fully_fused_projection(
    means: Tensor,
    covars: Tensor | None,
    quats: Tensor | None,
    scales: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    calc_compensations: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    rotation, shift = viewmats[0, :3, :3], viewmats[0, :3, 3]
    x, y, z = (means @ rotation.T + shift).unbind(dim=1)
    (fx, fy), (cx, cy) = (Ks[0, 0, 0], Ks[0, 1, 1]), (Ks[0, 0, 2], Ks[0, 1, 2])
    centres = torch.stack((fx * x / z + cx, fy * y / z + cy), dim=1)
    limit_x, limit_y = 1.3 * width / (2 * fx), 1.3 * height / (2 * fy)
    bent_x, bent_y = z * (x / z).clamp(-limit_x, limit_x), z * (y / z).clamp(-limit_y, limit_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        (fx / z, zero, -fx * bent_x / z**2, zero, fy / z, -fy * bent_y / z**2), dim=1
    ).view(-1, 2, 3)
    world = _covariances(quats, scales) if covars is None else _full(covars)
    projected = jacobian @ rotation @ world @ rotation.T @ jacobian.transpose(1, 2)
    plain = torch.linalg.det(projected)
    a, b, c = projected[:, 0, 0] + eps2d, projected[:, 0, 1], projected[:, 1, 1] + eps2d
    determinant = a * c - b * b
    conics = torch.stack((c, -b, a), dim=1) / determinant[:, None]
    seen = (z > near_plane) & (determinant > 0)
    radii = torch.where(seen[:, None], 3.33 * torch.stack((a, c), dim=1).sqrt(), 0).ceil().int()
    compensations = (plain / determinant).clamp_min(0).sqrt()[None] if calc_compensations else None
    return radii[None], centres[None], z[None], conics[None], compensations


def spherical_harmonics(degrees_to_use: int, dirs: Tensor, coeffs: Tensor) -> Tensor:
    return eval_sh(degrees_to_use, coeffs.transpose(1, 2), dirs)


def isect_tiles(
    means2d: Tensor, radii: Tensor, depths: Tensor, tile_size: int, width: int, height: int
) -> tuple[Tensor, Entries, Entries]:
    # Pixel centres at integers here, as Inria's rectangles; gsplat's can be one tile larger.
    centres, extent = means2d[0] - 0.5, radii[0]
    size = torch.tensor([width, height])
    first = ((centres - extent) / tile_size).int().clamp_min(0).minimum(size)
    last = ((centres + extent + tile_size - 1) / tile_size).int().clamp_min(0).minimum(size)
    last = torch.where((extent > 0).all(dim=1, keepdim=True), last, first)
    entries = Entries(first, last, depths[0].argsort(stable=True))
    return radii.new_zeros(radii.shape[:2]), entries, entries


def isect_offset_encode(isect_ids: Entries, n_images: int, width: int, height: int) -> None:
    assert n_images == 1


def rasterize_to_pixels(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: None,
    flatten_ids: Entries,
    backgrounds: Tensor,
) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(
        torch.arange(image_height), torch.arange(image_width), indexing="ij"
    )
    pixels = torch.stack((columns, rows), dim=-1)
    tiles = pixels // tile_size
    image = torch.zeros(image_height, image_width, colors.shape[-1])
    through = torch.ones(image_height, image_width)
    ended = torch.zeros(image_height, image_width, dtype=torch.bool)
    for i in flatten_ids.order.tolist():
        inside = ((tiles >= flatten_ids.first[i]) & (tiles < flatten_ids.last[i])).all(dim=-1)
        dx, dy = (means2d[0, i] - pixels - 0.5).unbind(dim=-1)
        a, b, c = conics[0, i]
        alpha = opacities[0, i] * (-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy).exp()
        alpha = alpha.clamp_max(0.999)
        drawn = inside & (alpha >= 1 / 255) & ~ended
        after = torch.where(drawn, through * (1 - alpha), through)
        ended = ended | (drawn & (after < 1e-4))
        drawn = drawn & ~ended
        image = image + torch.where(drawn, through * alpha, 0)[..., None] * colors[0, i]
        through = torch.where(drawn, after, through)
    return (image + through[..., None] * backgrounds[0])[None], (1 - through)[None, ..., None]


def _covariances(quats: Tensor, scales: Tensor) -> Tensor:
    w, x, y, z = torch.nn.functional.normalize(quats).unbind(dim=1)
    turn = torch.stack(
        (
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ),
        dim=1,
    ).view(-1, 3, 3)
    half = turn * scales[:, None]
    return half @ half.transpose(1, 2)


def _full(upper: Tensor) -> Tensor:
    return upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].view(-1, 3, 3)
