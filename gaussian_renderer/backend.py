# SPDX-License-Identifier: Apache-2.0
"""The operations of a device as one object: rendering, gradients, operations on parameters.

`choose_backend.backend_for` makes the backend for a device and the options; all other code gets it
as an argument. There are three: autograd over any installed rasteriser (autograd_backend.py), this
project's CPU kernels (cpu_backend.py) and its CUDA kernels (cuda_backend.py). Tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from scene.array_operations import ArrayOperations
from scene.cameras import Camera
from scene.raw_parameters import RawParameters


@dataclass(frozen=True)
class RenderOptions:
    """How views are drawn, by any backend: the pipeline options that rendering reads."""

    antialiasing: bool = False
    convert_SHs_python: bool = False
    compute_cov3D_python: bool = False
    debug: bool = False
    rasterizer: str = "auto"
    """See `scene.device.device_for`."""


@dataclass(frozen=True)
class ViewLoss:
    """The loss of one view, its image and statistics. Valid until the backend's next call."""

    loss: Tensor
    """(1 - lambda) L1 + lambda (1 - SSIM), and the part of the depths, if there is one; shape ().
    It stays on the device until it is read."""
    image: Tensor
    """(3,H,W) in 0..1."""
    radii: Tensor
    """(N,) int32 pixels; 0 where not visible."""
    screen_gradient: Tensor
    """(N,2) derivatives with respect to the screen positions, NDC units."""
    exposure_gradient: Tensor | None = None
    """(3,4), if the camera has an exposure."""
    depth_loss: Tensor | None = None
    """The part of the depths in `loss`, shape (), if there is one."""


class Backend(ArrayOperations, Protocol):
    """Draws and differentiates views of raw parameters, and trains them, on one device.

    `background` is (3,) RGB in 0..1; SH bands above `sh_degree` are not used. A camera's exposure
    changes the colours of its images, before they are limited to 0..1; pixels that its alpha mask
    excludes are black in the image and in the photograph that a loss compares.
    """

    def draw(
        self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int
    ) -> Tensor:
        """The image (3,H,W) in 0..1; nothing is kept for a backward pass."""
        ...

    def differentiate(
        self,
        camera: Camera,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
        lambda_dssim: float,
        depth_weight: float = 0.0,
    ) -> ViewLoss:
        """The loss of `camera`'s photograph; its gradients overwrite the tensors of `out`.

        If `depth_weight` is not 0 and the camera has a reliable map of inverse depths, the loss
        includes this weight times the mean difference from the map.
        """
        ...

    def pull_back(
        self,
        camera: Camera,
        image_gradient: Tensor,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> Tensor:
        """The image (3,H,W); the derivatives of the sum of image x `image_gradient` go to `out`."""
        ...


Differentiate = Callable[[Camera, RawParameters, RawParameters], ViewLoss]
"""`Backend.differentiate` with its other arguments bound: (camera, raw, out) -> ViewLoss."""
