# SPDX-License-Identifier: Apache-2.0
"""Views whose pixels are sampled at offsets from their centres."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diff_gaussian_rasterization import GaussianRasterizer, raw
from reference.random_scenes import Scene, random_scene, raw_of
from test_rasterizer import api_parts, compare_with_twin
from torch import Tensor


def offsets(scene: Scene, largest: float) -> Tensor:
    size = scene.settings.image_height, scene.settings.image_width, 2
    generator = torch.Generator().manual_seed(5)
    return (2 * torch.rand(size, generator=generator) - 1) * largest


def image_of(scene: Scene) -> Tensor:
    parts = api_parts(scene)
    return GaussianRasterizer(scene.settings)(means2D=torch.zeros_like(scene.means), **parts)[0]


@pytest.mark.parametrize("largest", [0.5, 3.0])
@pytest.mark.parametrize("antialiasing", [False, True])
def test_values_and_gradients(largest: float, antialiasing: bool) -> None:
    scene = random_scene(seed=3, count=100, width=48, height=36, sh_degree=1)
    scene = scene.with_settings(antialiasing=antialiasing, kernel_size=0.1)
    scene = scene.with_settings(subpixel_offset=offsets(scene, largest))
    compare_with_twin(scene, api_parts(scene))


def test_a_gaussian_that_covers_many_tiles() -> None:
    scene = random_scene(seed=11, count=3, width=150, height=140, sh_degree=0)
    scene = replace(
        scene,
        means=torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.4, 2.0], [-0.3, 0.2, 1.5]]),
        scales=torch.tensor([[1.0, 0.02, 0.5], [0.4, 0.6, 0.01], [0.01, 0.01, 0.01]]),
    )
    scene = scene.with_settings(subpixel_offset=offsets(scene, 3.0))
    compare_with_twin(scene, api_parts(scene))


def test_the_same_offset_everywhere_moves_the_picture() -> None:
    scene = random_scene(seed=12, count=200)
    scene = replace(scene, opacities=scene.opacities * 0.3)  # little is cut off at the radius
    moved = scene.with_settings(subpixel_offset=torch.tensor([5.0, -2.0]).expand(50, 70, 2))
    expected, found = image_of(scene), image_of(moved)
    difference = (found[:, 2:, :-5] - expected[:, :-2, 5:]).abs()
    assert difference.max() < 0.01  # an alpha on its threshold, or beside the radius
    assert (difference > 1e-5).float().mean() <= 5e-3
    assert (found - expected).abs().max() > 0.1


def test_raw_parameters_are_drawn_alike() -> None:
    scene = random_scene(seed=13, count=80)
    scene = scene.with_settings(subpixel_offset=offsets(scene, 0.5))
    frame = raw.render(raw_of(scene), scene.settings, training=False)
    assert (frame.image - image_of(scene)).abs().max() < 1e-5


def test_offsets_may_change_after_the_view() -> None:
    scene = random_scene(seed=14, count=50)
    given = offsets(scene, 0.5)
    scene = scene.with_settings(subpixel_offset=given)
    gradients = []
    for change in (0.0, 7.0):
        parts = api_parts(scene)
        zeros = torch.zeros_like(scene.means)
        image = GaussianRasterizer(scene.settings)(means2D=zeros, **parts)[0]
        given.add_(change)
        image.square().sum().backward()
        gradients.append(parts["means3D"].grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(70, 50, 2), r"subpixel_offset must have the shape \(50, 70, 2\)"),
        (torch.zeros(50, 70, 2, dtype=torch.float64), "subpixel_offset must be float32"),
        (torch.full((50, 70, 2), torch.nan), "subpixel_offset must be finite"),
        (torch.full((50, 70, 2), -torch.inf), "subpixel_offset must be finite"),
        ([[0.0, 0.0]], "subpixel_offset must be a tensor, not list"),
    ],
)
def test_unusable_offsets_are_named(given: Tensor, message: str) -> None:
    scene = random_scene(seed=6, count=5).with_settings(subpixel_offset=given)
    with pytest.raises(ValueError, match=message):
        image_of(scene)


def test_offsets_of_any_size() -> None:
    scene = random_scene(seed=6, count=5)
    background = scene.settings.bg[:, None, None].expand(3, 50, 70)
    for far in (1e9, 3e38):
        away = scene.with_settings(subpixel_offset=torch.full((50, 70, 2), far))
        assert torch.equal(image_of(away), background)


def test_packed_views_have_neither() -> None:
    scene = random_scene(seed=6, count=5)
    for settings in ({"kernel_size": 0.1}, {"subpixel_offset": torch.zeros(50, 70, 2)}):
        with pytest.raises(ValueError, match="kernel_size and subpixel_offset cannot be packed"):
            raw.pack(scene.with_settings(**settings).settings)
