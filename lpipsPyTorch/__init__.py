# SPDX-License-Identifier: Apache-2.0
"""LPIPS, the perceptual distance of Zhang et al. 2018, as the 3DGS literature computes it."""

import functools

from torch import Tensor

from lpipsPyTorch.modules.lpips import LPIPS
from lpipsPyTorch.modules.weights import WeightsNotFound

__all__ = ["LPIPS", "WeightsNotFound", "lpips"]


def lpips(x: Tensor, y: Tensor, net_type: str = "alex", version: str = "0.1") -> Tensor:
    """(N, 1, 1, 1) distances between images `x` and `y`, (N, 3, H, W) in 0..1.

    The network is built once per kind and device. See `LPIPS` for the errors.
    """
    return _network(net_type, version, str(x.device))(x, y)


@functools.cache
def _network(net_type: str, version: str, device: str) -> LPIPS:
    return LPIPS(net_type, version).to(device)
