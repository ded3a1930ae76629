# SPDX-License-Identifier: Apache-2.0
"""Extreme and invalid scenes: the rasteriser must return from all of them."""

from __future__ import annotations

import pytest
import torch
from diff_gaussian_rasterization import GaussianRasterizer, raw
from diff_gaussian_rasterization.raw import RawGaussians
from reference.random_scenes import random_scene, raw_of
from torch import Tensor

POISONS = [torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-38, 0.0]


def draw(gaussians: RawGaussians, **settings: object) -> tuple[raw.Frame, RawGaussians]:
    scene = random_scene(seed=0, count=1).with_settings(**settings)
    frame = raw.render(gaussians, scene.settings, training=True, inverse_depth=True)
    gradients = gaussians.empty_like()
    d_depth = torch.ones_like(frame.inverse_depth)
    frame.backward(torch.ones_like(frame.image), gradients, d_depth)
    return frame, gradients


def test_empty_scene_is_black() -> None:
    empty = RawGaussians(*(tensor[:0] for tensor in raw_of(random_scene(seed=1, count=1))))
    frame, _ = draw(empty)
    assert not frame.image.any()
    assert frame.radii.shape == (0,)

    scene = random_scene(seed=1, count=0)
    means = scene.means.requires_grad_()
    image, radii, depth = GaussianRasterizer(scene.settings)(
        means3D=means,
        means2D=torch.zeros(0, 3),
        opacities=scene.opacities,
        shs=scene.shs,
        scales=scene.scales,
        rotations=scene.rotations,
    )
    assert not image.any()
    assert not depth.any()
    assert radii.shape == (0,)
    image.sum().backward()
    assert means.grad.shape == (0, 3)


def test_one_gaussian() -> None:
    scene = random_scene(seed=2, count=1)
    gaussians = raw_of(scene)._replace(xyz=torch.tensor([[0.0, 0.0, 1.0]]))
    frame, gradients = draw(gaussians)
    assert frame.radii[0] > 0
    assert gradients.xyz.any()


def test_nothing_in_front_of_the_camera_shows_the_background() -> None:
    gaussians = raw_of(random_scene(seed=3, count=20))
    frame, gradients = draw(gaussians._replace(xyz=gaussians.xyz - 100))
    background = random_scene(seed=0, count=1).settings.bg
    assert torch.equal(frame.image, background[:, None, None].expand_as(frame.image))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("field", RawGaussians._fields)
def test_poisoned_rows(field: str, poison: float) -> None:
    scene = random_scene(seed=4, count=64)
    gaussians = raw_of(scene)
    tensor = getattr(gaussians, field).clone()
    tensor[::3] = poison
    tensor[1::9, ..., -1] = poison
    frame, _ = draw(gaussians._replace(**{field: tensor}))
    assert frame.image.shape == (3, 50, 70)
    assert int(frame.radii.min()) >= 0
    if field not in ("features_dc", "features_rest"):
        # Only a colour that is not finite may make pixels that are not finite.
        assert frame.image.isfinite().all()


@pytest.mark.parametrize("poison", POISONS)
def test_poisoned_api_tensors(poison: float) -> None:
    scene = random_scene(seed=5, count=64)
    parts: dict[str, Tensor] = {
        "means3D": scene.means,
        "opacities": scene.opacities,
        "colors_precomp": scene.shs[:, 0],
        "cov3D_precomp": scene.shs[:, :2].flatten(1),
    }
    for name, tensor in parts.items():
        poisoned = {key: value.clone().requires_grad_() for key, value in parts.items()}
        with torch.no_grad():
            poisoned[name][::2] = poison
        image, radii, _ = GaussianRasterizer(scene.settings)(
            means2D=torch.zeros_like(tensor), **poisoned
        )
        image.sum().backward()
        assert int(radii.min()) >= 0


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", ["viewmatrix", "projmatrix", "campos", "bg"])
def test_poisoned_cameras(name: str, poison: float) -> None:
    settings = random_scene(seed=0, count=1).settings
    tensor = getattr(settings, name).clone()
    tensor.view(-1)[0] = poison
    frame, _ = draw(raw_of(random_scene(seed=6, count=64)), **{name: tensor})
    assert frame.image.shape == (3, 50, 70)


@pytest.mark.parametrize("tangent", [0.0, torch.nan, torch.inf, -1.0, 1e-30])
def test_poisoned_field_of_view(tangent: float) -> None:
    frame, _ = draw(raw_of(random_scene(seed=7, count=64)), tanfovx=tangent)
    assert frame.image.shape == (3, 50, 70)


@pytest.mark.parametrize("log_scale", [-40.0, -20.0, 8.0, 20.0, 60.0])
def test_tiny_and_huge_scales(log_scale: float) -> None:
    gaussians = raw_of(random_scene(seed=8, count=64))
    scaling = torch.full_like(gaussians.scaling, log_scale)
    needles = scaling.clone()
    needles[:, 1:] = -6.0
    for shape in (scaling, needles):
        frame, gradients = draw(gaussians._replace(scaling=shape))
        assert frame.image.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_more_tile_entries_than_can_be_counted_are_refused() -> None:
    scene = random_scene(seed=9, count=40_000, sh_degree=0)
    scene = scene.with_settings(image_width=4096, image_height=4096)
    gaussians = raw_of(scene)._replace(
        xyz=torch.tensor([[0.0, 0.0, 2.0]]).expand(40_000, 3).contiguous(),
        scaling=torch.full((40_000, 3), 5.0),
        opacity=torch.full((40_000, 1), 5.0),
    )
    with pytest.raises(RuntimeError, match=r"cover more than 2\^31 image tiles"):
        raw.render(gaussians, scene.settings, training=False)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 200), (200, 1), (17, 31), (15, 16)])
def test_odd_sizes_of_images(width: int, height: int) -> None:
    gaussians = raw_of(random_scene(seed=10, count=64))
    frame, gradients = draw(gaussians, image_width=width, image_height=height)
    assert frame.image.shape == (3, height, width)
    assert frame.image.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
