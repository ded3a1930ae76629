# SPDX-License-Identifier: Apache-2.0
"""The description of one view."""

from __future__ import annotations

from typing import NamedTuple

import torch


class GaussianRasterizationSettings(NamedTuple):
    """One view. Matrices are for row vectors: `[x y z 1] @ matrix`."""

    image_height: int
    image_width: int
    tanfovx: float  # tangent of half the horizontal field of view
    tanfovy: float
    bg: torch.Tensor  # (3,)
    scale_modifier: float
    viewmatrix: torch.Tensor  # (4, 4), world to camera
    projmatrix: torch.Tensor  # (4, 4), world to clip space
    sh_degree: int  # evaluated; the coefficients given may be of a higher degree
    campos: torch.Tensor  # (3,), world
    prefiltered: bool  # ignored, as is `debug`: there is nothing to synchronise on a CPU
    debug: bool
    antialiasing: bool = False
