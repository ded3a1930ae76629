# SPDX-License-Identifier: Apache-2.0
"""What the backends with this project's kernels share: no autograd, no activations in PyTorch.

The kernel packages choose the kernels by the device of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaussian_renderer.backend import RenderOptions, ViewLoss
from gaussian_renderer.packed_views import PackedViews
from gaussian_renderer.view_loss import (
    corrected,
    exposed_gradient,
    image_loss,
    is_photometric,
    supervises_depth,
)
from scene.cameras import Camera
from scene.kernel_adam import KernelAdam
from scene.raw_parameters import RawParameters
from utils.optional_modules import load


@dataclass(frozen=True)
class Kernels:
    """The modules of the installed packages that the backend calls."""

    raw: Any
    adam: Any
    statistics: Any
    straight_through: Any
    grid_step: Any
    loss: Any


def installed_kernels() -> Kernels | None:
    """The kernels; None if a package is not this project's, or cannot be imported."""
    names = ("raw", "adam", "statistics", "straight_through", "grid_step")
    modules = {name: load(f"diff_gaussian_rasterization.{name}") for name in names}
    loss = load("fused_ssim")
    if None in modules.values() or not hasattr(loss, "l1_ssim_value_and_gradient"):
        return None
    return Kernels(loss=loss, **modules)


class KernelBackend:
    """See Backend. Buffers are reused from view to view."""

    def __init__(self, options: RenderOptions, kernels: Kernels) -> None:
        self.options, self._kernels = options, kernels
        self.range_kernels = kernels.straight_through
        self.grid_kernels = kernels.grid_step
        self._views = PackedViews(self._pack)
        self._screen = torch.empty(0, 2)
        self._image_gradient = torch.empty(0)

    def draw(
        self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int
    ) -> Tensor:
        """See Backend."""
        frame = self._frame(camera, raw, background, sh_degree, training=False)
        return corrected(frame.image, camera)

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
        """See Backend."""
        self._fit_buffers(raw, camera)
        depths = supervises_depth(camera, depth_weight)
        photometric = is_photometric(camera, depth_weight)
        photo = self._photo(camera, raw.xyz.device) if photometric else None
        frame = self._frame(camera, raw, background, sh_degree, training=True, depths=depths)
        if photo is None:
            return self._differentiate_parts(frame, camera, out, lambda_dssim, depth_weight)
        l1, ssim, _ = self._kernels.loss.l1_ssim_value_and_gradient(
            *(frame.image, photo(), lambda_dssim, self._image_gradient)
        )
        frame.backward(
            self._image_gradient, self._kernels.raw.RawGaussians(*out), screen=self._screen
        )
        value = (1 - lambda_dssim) * l1 + lambda_dssim * (1 - ssim)
        loss = torch.as_tensor(value, dtype=torch.float64)
        return ViewLoss(loss, frame.image, frame.radii, self._screen)

    def _differentiate_parts(
        self,
        frame: Any,
        camera: Camera,
        out: RawParameters,
        lambda_dssim: float,
        depth_weight: float,
    ) -> ViewLoss:
        """`differentiate` for a view with an exposure, a mask or depths."""
        found = image_loss(frame.image, frame.inverse_depth, camera, lambda_dssim, depth_weight)
        frame.backward(
            found.image_gradient.contiguous(),
            self._kernels.raw.RawGaussians(*out),
            found.depth_gradient,
            screen=self._screen,
        )
        loss = found.loss.to(torch.float64)
        return ViewLoss(
            *(loss, found.image, frame.radii, self._screen),
            *(found.exposure_gradient, found.depth_loss),
        )

    def pull_back(
        self,
        camera: Camera,
        image_gradient: Tensor,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> Tensor:
        """See Backend."""
        frame = self._frame(camera, raw, background, sh_degree, training=True)
        image, image_gradient = exposed_gradient(frame.image, camera, image_gradient)
        frame.backward(image_gradient.contiguous(), self._kernels.raw.RawGaussians(*out))
        return image

    def adam(self, groups: list[dict[str, Any]], eps: float) -> torch.optim.Adam:
        """See ArrayOperations."""
        return KernelAdam(self._kernels.adam, groups, eps)

    def add_to(self, totals: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        """See ArrayOperations."""
        self._kernels.statistics.add_to(totals, parts)

    def add_view(
        self,
        largest_radii: Tensor,
        gradient_sums: Tensor,
        visits: Tensor,
        radii: Tensor,
        screen_gradient: Tensor,
    ) -> None:
        """See ArrayOperations."""
        screen = screen_gradient.contiguous()
        self._kernels.statistics.add_view(radii, screen, largest_radii, gradient_sums, visits)

    def add_signs(self, gradients: Tensor, values: Tensor, weights: Tensor) -> None:
        """See ArrayOperations."""
        self._kernels.statistics.add_signs(gradients, values, weights)

    def _frame(
        self,
        camera: Camera,
        raw: RawParameters,
        background: Tensor,
        sh_degree: int,
        *,
        training: bool,
        depths: bool = False,
    ) -> Any:
        """The package's frame of one view, its image in 0..1 unless the camera has an exposure."""
        clamp = camera.exposure is None
        view = self._kernels.raw.View(
            numbers=self._views(camera, self._on_host(background)),
            width=int(camera.image_width),
            height=int(camera.image_height),
            sh_degree=sh_degree,
            antialiasing=self.options.antialiasing,
        )
        gaussians = self._kernels.raw.RawGaussians(*raw)
        frame = self._kernels.raw.render(
            gaussians, view, training=training, inverse_depth=depths, clamp=clamp
        )
        if not raw.gaussian_count:  # the kernel draws nothing then
            behind = background.clamp(0, 1) if clamp else background
            frame.image.copy_(behind[:, None, None].expand_as(frame.image))
        return frame

    def _pack(self, camera: Camera) -> Tensor:
        settings = self._kernels.raw.GaussianRasterizationSettings(
            image_height=int(camera.image_height),
            image_width=int(camera.image_width),
            tanfovx=math.tan(camera.FoVx * 0.5),
            tanfovy=math.tan(camera.FoVy * 0.5),
            bg=torch.zeros(3),
            scale_modifier=1.0,
            viewmatrix=camera.world_view_transform,
            projmatrix=camera.full_proj_transform,
            sh_degree=0,
            campos=camera.camera_center,
            prefiltered=False,
            debug=False,
        )
        return self._kernels.raw.pack(settings)

    def _on_host(self, background: Tensor) -> Tensor:
        """The background on the CPU, where the numbers of a view are."""
        return background

    def _photo(self, camera: Camera, device: torch.device) -> Callable[[], Tensor]:
        """A function that gives the camera's photograph on the device, called after drawing."""
        return lambda: camera.image_u8.to(device)

    def _fit_buffers(self, raw: RawParameters, camera: Camera) -> None:
        device = raw.xyz.device
        moved = self._screen.device != device
        if moved or self._screen.shape[0] != raw.gaussian_count:
            self._screen = torch.empty(raw.gaussian_count, 2, device=device)
        if moved or self._image_gradient.shape != camera.image_u8.shape:
            self._image_gradient = torch.empty(camera.image_u8.shape, device=device)
