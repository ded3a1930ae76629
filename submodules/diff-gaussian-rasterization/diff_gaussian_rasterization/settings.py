# SPDX-License-Identifier: Apache-2.0
"""The description of one view."""

from __future__ import annotations

from typing import NamedTuple

import torch

LOW_PASS = 0.3
"""Pixels squared that are added to both variances of every Gaussian on the screen."""


class GaussianRasterizationSettings(NamedTuple):
    """One view. Matrices are for row vectors: `[x y z 1] @ matrix`.

    Without `antialiasing` the settings are those of 2023, and so are the values that the rasteriser
    returns: (color, radii), without inverse depth.
    """

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
    antialiasing: bool | None = None  # compensate opacities for the low-pass filter
    kernel_size: float | None = None
    """Variance of the low-pass filter, pixels squared; None: 0.3 (Yu et al. 2024, Mip-Splatting).

    Where it is given, opacities are compensated unless `antialiasing` is False.
    """
    subpixel_offset: torch.Tensor | None = None
    """(H, W, 2), pixels, float32: x and y from the centre of each pixel to where it is sampled.

    None: 0. On the device of the Gaussians. It gets no gradient.
    """

    def compensates(self) -> bool:
        """Whether opacities are compensated for the blur of the low-pass filter."""
        if self.antialiasing is None:
            return self.kernel_size is not None
        return bool(self.antialiasing)

    @property
    def is_of_2023(self) -> bool:
        """Whether these are settings of 2023, whose rasteriser returned no inverse depth."""
        return self.antialiasing is None
