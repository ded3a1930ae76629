# SPDX-License-Identifier: Apache-2.0
"""Which Gaussians a round keeps."""

import torch
from torch import Tensor


def rows_to_keep(scores: Tensor, fraction: float) -> Tensor:
    """Mask (N,): false for the int(fraction x N) lowest scores; among equal ones, for the first.

    A score of NaN counts as the lowest: such a Gaussian cannot be trained.
    """
    removed = int(fraction * len(scores))
    order = torch.argsort(scores.nan_to_num(nan=-1.0), stable=True)
    keep = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    keep[order[:removed]] = False
    return keep
