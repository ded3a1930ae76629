# SPDX-License-Identifier: Apache-2.0
"""Derivatives and a step of Adam in one: on both paths the results of the two, bit by bit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from cuda_paths import cuda_path
from diff_gaussian_rasterization import raw
from diff_gaussian_rasterization.adam import AdamState, RawAdam, adam_step, update_visible
from diff_gaussian_rasterization.raw import RawGaussians
from reference.random_scenes import Scene, random_scene, raw_of
from torch import Tensor

RATES = (1e-3, 2.5e-3, 1e-4, 0.025, 5e-3, 1e-2)
BETAS, EPS = (0.8, 0.99), 1e-12


@pytest.fixture(params=["cpu", "cuda"])
def path(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    return cuda_path() if request.param == "cuda" else nullcontext()


def scene_with_some_behind(sh_degree: int) -> Scene:
    scene = random_scene(seed=3, count=40, width=33, height=20, sh_degree=sh_degree)
    scene.means[::4, 2] -= 100.0
    return scene


def model_of(scene: Scene) -> RawGaussians:
    return RawGaussians(*(tensor.clone() for tensor in raw_of(scene)))


def moments(gaussians: RawGaussians) -> tuple[RawGaussians, RawGaussians]:
    generator = torch.Generator().manual_seed(1)
    first, second = (
        RawGaussians(*(torch.randn(t.shape, generator=generator) for t in gaussians))
        for _ in range(2)
    )
    return first, RawGaussians(*(1e-3 * t.square() for t in second))


def in_two_parts(scene: Scene, d_image: Tensor, d_depth: Tensor, step: int | None) -> list[Tensor]:
    gaussians = model_of(scene)
    first, second = moments(gaussians)
    frame = raw.render(gaussians, scene.settings, training=True, inverse_depth=True)
    gradients, screen = gaussians.empty_like(), torch.empty(40, 2)
    frame.backward(d_image, gradients, d_depth, screen)
    states = [
        AdamState(*each)
        for each in zip(gaussians, gradients, first, second, RATES, strict=True)
        if each[0].numel()
    ]
    if step is None:
        update_visible(states, frame.radii > 0, BETAS, EPS)
    else:
        adam_step(states, step, BETAS, EPS)
    return [*gaussians, *first, *second, screen]


def in_one(scene: Scene, d_image: Tensor, d_depth: Tensor, step: int | None) -> list[Tensor]:
    gaussians = model_of(scene)
    first, second = moments(gaussians)
    frame = raw.render(gaussians, scene.settings, training=True, inverse_depth=True)
    screen = torch.full((40, 2), torch.nan)
    adam = RawAdam(first, second, RATES, step, BETAS, EPS)
    frame.update(d_image, gaussians, adam, d_depth, screen)
    return [*gaussians, *first, *second, screen]


@pytest.mark.parametrize("step", [1, 7, None], ids=["first", "seventh", "in view"])
@pytest.mark.parametrize(("held", "used"), [(0, 0), (2, 1), (3, 3)])
def test_an_update_is_both_steps(
    path: AbstractContextManager[None], held: int, used: int, step: int | None
) -> None:
    scene = scene_with_some_behind(held).with_settings(sh_degree=used)
    generator = torch.Generator().manual_seed(2)
    d_image = torch.randn((3, 20, 33), generator=generator)
    d_depth = torch.randn((1, 20, 33), generator=generator)
    before = model_of(scene)
    with path:
        expected = in_two_parts(scene, d_image, d_depth, step)
        found = in_one(scene, d_image, d_depth, step)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)
    hidden = found[0][::4], before.xyz[::4]
    assert torch.equal(*hidden) == (step is None)
    assert not torch.equal(found[0][1::4], before.xyz[1::4])


def test_only_what_was_rendered_is_updated(path: AbstractContextManager[None]) -> None:
    scene = scene_with_some_behind(1)
    gaussians = model_of(scene)
    adam = RawAdam(*moments(gaussians), RATES, 1)
    d_image = torch.ones(3, 20, 33)
    with path:
        frame = raw.render(gaussians, scene.settings, training=True)
        others = gaussians._replace(scaling=gaussians.scaling.clone())
        with pytest.raises(ValueError, match=r"gaussians\.scaling is not the tensor"):
            frame.update(d_image, others, adam)
        with pytest.raises(ValueError, match="step must be at least 1"):
            frame.update(d_image, gaussians, adam._replace(step=0))
        short = RawGaussians(*(t[:5] for t in adam.exp_avg))
        with pytest.raises(ValueError, match="are for 5 Gaussians, not for 40"):
            frame.update(d_image, gaussians, adam._replace(exp_avg=short))
        drawn = raw.render(gaussians, scene.settings, training=False)
        with pytest.raises(RuntimeError, match="training=True"):
            drawn.update(d_image, gaussians, adam)


def test_no_gaussians_are_updated_without_an_error(path: AbstractContextManager[None]) -> None:
    scene = scene_with_some_behind(1)
    nothing = RawGaussians(*(t[:0] for t in raw_of(scene)))
    with path:
        frame = raw.render(nothing, scene.settings, training=True)
        frame.update(torch.ones(3, 20, 33), nothing, RawAdam(nothing, nothing, RATES, 1))
