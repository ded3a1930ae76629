# SPDX-License-Identifier: Apache-2.0
"""Which Gaussians a round keeps."""

import torch
from torch import Tensor


def count_after_round(count: int, fraction: float) -> int:
    """How many of `count` Gaussians are left by a round that removes a fraction of them."""
    return count - int(fraction * count)


def rows_to_keep(scores: Tensor, count: int) -> Tensor:
    """Mask (N,): true for the `count` highest scores; among equal ones, for the last.

    A score of NaN counts as the lowest: such a Gaussian cannot be trained.
    """
    order = torch.argsort(scores.nan_to_num(nan=-1.0), stable=True)
    keep = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    keep[order[: len(scores) - count]] = False
    return keep
