# SPDX-License-Identifier: Apache-2.0
"""Sorting and sums by CUDA kernels, emulated, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from diff_gaussian_rasterization.cuda_sort import sort_with_indices, sum_up
from emulated_kernels import EmulatedKernels, emulated


@pytest.fixture
def kernels() -> EmulatedKernels:
    return emulated("diff-gaussian-rasterization", "sort", seed=2)


def random_keys(count: int, bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 2**bits, (count,), generator=generator).to(torch.int32)


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (31, 8), (700, 9), (4097, 4), (9000, 32)])
def test_equal_keys_keep_their_order(kernels: EmulatedKernels, count: int, bits: int) -> None:
    keys = random_keys(count, bits)
    found, order = sort_with_indices(kernels, keys, bits)
    unsigned = keys.to(torch.int64) & 0xFFFFFFFF
    expected = torch.sort(unsigned, stable=True)
    assert torch.equal(found.to(torch.int64) & 0xFFFFFFFF, expected.values)
    assert torch.equal(order.to(torch.int64), expected.indices)
    assert kernels.launched.count("radix_scatter") == -(-bits // 8)


@pytest.mark.parametrize("count", [1, 255, 2048, 2049, 6000])
def test_sums_of_all_before(kernels: EmulatedKernels, count: int) -> None:
    values = random_keys(count, 10)
    expected = torch.cumsum(values, 0) - values
    sum_up(kernels, values)
    assert torch.equal(values.to(torch.int64), expected)


def test_sums_over_more_blocks_than_one_run_of_the_top(kernels: EmulatedKernels) -> None:
    """scan_top alone, because whole blocks of that many numbers take long here."""
    from diff_gaussian_rasterization.cuda_sort import _ScanArguments

    sums = random_keys(700, 10)
    expected = torch.cumsum(sums, 0) - sums
    arguments = _ScanArguments(values=sums, block_sums=sums, count=0, blocks=700)
    kernels.launch("scan_top", 1, arguments)
    assert torch.equal(sums.to(torch.int64), expected)


def test_no_keys(kernels: EmulatedKernels) -> None:
    found, order = sort_with_indices(kernels, torch.zeros(0, dtype=torch.int32), 32)
    assert len(found) == len(order) == 0
    assert not kernels.launched
