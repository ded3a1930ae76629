# SPDX-License-Identifier: Apache-2.0
"""Opacities and scales of Gaussians that share the place of one (3DGS-MCMC).

Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain Monte Carlo", eq. 9.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS_AT_ONCE = 1 << 16  # bounds the memory of the sums


@torch.no_grad()
def compute_relocation(
    opacity_old: Tensor, scale_old: Tensor, N: Tensor, binoms: Tensor, n_max: int
) -> tuple[Tensor, Tensor]:
    """(opacities, scales) of each of `N` equal Gaussians that together look like the old one.

    opacity_old (M,) or (M, 1) in 0..1; scale_old (M, 3), standard deviations; N, whole numbers (M,)
    or (M, 1) from 1 to `n_max`; binoms holds n over k at [n, k], for n and k below `n_max`. The
    results have the shapes and types of the old values. Raises ValueError for others.
    """
    count = _check(opacity_old, scale_old, N, binoms, n_max)
    # Sums of alternating terms: float32 is too coarse for large N and opacities near 1, and float64
    # for an opacity of 1, for which the largest float32 below it is taken.
    opacity = opacity_old.reshape(-1).double().clamp(0.0, 1.0 - 2.0**-24)
    copies = N.reshape(-1).long()
    new_opacity = -torch.expm1(torch.log1p(-opacity) / copies)
    # Row n: the binomials that the inner sum over k meets for all i up to n + 1.
    summed = binoms.reshape(n_max, n_max).double().tril().cumsum(0)
    k = torch.arange(n_max, device=summed.device, dtype=torch.float64)
    weights = summed * torch.where(k % 2 == 0, 1.0, -1.0) / (k + 1).sqrt()
    factor = torch.ones_like(opacity)
    for begin in range(0, count, _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        powers = new_opacity[rows, None] ** (k + 1)
        total = (weights[copies[rows] - 1] * powers).sum(1)
        # Both are 0 for a transparent Gaussian, whose copies keep its size.
        factor[rows] = torch.where(total > 0, opacity[rows] / total, 1.0)
    new_scale = scale_old.double() * factor[:, None]
    return new_opacity.to(opacity_old.dtype).reshape(opacity_old.shape), new_scale.to(scale_old)


def _check(opacity: Tensor, scale: Tensor, copies: Tensor, binoms: Tensor, n_max: int) -> int:
    """The number of Gaussians."""
    count = opacity.shape[0] if opacity.dim() else -1
    for name, tensor in (("opacity_old", opacity), ("N", copies)):
        if tuple(tensor.shape) not in ((count,), (count, 1)):
            raise ValueError(
                f"{name} must have the shape (M,) or (M, 1), one M for all, not "
                f"{tuple(tensor.shape)}."
            )
    if tuple(scale.shape) != (count, 3):
        raise ValueError(f"scale_old must have the shape ({count}, 3), not {tuple(scale.shape)}.")
    if binoms.numel() != n_max * n_max:
        raise ValueError(
            f"binoms must hold {n_max} x {n_max} numbers, for n_max {n_max}, not {binoms.numel()}."
        )
    if count > 0 and (int(copies.min()) < 1 or int(copies.max()) > n_max):
        raise ValueError(
            f"N must be from 1 to n_max, which is {n_max}, not from {int(copies.min())} to "
            f"{int(copies.max())}."
        )
    return count
