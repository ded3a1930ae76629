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
        return self._render(camera, raw, background, sh_degree)["render"]

    def differentiate(
        self,
        camera: Camera,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
        lambda_dssim: float,
    ) -> ViewLoss:
        """See Backend."""
        leaves, drawn = self._draw_leaves(camera, raw, background, sh_degree)
        with torch.enable_grad():
            loss = photometric_loss(drawn["render"], camera, lambda_dssim)
        wanted = [*leaves, drawn["viewspace_points"]]
        *gradients, screen = torch.autograd.grad(loss, wanted, allow_unused=True)
        _write(gradients, out)
        if screen is None:
            screen = torch.zeros_like(raw.xyz)
        return ViewLoss(loss.detach(), drawn["render"].detach(), drawn["radii"], screen[:, :2])

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
        leaves, drawn = self._draw_leaves(camera, raw, background, sh_degree)
        image = drawn["render"]
        _write(torch.autograd.grad(image, leaves, image_gradient, allow_unused=True), out)
        return image.detach()

    def _draw_leaves(
        self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int
    ) -> tuple[RawParameters, dict[str, Any]]:
        """Leaf tensors with the values of `raw`, and the view rendered from them."""
        leaves = raw.map(lambda tensor: tensor.detach().requires_grad_())
        with torch.enable_grad():
            return leaves, self._render(camera, leaves, background, sh_degree)

    def _render(
        self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int
    ) -> dict[str, Tensor]:
        model = GaussianModel.from_raw(raw)
        model.active_sh_degree = sh_degree
        return render(camera, model, self.options, background)


def _write(gradients: Iterable[Tensor | None], out: RawParameters) -> None:
    for target, gradient in zip(out, gradients, strict=True):
        target.zero_() if gradient is None else target.copy_(gradient)
