# SPDX-License-Identifier: Apache-2.0
"""The Gaussians that training starts with: one for each point of a cloud."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scene.raw_parameters import RawParameters
from utils.errors import InputError
from utils.graphics_utils import BasicPointCloud
from utils.optional_modules import load_required
from utils.sh_utils import RGB2SH

INITIAL_OPACITY = 0.1
# Squared distance, world units: keeps the logarithm finite where points coincide.
MIN_SQUARED_SPACING = 1e-7


def gaussians_of_points(
    cloud: BasicPointCloud,
    sh_degree: int,
    inverse_opacity: Callable[[Tensor], Tensor],
    device: torch.device,
) -> RawParameters:
    """One isotropic Gaussian per point, in its colour, sized by its neighbours.

    `inverse_opacity` gives the stored values of opacities. InputError for fewer than 4 points.
    """
    points = torch.tensor(np.asarray(cloud.points), dtype=torch.float32, device=device)
    colors = torch.tensor(np.asarray(cloud.colors), dtype=torch.float32, device=device)
    count, higher = points.shape[0], (sh_degree + 1) ** 2 - 1
    rotation = torch.zeros((count, 4), device=device)
    rotation[:, 0] = 1
    return RawParameters(
        xyz=points,
        features_dc=RGB2SH(colors).unsqueeze(1),
        features_rest=torch.zeros((count, higher, 3), device=device),
        opacity=inverse_opacity(torch.full((count, 1), INITIAL_OPACITY, device=device)),
        scaling=initial_log_scaling(points),
        rotation=rotation,
    )


def initial_log_scaling(points: Tensor) -> Tensor:
    """Log of the root mean squared distance to the three nearest neighbours, on all axes.

    Points (N,3) to (N,3). InputError for fewer than 4 points.
    """
    if points.shape[0] < 4:
        raise InputError(
            f"the initial point cloud needs at least 4 points, but it has {points.shape[0]}"
        )
    simple_knn = load_required(
        "simple_knn._C", "starting a model from points", "pip install submodules/simple-knn"
    )
    spacing = simple_knn.distCUDA2(points).clamp_min(MIN_SQUARED_SPACING).sqrt()
    return spacing.log().unsqueeze(-1).repeat(1, 3)
