# SPDX-License-Identifier: Apache-2.0
"""Loss of one view and its gradients for the raw parameters: the inner step of every loop.

Two ways to the same numbers: straight through the kernels where the installed rasteriser offers
its autograd-free path on raw parameters, else through autograd over whatever is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gaussian_renderer import render
from gaussian_renderer.photometric import photometric_loss
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters


@dataclass(frozen=True)
class ViewLoss:
    """What one view said."""

    loss: float
    radii: Tensor
    """(N,) int32 pixels; 0 where not visible."""


class ViewGradient(Protocol):
    """(1 - lambda) L1 + lambda (1 - SSIM) of a view, differentiated by the raw parameters."""

    def __call__(self, camera: Camera, raw: RawParameters, out: RawParameters) -> ViewLoss:
        """The loss of `camera`'s photograph; its gradients overwrite the tensors of `out`."""
        ...


@dataclass(frozen=True)
class RenderOptions:
    """How views are drawn, whatever draws them."""

    background: Tensor
    """(3,) RGB in 0..1, on the model's device."""
    antialiasing: bool = False
    convert_SHs_python: bool = False
    compute_cov3D_python: bool = False
    debug: bool = False


class AutogradViewGradient:
    """Through `render` and autograd: any rasteriser, any device."""

    def __init__(self, options: RenderOptions, lambda_dssim: float) -> None:
        self._options = options
        self._lambda_dssim = lambda_dssim

    def __call__(self, camera: Camera, raw: RawParameters, out: RawParameters) -> ViewLoss:
        """See ViewGradient."""
        leaves = raw.map(lambda tensor: tensor.detach().requires_grad_())
        model = GaussianModel.from_raw(leaves)
        package = render(camera, model, self._options, self._options.background)
        loss = photometric_loss(package["render"], camera, self._lambda_dssim)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        for target, gradient in zip(out, gradients, strict=True):
            target.zero_() if gradient is None else target.copy_(gradient)
        return ViewLoss(float(loss), package["radii"])


def view_gradient(options: RenderOptions, lambda_dssim: float) -> ViewGradient:
    """The fastest implementation that the installed rasteriser allows."""
    return AutogradViewGradient(options, lambda_dssim)
