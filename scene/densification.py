# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: clone small Gaussians, split large ones, prune faint ones.

Kerbl et al. 2023, sec. 5.2, with the effective behaviour of the published code: the rule that
removes Gaussians large on screen has no effect there, because cloning and splitting reset the radii
before it reads them. The published results depend on this, so the rule is left out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from scene.array_operations import add_lengths
from utils.general_utils import build_rotation

if TYPE_CHECKING:
    from scene.gaussian_model import GaussianModel

# The parts of a split Gaussian are smaller by 0.8 x (number of parts): 1.6 for two.
SPLIT_SHRINKAGE = 0.8
# In world space, a Gaussian larger than this part of the scene is pruned.
LARGEST_PART_OF_SCENE = 0.1


class Schedule(Protocol):
    """The options that decide when density is controlled, in iterations counted from 1."""

    densify_from_iter: int
    densify_until_iter: int
    densification_interval: int
    opacity_reset_interval: int


def is_active(iteration: int, schedule: Schedule) -> bool:
    """Whether statistics are collected in this iteration."""
    return iteration < schedule.densify_until_iter


def densifies(iteration: int, schedule: Schedule) -> bool:
    """Whether the number of Gaussians changes after this iteration."""
    return (
        is_active(iteration, schedule)
        and iteration > schedule.densify_from_iter
        and iteration % schedule.densification_interval == 0
    )


def prunes_large(iteration: int, schedule: Schedule) -> bool:
    """Whether Gaussians large in world space are pruned: only after the first opacity reset."""
    return iteration > schedule.opacity_reset_interval


def resets_opacity(iteration: int, schedule: Schedule, white_background: bool) -> bool:
    """Whether opacities are lowered: at each interval, and on white also when cloning begins."""
    return is_active(iteration, schedule) and (
        iteration % schedule.opacity_reset_interval == 0
        or (white_background and iteration == schedule.densify_from_iter)
    )


def accumulate(model: GaussianModel, screen_gradient: Tensor, radii: Tensor) -> None:
    """Add one view to the statistics.

    `screen_gradient` (N,>=2) is in NDC units; `radii` (N,) pixels are 0 where not visible.
    """
    sums = model.max_radii2D, model.xyz_gradient_accum, model.denom
    model.operations.add_view(*sums, radii, screen_gradient)


def add_gradients(model: GaussianModel, screen_gradient: Tensor, visible: Tensor) -> None:
    """Add the norm of each visible Gaussian's screen gradient (N,>=2), and 1 to its visits.

    `visible` selects rows: booleans (N,), or indices (K,) or (K,1).
    """
    add_lengths(model.xyz_gradient_accum, model.denom, screen_gradient, visible)


def reset_statistics(model: GaussianModel) -> None:
    """Zero the gradient sums, visit counts and screen radii, for the current number of rows."""
    count, device = model.get_xyz.shape[0], model.get_xyz.device
    model.xyz_gradient_accum = torch.zeros((count, 1), device=device)
    model.denom = torch.zeros((count, 1), device=device)
    model.max_radii2D = torch.zeros(count, device=device)


def clone(model: GaussianModel, gradients: Tensor, threshold: float, extent: float) -> None:
    """Append an exact copy of each small Gaussian whose mean gradient (N,1) is large."""
    small = model.get_scaling.amax(dim=1) <= model.percent_dense * extent
    chosen = (gradients.norm(dim=-1) >= threshold) & small
    model.densification_postfix(
        model._xyz[chosen],
        model._features_dc[chosen],
        model._features_rest[chosen],
        model._opacity[chosen],
        model._scaling[chosen],
        model._rotation[chosen],
        None if model.tmp_radii is None else model.tmp_radii[chosen],
    )


def split(
    model: GaussianModel, gradients: Tensor, threshold: float, extent: float, parts: int = 2
) -> None:
    """Replace each large Gaussian whose mean gradient is large by `parts` samples of itself.

    `gradients` may have fewer rows than the model: for the rows cloned since, they are zero.
    """
    scaling = model.get_scaling
    added = scaling.shape[0] - gradients.shape[0]
    padded = functional.pad(gradients.norm(dim=-1), (0, added))
    chosen = (padded >= threshold) & (scaling.amax(dim=1) > model.percent_dense * extent)
    deviations = scaling[chosen].repeat(parts, 1)
    rotations = build_rotation(model._rotation[chosen]).repeat(parts, 1, 1)
    local = torch.normal(torch.zeros_like(deviations), deviations)
    offsets = (rotations @ local.unsqueeze(-1)).squeeze(-1)
    model.densification_postfix(
        model.get_xyz[chosen].repeat(parts, 1) + offsets,
        model._features_dc[chosen].repeat(parts, 1, 1),
        model._features_rest[chosen].repeat(parts, 1, 1),
        model._opacity[chosen].repeat(parts, 1),
        model.scaling_inverse_activation(deviations / (SPLIT_SHRINKAGE * parts)),
        model._rotation[chosen].repeat(parts, 1),
        None if model.tmp_radii is None else model.tmp_radii[chosen].repeat(parts),
    )
    model.prune_points(functional.pad(chosen, (0, deviations.shape[0])))


def densify_and_prune(
    model: GaussianModel,
    max_gradient: float,
    min_opacity: float,
    extent: float,
    prune_large: bool,
) -> None:
    """Clone, split, then remove Gaussians below `min_opacity`; with `prune_large`, large ones."""
    gradients = torch.nan_to_num(model.xyz_gradient_accum / model.denom, nan=0.0)
    model.densify_and_clone(gradients, max_gradient, extent)
    model.densify_and_split(gradients, max_gradient, extent)
    remove = (model.get_opacity < min_opacity).squeeze(-1)
    if prune_large:
        remove |= model.get_scaling.amax(dim=1) > LARGEST_PART_OF_SCENE * extent
    model.prune_points(remove)
