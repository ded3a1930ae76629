# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours by CUDA kernels, emulated, against the CPU's."""

from __future__ import annotations

import pytest
import torch
from emulated_kernels import EmulatedKernels, emulated
from simple_knn._C import distCUDA2
from simple_knn.cuda_knn import mean_squared_distances


@pytest.fixture
def kernels() -> EmulatedKernels:
    return emulated("simple-knn", "knn", seed=3)


def points(count: int, kind: str = "normal") -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn((count, 3), generator=generator)
    if kind == "clusters":
        values = values * 1e-3 + torch.randint(0, 5, (count, 1), generator=generator)
    if kind == "plane":
        values[:, 1] = 2.0
    if kind == "huge":
        values *= 1e38
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 9, 300])
def test_distances_are_the_cpus(kernels: EmulatedKernels, count: int) -> None:
    positions = points(count)
    found = mean_squared_distances(kernels, positions)
    torch.testing.assert_close(found, distCUDA2(positions), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["clusters", "plane", "huge"])
def test_unusual_positions(kernels: EmulatedKernels, kind: str) -> None:
    positions = points(200, kind)
    found = mean_squared_distances(kernels, positions)
    torch.testing.assert_close(found, distCUDA2(positions), rtol=1e-6, atol=0)


def test_equal_points_are_at_distance_zero(kernels: EmulatedKernels) -> None:
    assert not mean_squared_distances(kernels, torch.ones(20, 3)).any()


def test_no_points(kernels: EmulatedKernels) -> None:
    assert mean_squared_distances(kernels, torch.zeros(0, 3)).shape == (0,)
    assert not kernels.launched
