# SPDX-License-Identifier: Apache-2.0
"""Operations on whole arrays of parameters: Adam, sums over views, quantised steps.

`ArrayOperations` is the interface; `TorchOperations` implements it in PyTorch, for any device. The
implementation with compiled kernels belongs to the backend of a device (gaussian_renderer.backend).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from scene.kernel_adam import PlainAdam


class ArrayOperations(Protocol):
    """Operations on float32 tensors of one device. Those named `add_...` work in place."""

    @property
    def range_kernels(self) -> Any | None:
        """Fused steps on grids that follow the values' ranges (version 1 of the file).

        A module with the interface of `diff_gaussian_rasterization.straight_through`, or None.
        """
        ...

    @property
    def grid_kernels(self) -> Any | None:
        """Fused steps on the grids of a version-2 file.

        A module with the interface of `diff_gaussian_rasterization.grid_step`, or None.
        """
        ...

    def adam(self, groups: list[dict[str, Any]], eps: float) -> torch.optim.Adam:
        """Adam over parameter groups, each with its own learning rate."""
        ...

    def add_to(self, totals: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        """Add each part to its total."""
        ...

    def add_view(
        self,
        largest_radii: Tensor,
        gradient_sums: Tensor,
        visits: Tensor,
        radii: Tensor,
        screen_gradient: Tensor,
    ) -> None:
        """Add one view to the statistics of densification: (N,), (N,1) and (N,1).

        `radii` int32 (N,), 0 where not visible; of `screen_gradient` (N,>=2) the first two columns
        are used. Where visible, the gradient's length is added to the sums and 1 to the visits.
        """
        ...

    def add_signs(self, gradients: Tensor, values: Tensor, weights: Tensor) -> None:
        """Add weight x sign(value): the gradient of the weighted sum of magnitudes.

        `gradients` and `values` (N,...); `weights` one number for all, shape (1,), or one per row.
        """
        ...


class TorchOperations:
    """See ArrayOperations."""

    range_kernels: Any | None = None
    grid_kernels: Any | None = None

    def adam(self, groups: list[dict[str, Any]], eps: float) -> torch.optim.Adam:
        """See ArrayOperations."""
        return PlainAdam(groups, lr=0.0, eps=eps, fused=True)

    @torch.no_grad()
    def add_to(self, totals: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        """See ArrayOperations."""
        for total, part in zip(totals, parts, strict=True):
            total.add_(part)

    @torch.no_grad()
    def add_view(
        self,
        largest_radii: Tensor,
        gradient_sums: Tensor,
        visits: Tensor,
        radii: Tensor,
        screen_gradient: Tensor,
    ) -> None:
        """See ArrayOperations."""
        torch.maximum(largest_radii, radii.to(largest_radii.dtype), out=largest_radii)
        add_lengths(gradient_sums, visits, screen_gradient, radii > 0)

    @torch.no_grad()
    def add_signs(self, gradients: Tensor, values: Tensor, weights: Tensor) -> None:
        """See ArrayOperations."""
        gradients.flatten(1).addcmul_(values.flatten(1).sign(), weights[:, None])


def add_lengths(
    gradient_sums: Tensor, visits: Tensor, screen_gradient: Tensor, visible: Tensor
) -> None:
    """Add the length of each visible Gaussian's screen gradient (N,>=2), and 1 to its visits.

    `visible` selects rows: booleans (N,), or indices (K,) or (K,1).
    """
    x, y = screen_gradient[:, 0], screen_gradient[:, 1]
    lengths = (x * x + y * y).sqrt_().unsqueeze(1)
    if visible.dtype == torch.bool:
        # Whole rows cost less than gathering and scattering the visible ones.
        gradient_sums += lengths * visible.unsqueeze(1)
        visits += visible.unsqueeze(1)
    else:
        rows = visible.flatten()
        gradient_sums[rows] += lengths[rows]
        visits[rows] += 1
