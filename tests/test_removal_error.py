# SPDX-License-Identifier: Apache-2.0
"""The score `removal_error` against images without each Gaussian."""

from functools import partial

import pytest
import torch
from reference.random_splats import random_raw
from reference.random_views import camera

from gaussian_compression.scores import RemovalError, ScoreTools, accumulate_scores
from gaussian_compression.sensitivity import DIMMING, dimmed
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.raw_parameters import RawParameters

CPU = torch.device("cpu")
BACKGROUND = torch.tensor([1.0, 0.5, 0.0])
COUNT = 30


def model() -> RawParameters:
    """Gaussians that cover one another; one nearly opaque, one faint, one behind the camera."""
    raw = random_raw(COUNT, 1)
    raw.xyz.mul_(0.4)
    raw.scaling.add_(3.0)
    raw.opacity.clamp_(-3.0, 3.5)
    raw.opacity[1] = -4.5
    raw.xyz[2, 2] = -30.0
    return raw


@pytest.mark.parametrize("antialiasing", [False, True])
def test_it_is_the_change_of_the_images_without_the_gaussian(antialiasing: bool) -> None:
    raw, views = model(), [camera(), camera(30, 41)]
    backend = backend_for(CPU, RenderOptions(antialiasing=antialiasing))
    pull_back = partial(backend.pull_back, sh_degree=1)
    tools = ScoreTools(backend, None, pull_back, BACKGROUND)  # type: ignore[arg-type]
    score = RemovalError(tools)
    score.passes = 600
    accumulate_scores([score], raw, views, tools, lambda: None)

    def images(rows: torch.Tensor) -> list[torch.Tensor]:
        seen, behind = dimmed(raw.rows(rows)), BACKGROUND * DIMMING
        return [backend.draw(view, seen, behind, 1).clone() / DIMMING for view in views]

    everything = images(torch.arange(COUNT))
    expected = torch.zeros(COUNT)
    for row in range(COUNT):
        without = images(torch.arange(COUNT) != row)
        expected[row] = sum(
            float((a - b).square().sum()) for a, b in zip(everything, without, strict=True)
        )
    assert expected[2] == 0
    assert (expected > 1).sum() > COUNT / 4
    torch.testing.assert_close(score.scores(), expected, rtol=0.25, atol=1e-3)


def test_an_opaque_gaussian_keeps_its_score() -> None:
    """Its derivative with respect to the logit is 0 in float32."""
    backend = backend_for(CPU, RenderOptions())
    found = []
    for logit in (4.0, 40.0):
        raw = model()
        raw.opacity[0] = logit
        tools = ScoreTools(backend, None, partial(backend.pull_back, sh_degree=1), BACKGROUND)  # type: ignore
        score = RemovalError(tools)
        accumulate_scores([score], raw, [camera()], tools, lambda: None)
        found.append(float(score.scores()[0]))
    assert found[0] > 0
    assert found[1] == pytest.approx(found[0], rel=0.05)
