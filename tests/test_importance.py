# SPDX-License-Identifier: Apache-2.0
"""What each Gaussian contributes to a view."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_paths import cuda_path, on_both_paths
from diff_gaussian_rasterization import GaussianRasterizer, Importance, native
from reference import rasterizer_twin as twin
from reference.random_scenes import Scene, packed_covariances, random_scene, twin_view
from torch import Tensor


def found(scene: Scene, pixel_weights: Tensor | None = None) -> Importance:
    shape = scene.opacities, scene.scales, scene.rotations
    return GaussianRasterizer(scene.settings).importance(
        scene.means, *shape, pixel_weights=pixel_weights
    )


def expected(scene: Scene, pixel_weights: Tensor | None = None) -> Importance:
    """From the twin's weights."""
    gaussians = twin.Gaussians(
        means=scene.means.double(),
        opacities=scene.opacities.double(),
        colors=torch.zeros(len(scene.means), 3, dtype=torch.float64),
        scales=scene.scales.double(),
        rotations=scene.rotations.double(),
    )
    moves = torch.zeros(len(scene.means), 2, dtype=torch.float64)
    weights = twin.render(gaussians, twin_view(scene.settings), moves).weights.flatten(1)
    drawn = weights >= 0
    if pixel_weights is not None:
        weights = weights * pixel_weights.flatten()
    counts = drawn.sum(dim=1)
    largest = torch.where(drawn, weights, -torch.inf).amax(dim=1)
    return Importance(
        counts.int(),
        torch.where(drawn, weights, 0.0).sum(dim=1),
        torch.where(counts > 0, largest, 0.0),
    )


def dense(count: int, **size: int) -> Scene:
    """Pixels become opaque before the last Gaussian."""
    scene = random_scene(seed=4, count=count, sh_degree=0, **size)
    return replace(scene, scales=scene.scales * 2, opacities=0.5 + scene.opacities / 2)


def pixel_weights(scene: Scene) -> Tensor:
    size = scene.settings.image_height, scene.settings.image_width
    return torch.randn(size, generator=torch.Generator().manual_seed(3))


def assert_same(mine: Importance, other: Importance) -> None:
    assert (mine.counts.dtype, mine.weights.dtype) == (torch.int32, torch.float32)
    # At a threshold, single precision may decide otherwise for a pixel.
    assert (mine.counts - other.counts).abs().max() <= 1
    assert (mine.counts != other.counts).sum() <= 2
    assert torch.allclose(mine.weights.double(), other.weights.double(), rtol=1e-4, atol=5e-3)
    assert torch.allclose(mine.largest.double(), other.largest.double(), rtol=1e-4, atol=1e-5)
    assert int((other.counts > 0).sum()) > 10


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [None, 0.5])
def test_it_is_the_twins(weighted: bool, offset: float | None) -> None:
    scene = dense(100, width=48, height=36)
    if offset is not None:
        scene = scene.with_settings(subpixel_offset=torch.full((36, 48, 2), offset))
    factors = pixel_weights(scene) if weighted else None
    assert_same(found(scene, factors), expected(scene, factors))


def test_weights_are_the_derivatives_of_the_colours() -> None:
    scene = random_scene(seed=5, count=200).with_settings(antialiasing=True)
    colours = torch.zeros_like(scene.means, requires_grad=True)
    rasterizer = GaussianRasterizer(scene.settings)
    shape = {"scales": scene.scales, "rotations": scene.rotations}
    image = rasterizer(scene.means, None, scene.opacities, colors_precomp=colours, **shape)[0]
    image[0].sum().backward()
    importance = found(scene)
    assert torch.allclose(importance.weights, colours.grad[:, 0], rtol=1e-5, atol=1e-5)
    assert torch.equal(importance.counts > 0, colours.grad[:, 0] > 0)
    assert not importance.weights.requires_grad


def test_covariances_in_place_of_scales() -> None:
    scene = random_scene(seed=5, count=100)
    rasterizer = GaussianRasterizer(scene.settings)
    given = {"cov3D_precomp": packed_covariances(scene)}
    other = rasterizer.importance(scene.means, scene.opacities, **given)
    assert_same(other, found(scene))


def test_the_gpus_kernels_find_the_same() -> None:
    scene = dense(300, width=20, height=18)  # more than a block loads at once
    factors = pixel_weights(scene)
    moved = scene.with_settings(subpixel_offset=factors[..., None].expand(18, 20, 2))
    for changed, by in ((dense(40, width=20, height=18), None), (moved, factors)):
        cpu, gpu = on_both_paths(lambda changed=changed, by=by: found(changed, by))
        assert_same(gpu, cpu)


def test_nothing_in_view_and_no_gaussians() -> None:
    scene = random_scene(seed=1, count=20)
    behind = replace(scene, means=scene.means - torch.tensor([0.0, 0.0, 100.0]))
    for importance in (found(behind), *on_both_paths(lambda: found(behind))):
        assert all(torch.equal(value, torch.zeros_like(value)) for value in importance)
        assert len(importance.counts) == 20
    none = Scene(*(value[:0] for value in list(vars(scene).values())[:5]), scene.settings)
    assert [len(value) for value in found(none)] == [0, 0, 0]


def test_unusable_arguments_are_named() -> None:
    scene = random_scene(seed=1, count=5)
    with pytest.raises(ValueError, match=r"pixel_weights must have the shape \(50, 70\)"):
        found(scene, torch.zeros(70, 50))
    with pytest.raises(Exception, match="exactly one of either a scale and rotation pair"):
        GaussianRasterizer(scene.settings).importance(scene.means, scene.opacities, scene.scales)
    with pytest.raises(RuntimeError, match="keep=True"):
        native.Frame().importance(native.Importance())
    with cuda_path(), pytest.raises(ValueError, match="opacities must have the shape"):
        found(replace(scene, opacities=scene.opacities[:2]))
