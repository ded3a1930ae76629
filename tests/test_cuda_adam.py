# SPDX-License-Identifier: Apache-2.0
"""Adam's CUDA kernel, emulated, against the CPU's."""

from __future__ import annotations

import pytest
import torch
from diff_gaussian_rasterization import cuda_adam
from diff_gaussian_rasterization.adam import AdamState, adam_step, update_visible
from emulated_kernels import EmulatedKernels, emulated

BETAS, EPS = (0.9, 0.999), 1e-15
SHAPES = [(50, 3), (50, 15, 3), (50, 1), (50, 4)]


@pytest.fixture
def kernels() -> EmulatedKernels:
    return emulated("diff-gaussian-rasterization", "adam", seed=1)


def random_states(seed: int) -> list[AdamState]:
    generator = torch.Generator().manual_seed(seed)

    def numbers(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return [
        AdamState(numbers(s), numbers(s), numbers(s), numbers(s).abs(), 0.01 * (i + 1))
        for i, s in enumerate(SHAPES)
    ]


def assert_same(found: list[AdamState], expected: list[AdamState]) -> None:
    for mine, other in zip(found, expected, strict=True):
        for tensor, its in zip(mine[:4], other[:4], strict=True):
            torch.testing.assert_close(tensor, its, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("step", [1, 1000])
def test_dense_step_is_the_cpus(kernels: EmulatedKernels, step: int) -> None:
    found, expected = random_states(3), random_states(3)
    cuda_adam.adam_step(kernels, found, step, BETAS, EPS)
    adam_step(expected, step, BETAS, EPS)
    assert_same(found, expected)
    assert kernels.launched == ["adam_update"] * len(SHAPES)


def test_sparse_step_is_the_cpus(kernels: EmulatedKernels) -> None:
    found, expected, before = random_states(4), random_states(4), random_states(4)
    visible = torch.rand(50, generator=torch.Generator().manual_seed(0)) < 0.5
    cuda_adam.update_visible(kernels, found, visible, BETAS, EPS)
    update_visible(expected, visible, BETAS, EPS)
    assert_same(found, expected)
    for mine, other in zip(found, before, strict=True):
        for tensor, its in zip(mine[:4], other[:4], strict=True):
            assert torch.equal(tensor[~visible], its[~visible])


def test_an_empty_parameter_is_not_launched(kernels: EmulatedKernels) -> None:
    state = AdamState(*(torch.zeros(0, 3) for _ in range(4)), 0.1)
    cuda_adam.adam_step(kernels, [state], 1, BETAS, EPS)
    assert not kernels.launched
