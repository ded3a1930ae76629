# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the loss, emulated, against the CPU's."""

from __future__ import annotations

import pytest
import torch
from emulated_kernels import EmulatedKernels, emulated
from fused_ssim import cuda_ssim, fused_ssim, l1_ssim_value_and_gradient

LAMBDA = 0.2


@pytest.fixture
def kernels() -> EmulatedKernels:
    return emulated("fused-ssim", "ssim", seed=5)


def images(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand((2, *shape), generator=generator)
    second[..., : shape[-1] // 2] = first[..., : shape[-1] // 2]  # where they are equal
    return first, second


def blank(image: torch.Tensor) -> torch.Tensor:
    return torch.full(image.shape, torch.nan)


@pytest.mark.parametrize("shape", [(3, 37, 45), (3, 16, 32), (3, 1, 1), (1, 5, 70)])
@pytest.mark.parametrize("in_bytes", [False, True])
def test_means_and_gradient_are_the_cpus(kernels, shape, in_bytes) -> None:
    image, target = images(*shape)
    if in_bytes:
        target = (255 * target).to(torch.uint8)
    found = blank(image)
    means = cuda_ssim.l1_ssim(kernels, image, target, (1 - LAMBDA, -LAMBDA), 0, found)
    l1, ssim, expected = l1_ssim_value_and_gradient(image, target, LAMBDA)
    torch.testing.assert_close(
        means, torch.tensor([l1, ssim], dtype=torch.float64), rtol=1e-6, atol=1e-9
    )
    assert float((found - expected).norm() / expected.norm()) < 2e-6
    assert kernels.launched == ["ssim_compare", "ssim_means", "ssim_gradient"]


def test_margins_are_the_cpus(kernels) -> None:
    image, target = (i[None] for i in images(2, 30, 41))
    image.requires_grad_()
    value = fused_ssim(image, target, "valid")
    value.backward()
    found = blank(image)
    means = cuda_ssim.l1_ssim(kernels, image.detach(), target, (0.0, 1.0), 5, found)
    assert float(means[1]) == pytest.approx(float(value.detach()), rel=1e-6)
    assert float((found - image.grad).norm() / image.grad.norm()) < 2e-6


def test_no_gradient_no_second_pass(kernels) -> None:
    image, target = images(3, 20, 20)
    means = cuda_ssim.l1_ssim(kernels, image, target, (0.0, 1.0), 0, None)
    assert float(means[0]) == pytest.approx(float((image - target).abs().mean()), rel=1e-6)
    assert kernels.launched == ["ssim_compare", "ssim_means"]


def test_results_do_not_depend_on_the_order_of_threads() -> None:
    image, target = images(3, 40, 50)
    results = []
    for seed in (0, 1):
        found = blank(image)
        kernels = emulated("fused-ssim", "ssim", seed)
        means = cuda_ssim.l1_ssim(kernels, image, target, (0.8, -0.2), 0, found)
        results.append((means, found))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
