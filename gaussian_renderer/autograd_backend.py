# SPDX-License-Identifier: Apache-2.0
"""The backend that uses `render` and autograd: any rasteriser, any device, any options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gaussian_renderer import render
from gaussian_renderer.backend import RenderOptions, ViewLoss
from gaussian_renderer.photometric import photometric_loss
from gaussian_renderer.view_loss import depth_loss, supervises_depth
from scene.array_operations import TorchOperations
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters


class AutogradBackend(TorchOperations):
    """See Backend."""

    def __init__(self, options: RenderOptions) -> None:
        self.options = options

    @torch.no_grad()
    def draw(
        self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int
    ) -> Tensor:
        """See Backend."""
        return self._render(camera, raw, background, sh_degree, camera.exposure)["render"]

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
        exposure = camera.exposure
        if exposure is not None:
            exposure = exposure.detach().to(raw.xyz.device).requires_grad_()
        leaves, drawn = self._draw_leaves(camera, raw, background, sh_degree, exposure)
        depth_part = None
        with torch.enable_grad():
            loss = photometric_loss(drawn["render"], camera, lambda_dssim)
            if supervises_depth(camera, depth_weight):
                depth_part = depth_weight * depth_loss(drawn.get("depth"), camera)
                loss = loss + depth_part
        wanted = [*leaves, drawn["viewspace_points"], *([] if exposure is None else [exposure])]
        found = list(torch.autograd.grad(loss, wanted, allow_unused=True))
        exposure_gradient = None if exposure is None else found.pop()
        screen = found.pop()
        _write(found, out)
        return ViewLoss(
            loss=loss.detach(),
            image=drawn["render"].detach(),
            radii=drawn["radii"],
            screen_gradient=(torch.zeros_like(raw.xyz) if screen is None else screen)[:, :2],
            exposure_gradient=exposure_gradient,
            depth_loss=None if depth_part is None else depth_part.detach(),
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
        leaves, drawn = self._draw_leaves(camera, raw, background, sh_degree, camera.exposure)
        image = drawn["render"]
        _write(torch.autograd.grad(image, leaves, image_gradient, allow_unused=True), out)
        return image.detach()

    def _draw_leaves(
        self,
        camera: Camera,
        raw: RawParameters,
        background: Tensor,
        sh_degree: int,
        exposure: Tensor | None,
    ) -> tuple[RawParameters, dict[str, Any]]:
        """Leaf tensors with the values of `raw`, and the view rendered from them."""
        leaves = raw.map(lambda tensor: tensor.detach().requires_grad_())
        with torch.enable_grad():
            return leaves, self._render(camera, leaves, background, sh_degree, exposure)

    def _render(
        self,
        camera: Camera,
        raw: RawParameters,
        background: Tensor,
        sh_degree: int,
        exposure: Tensor | None,
    ) -> dict[str, Tensor]:
        model = GaussianModel.from_raw(raw)
        model.active_sh_degree = sh_degree
        if exposure is not None:
            model.pretrained_exposures = {camera.image_name: exposure}
        trained = exposure is not None
        return render(camera, model, self.options, background, use_trained_exp=trained)


def _write(gradients: Iterable[Tensor | None], out: RawParameters) -> None:
    for target, gradient in zip(out, gradients, strict=True):
        target.zero_() if gradient is None else target.copy_(gradient)
