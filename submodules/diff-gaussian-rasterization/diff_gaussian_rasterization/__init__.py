# SPDX-License-Identifier: Apache-2.0
"""Differentiable rasteriser of 3D Gaussians on the CPU, with the interface of the CUDA original.

Tensors on a CUDA device are taken, too; no GPU has run these kernels yet (docs/gpu.md), and
`supported_devices` does not name them.

Code of 2023 expects (color, radii), later code (color, radii, inverse depth). The settings tell
which: only the latter sets `antialiasing`. `FAST3DGS_RASTERIZER_RETURNS=2` or `=3` in the
environment overrides this, where Python says "too many values to unpack (expected 2)" or "not
enough values to unpack (expected 3, got 2)".

`diff_gaussian_rasterization.raw` is the path without autograd, for training loops.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from . import _C
from ._C import Importance
from .adam import SparseGaussianAdam
from .relocation import compute_relocation
from .settings import GaussianRasterizationSettings

__all__ = [
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Importance",
    "SparseGaussianAdam",
    "compute_relocation",
    "rasterize_gaussians",
    "supported_devices",
]

supported_devices = ("cpu",)

RETURNS_VARIABLE = "FAST3DGS_RASTERIZER_RETURNS"


def _returned_values(settings: GaussianRasterizationSettings) -> int:
    value = os.environ.get(RETURNS_VARIABLE)
    if value is None:
        return 2 if settings.is_of_2023 else 3
    if value not in ("2", "3"):
        raise ValueError(
            f"the environment variable {RETURNS_VARIABLE} must be 2 or 3, not '{value}'."
        )
    return int(value)


def _present(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """None for None, and for the empty tensor that callers of the function form pass instead."""
    if tensor is None or (tensor.numel() == 0 and tensor.dim() <= 1):
        return None
    return tensor


class _RasterizeGaussians(torch.autograd.Function):
    """The two passes as an autograd function."""

    @staticmethod
    def forward(
        ctx: Any,
        means3D: torch.Tensor,
        means2D: torch.Tensor,
        sh: torch.Tensor | None,
        colors_precomp: torch.Tensor | None,
        opacities: torch.Tensor,
        scales: torch.Tensor | None,
        rotations: torch.Tensor | None,
        cov3Ds_precomp: torch.Tensor | None,
        raster_settings: GaussianRasterizationSettings,
        dc: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        given = _C.Parameters(
            means3D, opacities, scales, rotations, cov3Ds_precomp, colors_precomp, dc, sh
        )
        present = _C.Parameters._make([*given[:2], *map(_present, given[2:])])
        parameters = _C.check_parameters(present, raster_settings.sh_degree)
        needed = any(ctx.needs_input_grad)
        result = _C.rasterize_gaussians(parameters, raster_settings, keep=needed)
        if needed:
            ctx.frame = result.frame
            ctx.present = [tensor is not None for tensor in parameters]
            ctx.opacity_shape = opacities.shape
            ctx.screen_shape = None if means2D is None else means2D.shape
            ctx.save_for_backward(*(tensor for tensor in parameters if tensor is not None))
        ctx.mark_non_differentiable(result.radii)
        ctx.set_materialize_grads(False)
        returned = _returned_values(raster_settings)
        return (result.color, result.radii, result.inverse_depth)[:returned]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_color: Any, _: Any, grad_inverse_depth: Any = None) -> Any:
        saved = iter(ctx.saved_tensors)
        parameters = _C.Parameters._make(next(saved) if there else None for there in ctx.present)
        if grad_color is None:
            if grad_inverse_depth is None:
                return (None,) * 10
            grad_color = grad_inverse_depth.new_zeros((3, *grad_inverse_depth.shape[1:]))
        if grad_inverse_depth is not None:
            grad_inverse_depth = grad_inverse_depth.contiguous()
        g = _C.rasterize_gaussians_backward(
            parameters, ctx.frame, grad_color.contiguous(), grad_inverse_depth
        )
        screen = g.screen if ctx.screen_shape == g.means.shape else None
        opacities = g.opacities.reshape(ctx.opacity_shape)
        return (
            *(g.means, screen, g.rest, g.colors, opacities, g.scales, g.rotations, g.covariances),
            *(None, g.dc),
        )


def rasterize_gaussians(
    means3D: torch.Tensor,
    means2D: torch.Tensor,
    sh: torch.Tensor | None,
    colors_precomp: torch.Tensor | None,
    opacities: torch.Tensor,
    scales: torch.Tensor | None,
    rotations: torch.Tensor | None,
    cov3Ds_precomp: torch.Tensor | None,
    raster_settings: GaussianRasterizationSettings,
    dc: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """(color (3, H, W), radii int32 (N,)[, inverse depth (1, H, W)]), as `GaussianRasterizer`."""
    return _RasterizeGaussians.apply(
        *(means3D, means2D, sh, colors_precomp, opacities, scales, rotations, cov3Ds_precomp),
        *(raster_settings, dc),
    )


def _check_shapes(
    scales: torch.Tensor | None, rotations: torch.Tensor | None, covariances: torch.Tensor | None
) -> None:
    pair = [tensor is not None for tensor in (scales, rotations)]
    if any(pair) != all(pair) or any(pair) == (covariances is not None):
        raise Exception(
            "Please provide exactly one of either a scale and rotation pair or a precomputed "
            "3D covariance."
        )


class GaussianRasterizer(nn.Module):
    """Draws one view of any set of Gaussians."""

    def __init__(self, raster_settings: GaussianRasterizationSettings) -> None:
        super().__init__()
        self.raster_settings = raster_settings

    def markVisible(self, positions: torch.Tensor) -> torch.Tensor:
        """Bool (N,): whether each point of `positions` (N, 3) lies beyond the near plane."""
        settings = self.raster_settings
        return _C.mark_visible(positions, settings.viewmatrix, settings.projmatrix)

    @torch.no_grad()
    def visible_filter(
        self,
        means3D: torch.Tensor,
        scales: torch.Tensor | None = None,
        rotations: torch.Tensor | None = None,
        cov3D_precomp: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int32 (N,): the radii, in pixels, that `forward` returns; 0 where not in view.

        Nothing is drawn. Scaffold-GS and its relatives choose their anchors by it. Arguments and
        errors are those of `forward`.
        """
        _check_shapes(scales, rotations, cov3D_precomp)
        # What is transparent reaches no tile, so that only the projection is computed.
        transparent = torch.zeros_like(means3D[:, :1])
        given = (scales, rotations, cov3D_precomp)
        parameters = _C.Parameters(
            means3D, transparent, *given, torch.zeros_like(means3D), None, None
        )
        checked = _C.check_parameters(parameters, sh_degree=0)
        return _C.rasterize_gaussians(checked, self.raster_settings, keep=False).radii

    @torch.no_grad()
    def importance(
        self,
        means3D: torch.Tensor,
        opacities: torch.Tensor,
        scales: torch.Tensor | None = None,
        rotations: torch.Tensor | None = None,
        cov3D_precomp: torch.Tensor | None = None,
        pixel_weights: torch.Tensor | None = None,
    ) -> Importance:
        """How much each Gaussian contributes to this view: `counts`, `weights` and `largest`.

        Of such sums over the training views, scores of pruning methods are made: LightGaussian (Fan
        et al. 2024), Mini-Splatting (Fang and Wang 2024), RadSplat (Niemeyer et al. 2024).
        `pixel_weights` (H, W) are factors for pixels, such as their errors (Taming 3DGS, Mallick et
        al. 2024); the other arguments and errors are those of `forward`.
        """
        _check_shapes(scales, rotations, cov3D_precomp)
        given = (scales, rotations, cov3D_precomp)
        parameters = _C.Parameters(
            means3D, opacities, *given, torch.zeros_like(means3D), None, None
        )
        checked = _C.check_parameters(parameters, sh_degree=0)
        rendered = _C.rasterize_gaussians(checked, self.raster_settings, keep=True)
        return _C.importance(rendered, pixel_weights)

    def forward(
        self,
        means3D: torch.Tensor,
        means2D: torch.Tensor,
        opacities: torch.Tensor,
        shs: torch.Tensor | None = None,
        colors_precomp: torch.Tensor | None = None,
        scales: torch.Tensor | None = None,
        rotations: torch.Tensor | None = None,
        cov3D_precomp: torch.Tensor | None = None,
        dc: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """(color (3, H, W), radii int32 (N,) in pixels, inverse depth (1, H, W)).

        Without inverse depth for settings without `antialiasing`, which are those of 2023.

        means3D (N, 3); means2D (N, 3) is only a place for the gradient of the centres, in
        normalised device coordinates; opacities (N, 1) in 0..1; shs (N, K, 3), where `dc` (N, 1, 3)
        is given without the first coefficient; colors_precomp (N, 3); scales (N, 3); rotations
        (N, 4) wxyz of length one; cov3D_precomp (N, 6): xx, xy, xz, yy, yz, zz.

        Raises Exception unless exactly one colour and one shape is given, ValueError for a tensor
        of the wrong device, type or shape.
        """
        if (shs is None and dc is None) == (colors_precomp is None):
            raise Exception("Please provide exactly one of either SHs or precomputed colors.")
        _check_shapes(scales, rotations, cov3D_precomp)
        return rasterize_gaussians(
            *(means3D, means2D, shs, colors_precomp, opacities, scales, rotations, cov3D_precomp),
            self.raster_settings,
            dc,
        )
