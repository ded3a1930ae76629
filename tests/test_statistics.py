# SPDX-License-Identifier: Apache-2.0
"""Sums over views: the kernels against PyTorch's own operations."""

import pytest
import torch
from diff_gaussian_rasterization import statistics
from torch import Tensor

from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.array_operations import ArrayOperations, TorchOperations

COUNT = 40_000  # several chunks of the kernels


def view(seed: int) -> tuple[Tensor, Tensor]:
    """(radii, half of them 0; screen gradient)."""
    random = torch.Generator().manual_seed(seed)
    radii = torch.randint(-30, 30, (COUNT,), generator=random).clamp_min(0).to(torch.int32)
    return radii, torch.randn((COUNT, 2), generator=random)


def empty_sums() -> list[Tensor]:
    return [torch.zeros(COUNT), torch.zeros(COUNT, 1), torch.zeros(COUNT, 1)]


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_over_views_are_those_of_pytorch(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, (largest, gradients, visits) = empty_sums(), empty_sums()
        for radii, screen in (view(0), view(1)):
            statistics.add_view(radii, screen, *found)
            visible = (radii > 0)[:, None]
            largest = torch.maximum(largest, radii.float())
            gradients += screen.norm(dim=1, keepdim=True) * visible
            visits += visible
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], largest)
    torch.testing.assert_close(found[1], gradients, rtol=1e-6, atol=0)
    assert torch.equal(found[2], visits)


def test_further_columns_of_the_gradient_do_not_count() -> None:
    radii, screen = view(2)
    narrow, wide = empty_sums(), empty_sums()
    statistics.add_view(radii, screen, *narrow)
    statistics.add_view(radii, torch.cat([screen, torch.full((COUNT, 1), 9.0)], 1), *wide)
    assert torch.equal(narrow[1], wide[1])


def test_wrong_tensors_are_named() -> None:
    radii, screen = view(3)
    with pytest.raises(ValueError, match="radii must be a contiguous int32"):
        statistics.add_view(radii.float(), screen, *empty_sums())
    with pytest.raises(ValueError, match=r"screen must have the shape \(N, 2\)"):
        statistics.add_view(radii, screen[:, :1], *empty_sums())
    with pytest.raises(ValueError, match="visits must have the shape"):
        statistics.add_view(radii, screen, *empty_sums()[:2], torch.zeros(COUNT))
    with pytest.raises(ValueError, match="total must have the shape"):
        statistics.add_to([torch.zeros(3)], [torch.zeros(4)])
    for gradients, values, weights in (
        (torch.zeros(3, 2), torch.zeros(3, 3), torch.ones(1)),
        (torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(2)),
        (torch.zeros(2, 3).T, torch.zeros(3, 2), torch.ones(3)),
    ):
        with pytest.raises(ValueError, match="must"):
            statistics.add_signs(gradients, values, weights)


KERNELS = backend_for(torch.device("cpu"), RenderOptions())
BOTH = pytest.mark.parametrize("operations", [KERNELS, TorchOperations()], ids=["kernels", "plain"])


@BOTH
def test_parts_are_added_to_their_totals(operations: ArrayOperations) -> None:
    random = torch.Generator().manual_seed(4)
    parts = [torch.randn(shape, generator=random) for shape in ((COUNT, 3), (COUNT, 0, 3), (7,))]
    totals = [torch.ones_like(part) for part in parts]
    operations.add_to(totals, parts)
    for total, part in zip(totals, parts, strict=True):
        assert torch.equal(total, 1 + part)


@BOTH
def test_empty_tensors_can_be_added(operations: ArrayOperations) -> None:
    operations.add_to([], [])
    nothing = torch.empty(0, 15, 3)
    operations.add_signs(nothing, nothing, torch.ones(1))
    operations.add_signs(torch.empty(5, 0, 3), torch.empty(5, 0, 3), torch.ones(5))


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (7, 3, 3), (2001, 15, 3)])
@pytest.mark.parametrize("a_weight_each", [False, True])
def test_signs_are_added_with_their_weights(
    operations: ArrayOperations, shape: tuple[int, ...], a_weight_each: bool
) -> None:
    random = torch.Generator().manual_seed(5)
    values = torch.randn(shape, generator=random)
    values[values.abs() < 0.3] = 0
    values[values < -1] = -0.0
    gradients = torch.randn(shape, generator=random)
    weights = torch.rand(shape[0] if a_weight_each else 1, generator=random)
    found = gradients.clone()
    operations.add_signs(found, values, weights)
    each = weights.reshape(-1, *(1,) * (len(shape) - 1))
    assert torch.equal(found, gradients + each * values.sign())


@BOTH
def test_a_view_is_added_alike_by_both(operations: ArrayOperations) -> None:
    radii, screen = view(6)
    found, expected = empty_sums(), empty_sums()
    operations.add_view(*found, radii, torch.cat([screen, screen], 1)[:, :2])
    statistics.add_view(radii, screen, *expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
