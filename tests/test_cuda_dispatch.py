# SPDX-License-Identifier: Apache-2.0
"""The public functions of the packages on their CUDA path, with emulated kernels on CPU tensors.

Each result is compared with that of the same call on the CPU path.
"""

from __future__ import annotations

import fused_ssim
import simple_knn._C
import torch
from cuda_paths import on_both_paths
from diff_gaussian_rasterization import GaussianRasterizer, SparseGaussianAdam, raw
from diff_gaussian_rasterization.adam import AdamState, adam_step
from reference.random_scenes import random_scene, raw_of
from torch import Tensor


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert mine.shape == other.shape
        difference = (mine.double() - other.double()).norm()
        assert float(difference) <= 3e-5 * float(other.double().norm())


def test_a_view_with_autograd() -> None:
    scene = random_scene(seed=1, count=50, width=33, height=30, sh_degree=1)

    def render() -> list[Tensor]:
        given = (scene.means, scene.opacities, scene.shs, scene.scales, scene.rotations)
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        means, opacities, shs, scales, rotations = leaves
        screen = torch.zeros_like(means, requires_grad=True)
        image, radii, depth = GaussianRasterizer(scene.settings)(
            means, screen, opacities, shs=shs, scales=scales, rotations=rotations
        )
        (image.square().sum() + depth.sum()).backward()
        gradients = [leaf.grad for leaf in (*leaves, screen)]
        return [image.detach(), radii, depth.detach(), *gradients]

    expected, found = on_both_paths(render)
    assert_close(found, expected)


def test_a_loss_of_the_depth_alone() -> None:
    scene = random_scene(seed=2, count=30, width=20, height=20, sh_degree=0)

    def render() -> list[Tensor]:
        means = scene.means.clone().requires_grad_()
        outputs = GaussianRasterizer(scene.settings)(
            means,
            torch.zeros_like(means),
            scene.opacities,
            shs=scene.shs,
            scales=scene.scales,
            rotations=scene.rotations,
        )
        outputs[2].sum().backward()
        return [means.grad]

    expected, found = on_both_paths(render)
    assert_close(found, expected)


def test_a_view_without_autograd() -> None:
    scene = random_scene(seed=3, count=50, width=33, height=30, sh_degree=2)
    gaussians = raw_of(scene)
    numbers = raw.pack(scene.settings)

    def render() -> list[Tensor]:
        view = raw.View(numbers, 33, 30, 2, False)
        frame = raw.render(gaussians, view, training=True, clamp=True)
        gradients = gaussians.empty_like()
        screen = torch.empty(50, 2)
        frame.backward(frame.image, gradients, screen=screen)
        return [frame.image, frame.radii, *gradients, screen]

    expected, found = on_both_paths(render)
    assert_close(found, expected)


def test_no_gaussians() -> None:
    scene = random_scene(seed=3, count=1, width=9, height=9, sh_degree=0)
    empty = raw.RawGaussians(*(tensor[:0] for tensor in raw_of(scene)))

    def render() -> list[Tensor]:
        frame = raw.render(empty, scene.settings, training=True)
        frame.backward(frame.image, empty.empty_like())
        return [frame.image, frame.radii]

    expected, found = on_both_paths(render)
    assert_close(found, expected)


def test_visible_points() -> None:
    scene = random_scene(seed=3, count=80)
    means = scene.means - torch.tensor([0.0, 0.0, 3.0])
    expected, found = on_both_paths(lambda: GaussianRasterizer(scene.settings).markVisible(means))
    assert torch.equal(found, expected)


def test_both_optimizers() -> None:
    start, gradient = torch.randn((2, 20, 3), generator=torch.Generator().manual_seed(0))
    visible = torch.arange(20) % 3 == 0

    def train() -> list[Tensor]:
        parameter = start.clone().requires_grad_()
        optimizer = SparseGaussianAdam([{"params": [parameter], "lr": 0.1}], lr=0.0, eps=1e-15)
        parameter.grad = gradient.clone()
        optimizer.step(visible, 20)
        dense, moments = start.clone(), torch.zeros(2, 20, 3)
        adam_step([AdamState(dense, gradient, moments[0], moments[1], 0.1)], 1)
        return [parameter.detach(), dense, moments]

    expected, found = on_both_paths(train)
    assert_close(found, expected)


def test_the_loss() -> None:
    start, target = torch.rand((2, 3, 20, 31), generator=torch.Generator().manual_seed(0))

    def loss() -> list[Tensor]:
        image = start.clone().requires_grad_()
        value = 2 * fused_ssim.fused_l1_ssim(image, target)
        value.backward()
        l1, ssim, gradient = fused_ssim.l1_ssim_value_and_gradient(start, target)
        means = torch.stack([torch.as_tensor(l1), torch.as_tensor(ssim)])
        return [value.detach(), image.grad, means, gradient]

    expected, found = on_both_paths(loss)
    assert_close(found, expected)


def test_nearest_neighbours() -> None:
    points = torch.randn((100, 3), generator=torch.Generator().manual_seed(0))
    expected, found = on_both_paths(lambda: simple_knn._C.distCUDA2(points))
    assert_close([found], [expected])
