# SPDX-License-Identifier: Apache-2.0
"""The relocation of 3DGS-MCMC against its formula, and against what the formula promises."""

from __future__ import annotations

import math

import pytest
import torch
from diff_gaussian_rasterization import compute_relocation
from torch import Tensor

N_MAX = 51


def binomials(n_max: int = N_MAX) -> Tensor:
    table = torch.zeros(n_max, n_max)
    for n in range(n_max):
        for k in range(n + 1):
            table[n, k] = math.comb(n, k)
    return table


def twin(opacity: float, scale: float, copies: int) -> tuple[float, float]:
    """Kheradmand et al. 2024, eq. 9, for the square root of a variance."""
    new = 1 - (1 - opacity) ** (1 / copies)
    total = math.fsum(
        math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    return new, scale * opacity / total


def test_the_formula() -> None:
    opacities = [1e-4, 0.005, 0.1, 0.5, 0.9, 0.99, 0.9999]
    cases = [(o, n) for o in opacities for n in (1, 2, 3, 7, 20, 50, 51)]
    opacity = torch.tensor([o for o, _ in cases])
    copies = torch.tensor([n for _, n in cases])
    scale = torch.linspace(0.01, 2.0, len(cases))[:, None] * torch.tensor([1.0, 0.3, 5.0])
    new_opacity, new_scale = compute_relocation(opacity, scale, copies, binomials(), N_MAX)
    for row, (o, s, (_, n)) in enumerate(zip(opacity, scale, cases, strict=True)):
        expected = [twin(float(o), float(one), n) for one in s]
        assert float(new_opacity[row]) == pytest.approx(expected[0][0], rel=1e-6)
        assert new_scale[row].tolist() == pytest.approx([s for _, s in expected], rel=1e-5)


def test_the_centre_keeps_its_opacity_and_one_copy_is_the_same() -> None:
    opacity, scale = torch.tensor([[0.3], [0.8]]), torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1]])
    copies = torch.tensor([[1], [4]])
    new_opacity, new_scale = compute_relocation(opacity, scale, copies, binomials(), N_MAX)
    assert new_opacity.shape == (2, 1) and new_scale.shape == (2, 3)
    torch.testing.assert_close(1 - (1 - new_opacity) ** copies, opacity)
    torch.testing.assert_close(new_scale[0], scale[0])
    assert (new_scale[1] < scale[1]).all()


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_extreme_opacities_stay_finite(opacity: float) -> None:
    old, scale = torch.full((N_MAX,), opacity), torch.full((N_MAX, 3), 0.5)
    copies = torch.arange(1, N_MAX + 1)
    for row in compute_relocation(old, scale, copies, binomials().flatten(), N_MAX):
        assert row.isfinite().all() and (row >= 0).all()
    assert compute_relocation(old[:0], scale[:0], copies[:0], binomials(), N_MAX)[1].shape == (0, 3)


def test_what_does_not_fit_is_named() -> None:
    opacity, scale, copies = torch.rand(3), torch.rand(3, 3), torch.tensor([1, 2, 3])
    table = binomials()
    for given, message in (
        ((opacity, scale, torch.tensor([0, 1, 2]), table, N_MAX), "N must be from 1 to n_max"),
        ((opacity, scale, torch.tensor([1, 2, 52]), table, N_MAX), "not from 1 to 52"),
        ((opacity, scale, copies[:2], table, N_MAX), r"N must have the shape .* not \(2,\)"),
        ((opacity, scale[:, :2], copies, table, N_MAX), r"scale_old must have the shape \(3, 3\)"),
        ((opacity, scale, copies, table[:5], N_MAX), "binoms must hold 51 x 51 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            compute_relocation(*given)
