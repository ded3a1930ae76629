# SPDX-License-Identifier: Apache-2.0
"""Raw parameters as a trained model might have them, without a scene."""

import torch

from gaussian_compression.sensitivity import RenderSensitivity
from scene.raw_parameters import RawParameters


def random_raw(count: int = 300, sh_degree: int = 3, seed: int = 0) -> RawParameters:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return RawParameters(
        xyz=4 * normal(count, 3),
        features_dc=normal(count, 1, 3),
        features_rest=0.1 * normal(count, (sh_degree + 1) ** 2 - 1, 3),
        opacity=3 * normal(count, 1),
        scaling=normal(count, 3) - 4,
        rotation=normal(count, 4),
    )


def random_sensitivity(raw: RawParameters) -> RawParameters:
    """Squared sensitivities, of similar size within a Gaussian."""
    generator = torch.Generator().manual_seed(7)
    size = torch.exp(torch.randn(raw.gaussian_count, generator=generator))
    return raw.map(
        lambda t: size.reshape(-1, *[1] * (t.dim() - 1)) * torch.rand(t.shape, generator=generator)
    )


def measured(per_parameter: RawParameters, absolute_error: float = 0.5) -> RenderSensitivity:
    """Sensitivities as if measured at 30 dB in views whose pixels are wider than any Gaussian."""
    pixel_sizes = torch.full_like(per_parameter.xyz[:, 0], 1e3)
    return RenderSensitivity(per_parameter, 30.0, absolute_error, pixel_sizes)
