# SPDX-License-Identifier: Apache-2.0
"""LPIPS, the perceptual distance of Zhang et al. 2018, as the 3DGS literature computes it."""

import functools
import logging

import torch
from torch import Tensor

from lpipsPyTorch.modules.lpips import LPIPS
from lpipsPyTorch.modules.weights import WeightsNotFound
from utils.logged_once import log_once

__all__ = ["LPIPS", "WeightsNotFound", "lpips"]

logger = logging.getLogger(__name__)


def lpips(x: Tensor, y: Tensor, net_type: str = "alex", version: str = "0.1") -> Tensor:
    """(N, 1, 1, 1) distances between images `x` and `y`, (N, 3, H, W) in 0..1.

    The network is built once per kind and device. Without its weights all distances are NaN, and a
    warning says so once: training that measures LPIPS, too, goes on. See `LPIPS` for errors.
    """
    network = _network(net_type, version, str(x.device))
    if network is None:
        return torch.full((x.shape[0] if x.dim() == 4 else 1, 1, 1, 1), torch.nan, device=x.device)
    return network(x, y)


@functools.cache
def _network(net_type: str, version: str, device: str) -> LPIPS | None:
    """None without weights."""
    try:
        return LPIPS(net_type, version).to(device)
    except WeightsNotFound as error:
        log_once(logger, f"LPIPS is not computed, its values are NaN: {error}", logging.WARNING)
        return None
