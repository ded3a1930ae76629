# SPDX-License-Identifier: Apache-2.0
"""Loss of one view and its gradients for the raw parameters: the inner step of every loop.

Two ways to the same numbers: straight through the kernels where the installed packages offer their
autograd-free calls, else through autograd over whatever is installed. A test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gaussian_renderer import render
from gaussian_renderer.direct import direct_rasterizer, draw_directly
from gaussian_renderer.photometric import photometric_loss
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters
from utils.optional_modules import load


@dataclass(frozen=True)
class ViewLoss:
    """What one view said. The tensors are good until the next call of the same ViewGradient."""

    loss: float
    image: Tensor
    """(3,H,W) in 0..1."""
    radii: Tensor
    """(N,) int32 pixels; 0 where not visible."""
    screen_gradient: Tensor
    """(N,2) derivatives by the screen positions, NDC units."""


class ViewGradient(Protocol):
    """(1 - lambda) L1 + lambda (1 - SSIM) of a view, differentiated by the raw parameters."""

    def __call__(
        self,
        camera: Camera,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> ViewLoss:
        """The loss of `camera`'s photograph; its gradients overwrite the tensors of `out`.

        `background` is (3,) RGB in 0..1; SH bands above `sh_degree` take no part.
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


@dataclass(frozen=True)
class RenderOptions:
    """How views are drawn, whatever draws them: the pipeline options that rendering reads."""

    antialiasing: bool = False
    convert_SHs_python: bool = False
    compute_cov3D_python: bool = False
    debug: bool = False


class AutogradViewGradient:
    """Through `render` and autograd: any rasteriser, any device."""

    def __init__(self, options: RenderOptions, lambda_dssim: float) -> None:
        self._options = options
        self._lambda_dssim = lambda_dssim

    def __call__(
        self,
        camera: Camera,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> ViewLoss:
        """See ViewGradient."""
        leaves, drawn = self._draw(camera, raw, background, sh_degree)
        with torch.enable_grad():
            loss = photometric_loss(drawn["render"], camera, self._lambda_dssim)
        wanted = [*leaves, drawn["viewspace_points"]]
        *gradients, screen = torch.autograd.grad(loss, wanted, allow_unused=True)
        _write(gradients, out)
        if screen is None:
            screen = torch.zeros_like(raw.xyz)
        return ViewLoss(loss.item(), drawn["render"].detach(), drawn["radii"], screen[:, :2])

    def pull_back(
        self,
        camera: Camera,
        image_gradient: Tensor,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> Tensor:
        """See ViewGradient."""
        leaves, drawn = self._draw(camera, raw, background, sh_degree)
        image = drawn["render"]
        _write(torch.autograd.grad(image, leaves, image_gradient, allow_unused=True), out)
        return image.detach()

    def _draw(
        self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int
    ) -> tuple[RawParameters, dict[str, Any]]:
        """Leaves of `raw` and the view drawn from them."""
        leaves = raw.map(lambda tensor: tensor.detach().requires_grad_())
        model = GaussianModel.from_raw(leaves)
        model.active_sh_degree = sh_degree
        with torch.enable_grad():
            return leaves, render(camera, model, self._options, background)


def _write(gradients: Iterable[Tensor | None], out: RawParameters) -> None:
    for target, gradient in zip(out, gradients, strict=True):
        target.zero_() if gradient is None else target.copy_(gradient)


class DirectViewGradient:
    """Straight through the kernels: no autograd, no activations in torch, buffers that stay."""

    def __init__(self, options: RenderOptions, lambda_dssim: float, rasterizer: Any) -> None:
        import fused_ssim

        self._options = options
        self._lambda_dssim = lambda_dssim
        self._rasterizer = rasterizer
        self._value_and_gradient = fused_ssim.l1_ssim_value_and_gradient
        self._screen = torch.empty(0, 2)
        self._image_gradient = torch.empty(0)

    def __call__(
        self,
        camera: Camera,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> ViewLoss:
        """See ViewGradient."""
        self._fit_buffers(raw, camera)
        frame = self._draw(camera, raw, background, sh_degree)
        l1, ssim, _ = self._value_and_gradient(
            frame.image, camera.image_u8, self._lambda_dssim, self._image_gradient
        )
        frame.backward(
            self._image_gradient, self._rasterizer.RawGaussians(*out), screen=self._screen
        )
        loss = (1 - self._lambda_dssim) * l1 + self._lambda_dssim * (1 - ssim)
        return ViewLoss(loss, frame.image, frame.radii, self._screen)

    def pull_back(
        self,
        camera: Camera,
        image_gradient: Tensor,
        raw: RawParameters,
        out: RawParameters,
        background: Tensor,
        sh_degree: int,
    ) -> Tensor:
        """See ViewGradient."""
        frame = self._draw(camera, raw, background, sh_degree)
        frame.backward(image_gradient, self._rasterizer.RawGaussians(*out))
        return frame.image

    def _draw(self, camera: Camera, raw: RawParameters, background: Tensor, sh_degree: int) -> Any:
        return draw_directly(
            self._rasterizer, raw, camera, self._options, background, sh_degree, training=True
        )

    def _fit_buffers(self, raw: RawParameters, camera: Camera) -> None:
        if self._screen.shape[0] != raw.gaussian_count:
            self._screen = torch.empty(raw.gaussian_count, 2)
        if self._image_gradient.shape != camera.image_u8.shape:
            self._image_gradient = torch.empty(camera.image_u8.shape)


Differentiate = Callable[[Camera, RawParameters, RawParameters], ViewLoss]
"""A ViewGradient with its background and SH degree settled: (camera, raw, out) -> ViewLoss."""


def view_gradient(
    options: RenderOptions, lambda_dssim: float, device: torch.device
) -> ViewGradient:
    """The fastest implementation that the installed packages and the options allow."""
    rasterizer = direct_rasterizer(device, options)
    if rasterizer is not None and _fused_loss_installed():
        return DirectViewGradient(options, lambda_dssim, rasterizer)
    return AutogradViewGradient(options, lambda_dssim)


def _fused_loss_installed() -> bool:
    return hasattr(load("fused_ssim"), "l1_ssim_value_and_gradient")
