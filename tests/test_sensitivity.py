# SPDX-License-Identifier: Apache-2.0
"""Sensitivities: an upper bound of what steps of parameters do to images, limits or none."""

from functools import partial

import numpy as np
import pytest
import torch
from reference.random_splats import random_raw
from reference.random_views import camera
from torch import Tensor

from gaussian_compression.sensitivity import (
    DIMMING,
    PullBack,
    RenderSensitivity,
    render_sensitivity,
    smallest_pixels,
)
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.sh_utils import C0

BLACK = torch.zeros(3)


def of(raw: RawParameters, views: int = 1, background: Tensor = BLACK) -> RenderSensitivity:
    backend = backend_for(BLACK.device, RenderOptions())
    pull_back: PullBack = partial(backend.pull_back, sh_degree=raw.sh_degree)
    return render_sensitivity(raw, [camera()] * views, pull_back, background, 0, lambda: None)


def scene(shade: float, sh_degree: int = 1) -> RawParameters:
    """Gaussians of about this shade, side by side."""
    raw = random_raw(60, sh_degree)
    dc = (shade - 0.5) / C0 + 0.02 * raw.features_dc
    return raw._replace(
        xyz=0.6 * raw.xyz,
        features_dc=dc,
        features_rest=0 * raw.features_rest,
        scaling=raw.scaling + 2,
    )


def test_sensitivity_is_the_squared_error_of_a_small_change() -> None:
    """On an image that is linear in two parameters, where the diagonal is known."""
    raw = random_raw(6, 0)._replace(opacity=torch.full((6, 1), 0.1))
    basis = torch.rand(6, 3, 37, 45, generator=torch.Generator().manual_seed(3))

    def pull_back(
        view: Camera, weights: Tensor, raw: RawParameters, out: RawParameters, background: Tensor
    ) -> Tensor:
        for tensor in out:
            tensor.zero_()
        out.opacity.copy_(DIMMING * (basis * weights).sum(dim=(1, 2, 3))[:, None])
        return DIMMING * (basis * raw.opacity.reshape(6, 1, 1, 1)).sum(0)

    view = camera()
    found = render_sensitivity(raw, [view] * 100, pull_back, BLACK, 0, lambda: None)
    image = (basis * raw.opacity.reshape(6, 1, 1, 1)).sum(0) - view.image_u8.float() / 255
    error = float(image.square().mean())
    exact = basis.square().mean(dim=(1, 2, 3)) / error
    torch.testing.assert_close(found.per_parameter.opacity[:, 0], exact, rtol=0.3, atol=0)
    assert found.psnr == pytest.approx(-10 * np.log10(error), rel=1e-5)
    assert found.absolute_error == pytest.approx(float(image.abs().mean()), rel=1e-5)
    assert not found.per_parameter.xyz.any()


@pytest.mark.parametrize("shade", [-0.4, -0.01, 0.5, 1.01, 1.6])
def test_a_colour_counts_by_its_weight_in_the_image_whatever_its_shade(shade: float) -> None:
    """Black and overexposed Gaussians have no derivative, and yet a step may show them."""
    found, middle = of(scene(shade)), of(scene(0.5))
    errors = [10 ** (-sensitivity.psnr / 10) for sensitivity in (found, middle)]
    for name in ("features_dc", "features_rest"):
        by_shade, expected = (getattr(s.per_parameter, name) for s in (found, middle))
        assert (expected > 0).float().mean() > 0.8
        torch.testing.assert_close(by_shade * errors[0], expected * errors[1], rtol=1e-3, atol=0)


def test_shapes_count_where_the_image_is_overexposed() -> None:
    """What is brighter than white has no derivative in the image that is shown."""
    bright = of(scene(1.2)).per_parameter
    for name in ("xyz", "opacity", "scaling", "rotation"):
        assert (getattr(bright, name) > 0).float().mean() > 0.8, name


def test_limits_change_neither_image_nor_error() -> None:
    raw = scene(0.5)._replace(features_dc=3 * random_raw(60, 1).features_dc)
    backend = backend_for(BLACK.device, RenderOptions())
    shown = backend.draw(camera(), raw, torch.ones(3), 1)
    difference = shown - camera().image_u8.float() / 255
    found = of(raw, background=torch.ones(3))
    assert found.psnr == pytest.approx(-10 * np.log10(float(difference.square().mean())), abs=1e-3)
    assert found.absolute_error == pytest.approx(float(difference.abs().mean()), abs=1e-5)


def test_smallest_pixels() -> None:
    """One pixel is as wide as the image's width at that distance, divided by its pixels."""
    width, sine = 45, np.tan(0.5)
    xyz = torch.tensor([[0.0, 0, 0], [0, 0, 9], [0, 0, -20], [100, 0, 0]])
    found = smallest_pixels(xyz, [camera(), camera()])
    expected = torch.tensor([9 * 2 * sine / width, 18 * 2 * sine / width, 0, 0])
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=0)
