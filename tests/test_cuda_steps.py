# SPDX-License-Identifier: Apache-2.0
"""The fused steps of fine-tuning and the sums over views on the CUDA path, against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_paths import on_both_paths
from diff_gaussian_rasterization import statistics
from diff_gaussian_rasterization.adam import AdamState
from diff_gaussian_rasterization.straight_through import (
    EvenGrid,
    QuantizedState,
    straight_through_step,
)
from reference.random_splats import measured, random_raw, random_sensitivity
from torch import Tensor

from gaussian_compression.grid_straight_through import (
    KernelGridStraightThrough,
    fitted_quantizer,
    with_ordered_raw_axes,
)
from gaussian_compression.settings import GridSettings
from gaussian_compression.trainable import take_step
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for

RATES = {
    "xyz": 1e-3,
    "features_dc": 2.5e-3,
    "features_rest": 5e-3,
    "opacity": 0.025,
    "scaling": 0.2,
    "rotation": 0.05,
}
SIZES = [(1, 0), (37, 1), (70, 2), (101, 3)]


def grid_steps(count: int, sh_degree: int, rates: dict[str, float]) -> tuple[list, list]:
    """(parameters, decoded values) after two steps on grids; some centres lie outside all cells."""
    raw = with_ordered_raw_axes(random_raw(count, sh_degree))
    raw.xyz[: count // 10] *= 1000
    sensitivity = measured(random_sensitivity(raw), absolute_error=0.01)
    quantizer = fitted_quantizer(raw, sensitivity, GridSettings(noise=1.6e-4 * count))
    kernels = backend_for(torch.device("cpu"), RenderOptions())
    optimizer = KernelGridStraightThrough(raw, quantizer, GridSettings(), 0.01, kernels)
    for seed in (1, 2):
        take_step(optimizer, random_raw(count, sh_degree, seed=seed), rates)
    return list(optimizer.coded), list(optimizer.seen)


@pytest.mark.parametrize(("count", "sh_degree"), SIZES)
def test_equal_parameters_decode_to_equal_values(count: int, sh_degree: int) -> None:
    rates = dict.fromkeys(RATES, 0.0)
    (_, expected), (_, found) = on_both_paths(lambda: grid_steps(count, sh_degree, rates))
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
        np.testing.assert_array_equal(np.signbit(mine.numpy()), np.signbit(other.numpy()))


@pytest.mark.parametrize(("count", "sh_degree"), SIZES)
def test_steps_on_grids_are_the_cpus(count: int, sh_degree: int) -> None:
    expected, found = on_both_paths(lambda: grid_steps(count, sh_degree, RATES))
    for mine, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    for mine, other in zip(found[1], expected[1], strict=True):
        # A value beside the middle between two symbols may round either way.
        assert int((mine != other).sum()) <= 1 + mine.numel() // 50


def straight_through(values: Tensor, rate: float) -> tuple[list[Tensor], list[tuple]]:
    """Values as quantised in three ways, the parameters, and their ranges, after one step."""
    parameters = [values.clone() for _ in range(3)]
    seen = [None, torch.full_like(values, torch.nan), torch.full_like(values, torch.nan)]
    grids = [None, None, EvenGrid(-1.5, 0.013, 200)]
    states = [
        QuantizedState(
            AdamState(p, values.flip(0), torch.zeros_like(p), torch.zeros_like(p), rate), s, g
        )
        for p, s, g in zip(parameters, seen, grids, strict=True)
    ]
    ranges = straight_through_step(states, 3)
    return [s for s in (*seen, *parameters) if s is not None], [tuple(r) for r in ranges]


def test_half_precision_and_grids_are_the_cpus() -> None:
    powers = 2.0 ** torch.arange(-27, 20)
    ties = torch.cat([powers * (1 + k / 4096) for k in range(-3, 4)])
    noise = torch.randn(2100, generator=torch.Generator().manual_seed(0))
    values = torch.cat([ties, -ties, noise, torch.tensor([0.0, -0.0, 65519.0, 65520.0, 1e30])])
    expected, found = on_both_paths(lambda: straight_through(values, 0.0))
    for mine, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(mine.numpy().view(np.int32), other.numpy().view(np.int32))
    assert found[1] == expected[1]


def test_steps_under_fake_quantisation_are_the_cpus() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    expected, found = on_both_paths(lambda: straight_through(values, 0.01))
    for mine, other in zip(found[0][2:], expected[0][2:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    assert np.array(found[1]) == pytest.approx(np.array(expected[1]), rel=1e-6)


def test_an_empty_parameter_has_the_range_zero() -> None:
    expected, found = on_both_paths(lambda: straight_through(torch.zeros(0), 0.01)[1])
    assert found == expected == [(0.0, 0.0)] * 3


def sums(width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(width)
    radii = torch.randint(-30, 30, (700,), generator=generator).clamp_min(0).to(torch.int32)
    screen = torch.randn((700, width), generator=generator)
    totals = [torch.zeros(700), torch.zeros(700, 1), torch.zeros(700, 1)]
    for _ in range(2):
        statistics.add_view(radii, screen, *totals)
    statistics.add_to([totals[1]], [screen[:, :1].contiguous()])
    return totals


@pytest.mark.parametrize("width", [2, 3])
def test_sums_over_views_are_the_cpus(width: int) -> None:
    expected, found = on_both_paths(lambda: sums(width))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weights", [1, 50])
def test_penalties_are_the_cpus(weights: int) -> None:
    values = torch.randn((50, 5, 3), generator=torch.Generator().manual_seed(0))
    values[values.abs() < 0.3] = 0.0

    def add() -> Tensor:
        gradients = torch.ones_like(values)
        statistics.add_signs(gradients, values, torch.linspace(0.1, 1, weights))
        return gradients

    expected, found = on_both_paths(add)
    assert torch.equal(found, expected)
