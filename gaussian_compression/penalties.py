# SPDX-License-Identifier: Apache-2.0
"""Penalties: the terms of fine-tuning's loss besides the photometric loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gaussian_compression.settings import FinetuneSettings
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters


class Penalty(Protocol):
    """A term of the loss that depends on the parameters alone."""

    def add(self, coded: RawParameters, gradients: RawParameters) -> None:
        """Add its gradients at `coded` to `gradients`, in place."""
        ...


@dataclass(frozen=True)
class ShMagnitude:
    """The weighted sum of the magnitudes of the SH coefficients above degree 0."""

    weights: Tensor
    """One number for all Gaussians, shape (1,), or one for each, (N,)."""
    operations: ArrayOperations

    def add(self, coded: RawParameters, gradients: RawParameters) -> None:
        """See Penalty."""
        self.operations.add_signs(gradients.features_rest, coded.features_rest, self.weights)


def penalties_of(
    loss: FinetuneSettings, raw: RawParameters, operations: ArrayOperations
) -> Sequence[Penalty]:
    """The one on the mean magnitude of SH, if its weight is not 0."""
    values = raw.features_rest
    if not (loss.sh_sparsity and values.numel()):
        return []
    weight = torch.tensor([loss.sh_sparsity / values.numel()], device=values.device)
    return [ShMagnitude(weight, operations)]
