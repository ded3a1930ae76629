# SPDX-License-Identifier: Apache-2.0
"""The six trainable tensors as one value, which kernels, optimisers and quantisers take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from splat_formats.splats import Splats


class RawParameters(NamedTuple):
    """Float32 tensors of N Gaussians as stored: before exp, sigmoid and normalisation."""

    xyz: Tensor
    """(N, 3) centres, world units."""
    features_dc: Tensor
    """(N, 1, 3) SH coefficients of degree 0, RGB."""
    features_rest: Tensor
    """(N, K, 3) higher SH coefficients, RGB."""
    opacity: Tensor
    """(N, 1) logits."""
    scaling: Tensor
    """(N, 3) natural logarithms of the standard deviations, world units."""
    rotation: Tensor
    """(N, 4) quaternions w, x, y, z of any length."""

    @classmethod
    def from_splats(cls, splats: Splats, device: torch.device | str) -> RawParameters:
        """A copy of the splats on `device`, contiguous, as kernels expect it."""
        arrays = (np.ascontiguousarray(getattr(splats, name)) for name in cls._fields)
        return cls(*(torch.tensor(array, device=device) for array in arrays))

    def to_splats(self) -> Splats:
        """A copy of the tensors as NumPy arrays."""
        return Splats(**{name: t.detach().cpu().numpy().copy() for name, t in self.named()})

    def named(self) -> list[tuple[str, Tensor]]:
        """(field name, tensor) pairs, in order."""
        return list(zip(self._fields, self, strict=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> RawParameters:
        """`function` of each tensor."""
        return RawParameters(*map(function, self))

    def rows(self, keep: Tensor) -> RawParameters:
        """A copy of the rows chosen by a mask or by indices."""
        return self.map(lambda tensor: tensor[keep].contiguous())

    @property
    def gaussian_count(self) -> int:
        """Number of Gaussians."""
        return self.xyz.shape[0]

    def count_not_finite(self) -> int:
        """Number of Gaussians with a parameter that is infinite or NaN."""
        finite = [tensor.detach().isfinite().flatten(1).all(dim=1) for tensor in self]
        return self.gaussian_count - int(torch.stack(finite).all(dim=0).sum())

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return round((self.features_rest.shape[1] + 1) ** 0.5) - 1
