# SPDX-License-Identifier: Apache-2.0
"""The nearest-neighbour package against brute force and SciPy's k-d tree, both in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from simple_knn._C import distCUDA2
from torch import Tensor


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def normal_points(count: int, seed: int = 0) -> Tensor:
    return torch.randn((count, 3), generator=torch.Generator().manual_seed(seed))


def brute_force(points: Tensor) -> Tensor:
    """The definition: the three smallest off-diagonal entries of each row of the distance table."""
    exact = points.double()
    squared = ((exact[:, None] - exact[None]) ** 2).sum(dim=2)
    squared.fill_diagonal_(float("inf"))
    return squared.topk(3, largest=False).values.mean(dim=1)


def scipy_tree(points: Tensor) -> Tensor:
    exact = points.double().numpy()
    distances, _ = cKDTree(exact).query(exact, k=4)
    return torch.from_numpy(np.square(distances[:, 1:]).mean(axis=1))


@pytest.mark.parametrize("count", [4, 5, 8, 9, 17, 100, 1001])
def test_equals_brute_force(count: int) -> None:
    points = normal_points(count)
    torch.testing.assert_close(distCUDA2(points).double(), brute_force(points), rtol=1e-6, atol=0)


CLOUDS = {
    "normal": normal_points(30_000),
    "clustered": normal_points(30_000) ** 7,
    "plane": normal_points(30_000) * torch.tensor([1.0, 0.0, 1.0]),
    "line": torch.arange(30_000.0)[:, None] * torch.tensor([[1.0, 2.0, -1.0]]),
    "grid": torch.cartesian_prod(*[torch.arange(31.0)] * 3),
    "far from the origin": normal_points(30_000) + 1000,
}


@pytest.mark.parametrize("name", CLOUDS)
def test_equals_the_tree_of_scipy(name: str) -> None:
    points = CLOUDS[name]
    torch.testing.assert_close(distCUDA2(points).double(), scipy_tree(points), rtol=1e-6, atol=0)


def test_points_at_the_same_place_are_neighbours() -> None:
    points = normal_points(2000).repeat(2, 1)[torch.randperm(4000)]
    torch.testing.assert_close(distCUDA2(points).double(), brute_force(points), rtol=1e-6, atol=0)
    assert torch.equal(distCUDA2(points[:2000].repeat(4, 1)), torch.zeros(8000))
    assert torch.equal(distCUDA2(torch.ones(5000, 3)), torch.zeros(5000))


def test_mean_is_over_the_neighbours_there_are() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    assert distCUDA2(points).tolist() == [2.5, 3.0, 4.5]
    assert distCUDA2(points[:2]).tolist() == [1.0, 1.0]
    assert distCUDA2(points[:1]).tolist() == [0.0]
    assert distCUDA2(points[:0]).shape == (0,)


def test_result_does_not_depend_on_threads_or_order() -> None:
    points = normal_points(20_000)
    torch.set_num_threads(1)
    expected = distCUDA2(points)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(distCUDA2(points), expected)
    order = torch.randperm(len(points))
    torch.testing.assert_close(distCUDA2(points[order]), expected[order], rtol=1e-6, atol=0)


def test_strided_points_and_points_with_a_gradient_are_read() -> None:
    points = normal_points(100)
    expected = distCUDA2(points)
    assert torch.equal(distCUDA2(points.T.contiguous().T), expected)
    found = distCUDA2(points.clone().requires_grad_())
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_huge_coordinates_give_infinity_not_a_hang() -> None:
    points = normal_points(1000) * 1e30
    assert torch.isinf(distCUDA2(points)).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_not_finite_are_refused(poison: float) -> None:
    points = normal_points(50)
    points[17, 1] = poison
    points[40, 2] = poison
    with pytest.raises(ValueError, match="2 of 50 are not: the first is number 17"):
        distCUDA2(points)


@pytest.mark.parametrize(
    ("points", "error", "sentence"),
    [
        (torch.zeros(4, 3, dtype=torch.int64), TypeError, "float32, not torch.int64"),
        (torch.zeros(4, 2), ValueError, r"\(N, 3\), but their shape is \(4, 2\)"),
        (torch.zeros(3), ValueError, r"\(3,\)"),
        (torch.zeros(4, 3, device="meta"), ValueError, "on the CPU, not on meta"),
    ],
)
def test_unusable_points_are_named(points: Tensor, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        distCUDA2(points)


def test_doubles_are_rounded() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = distCUDA2(points)
    assert found.dtype == torch.float32
    assert torch.equal(found, distCUDA2(points.float()))
    with pytest.raises(ValueError, match="points must be finite"):
        distCUDA2(points * 1e300)
