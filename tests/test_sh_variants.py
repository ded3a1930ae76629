# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' other ways to make SH small in the last stage."""

from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from reference.random_splats import measured, random_raw, random_sensitivity
from reference.random_views import camera

from benchmarks.sh_variants import (
    CodebookTraining,
    ShLogarithm,
    with_codebook,
    with_least_energy,
    with_logarithm,
)
from gaussian_compression.grid_straight_through import on_fitted_grids, with_ordered_raw_axes
from gaussian_compression.penalties import ShMagnitude
from gaussian_compression.scores import ScoreTools
from gaussian_compression.settings import GridSettings
from gaussian_compression.trainable import take_step
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from splat_codec.model_file import ModelFile, decode, encode
from splat_formats.decoded import to_splats

BACKEND = backend_for(torch.device("cpu"), RenderOptions())
RATES = dict.fromkeys(RawParameters._fields, 1e-3)


def seen_model() -> RawParameters:
    raw = random_raw(30, 2)
    raw.xyz.mul_(0.4)
    raw.scaling.add_(3.0)
    raw.xyz[2, 2] = -30.0  # behind the cameras
    return raw


def camera_at(x: float) -> Camera:
    view = camera()
    return Camera(
        (45, 37), 0, np.eye(3), np.array([x, -0.2, 9.0]), view.FoVx, view.FoVy, None, None, None,
        "view", 0, image_u8=view.image_u8,
    )  # fmt: skip


def test_ridge_keeps_the_images_of_the_views_with_less_energy() -> None:
    raw, views, black = seen_model(), [camera_at(-2.0), camera_at(2.0)], torch.zeros(3)
    pull_back = partial(BACKEND.pull_back, sh_degree=2)
    tools = ScoreTools(BACKEND, cast(Any, None), pull_back, black)
    new = with_least_energy(raw, views, tools, 1e-6)
    for view in views:
        before = BACKEND.draw(view, raw, black, 2).clone()
        torch.testing.assert_close(BACKEND.draw(view, new, black, 2), before, atol=2e-3, rtol=0)
    assert torch.equal(new.features_rest[2], raw.features_rest[2])
    less = with_least_energy(raw, views, tools, 0.1)
    old, energy, least = (float(one.features_rest.square().sum()) for one in (raw, new, less))
    assert least < 0.9 * energy
    assert energy < 0.5 * old


def test_the_gradient_of_the_logarithm() -> None:
    coded, gradients = random_raw(6, 1), random_raw(6, 1).map(torch.zeros_like)
    weights, steps = torch.rand(6), torch.rand(6, 1) * 20
    ShLogarithm(ShMagnitude(weights * steps[:, 0], BACKEND), steps).add(coded, gradients)
    values = coded.features_rest.clone().requires_grad_()
    logarithms = torch.log1p(values.abs() * steps[:, :, None])
    (weights[:, None, None] * logarithms).sum().backward()
    torch.testing.assert_close(gradients.features_rest, values.grad)


@pytest.fixture(scope="module")
def raw() -> RawParameters:
    return with_ordered_raw_axes(with_codebook(random_raw(600, 2), 20))


def test_the_logarithm_replaces_the_magnitude(raw: RawParameters) -> None:
    sensitivity = measured(random_sensitivity(raw))
    changed = with_logarithm(on_fitted_grids(raw, sensitivity, GridSettings(), BACKEND))
    (penalty,) = changed.penalties
    assert isinstance(penalty, ShLogarithm)


def test_a_codebook_stays_one_and_is_stored_once(raw: RawParameters) -> None:
    assert len(np.unique(raw.features_rest.flatten(1).numpy(), axis=0)) == 20
    sensitivity = measured(random_sensitivity(raw))
    settings = GridSettings(noise=1.6e-4 * 600)
    inner = on_fitted_grids(raw, sensitivity, settings, BACKEND)
    before = inner.coded.features_rest.clone()
    trained = CodebookTraining(inner, raw, settings.layer_fraction)
    for seed in range(3):
        take_step(trained, random_raw(600, 2, seed=seed), RATES)
    assert not torch.equal(trained.coded.features_rest, before)
    stored = trained.stored()
    assert len(stored.shared) >= 500
    decoded = to_splats(decode(encode(ModelFile(stored))).splats)
    assert len(np.unique(decoded.features_rest.reshape(600, -1), axis=0)) <= 21
    assert len(encode(ModelFile(stored))) < 0.8 * len(encode(ModelFile(inner.stored())))
