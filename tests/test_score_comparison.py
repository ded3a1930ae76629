# SPDX-License-Identifier: Apache-2.0
"""The benchmark of scores: rounds, names, and the scores that only it has."""

from functools import partial

import pytest
import torch
from reference.random_splats import random_raw
from reference.random_views import camera

from benchmarks.scores import (
    AdamMoment,
    ChangeOfError,
    checked_names,
    checked_parts,
    counts_of_rounds,
)
from gaussian_compression.scores import ScoreTools, accumulate_scores
from gaussian_compression.settings import FinetuneSettings
from gaussian_compression.trainable import FullPrecision
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.raw_parameters import RawParameters
from utils.errors import InputError

BACKEND = backend_for(torch.device("cpu"), RenderOptions())
BACKGROUND = torch.tensor([1.0, 0.5, 0.0])


def test_rounds_lead_to_the_count_in_even_steps_of_at_most_a_third() -> None:
    assert counts_of_rounds(1000, 0.2, 1000) == [668, 447, 299, 200]
    assert counts_of_rounds(500, 0.25, 1000) == [353, 250]
    assert counts_of_rounds(250, 0.24, 1000) == [240]


def test_parts_are_in_descending_order_each_once() -> None:
    assert checked_parts([0.1, 0.5, 0.1]) == [0.5, 0.1]
    with pytest.raises(InputError, match="--kept: expected parts above 0 and below 1, got 1"):
        checked_parts([0.5, 1.0])


def test_unknown_scores_are_refused() -> None:
    assert checked_names("adam_moment,removal_error") == ["adam_moment", "removal_error"]
    with pytest.raises(InputError, match="got 'size'"):
        checked_names("removal_error,size")


def test_the_change_of_the_error_is_that_without_the_gaussian() -> None:
    raw, views = random_raw(20, 1), [camera(), camera(30, 41)]
    raw.xyz.mul_(0.4)
    raw.scaling.add_(3.0)
    raw.opacity.clamp_(-3.0, 3.5)
    raw.features_dc.mul_(0.2)
    raw.features_rest.zero_()
    for view in views:  # without the first five Gaussians, which therefore only do harm
        image = BACKEND.draw(view, raw.rows(torch.arange(5, 20)), BACKGROUND, 1)
        view.image_u8 = (image * 255).round().to(torch.uint8)
    pull_back = partial(BACKEND.pull_back, sh_degree=1)
    tools = ScoreTools(BACKEND, None, pull_back, BACKGROUND)  # type: ignore[arg-type]
    score = ChangeOfError(tools)
    score.passes = 600
    accumulate_scores([score], raw, views, tools, lambda: None)

    def error(seen: RawParameters) -> float:
        images = [BACKEND.draw(view, seen, BACKGROUND, 1).clone() for view in views]
        assert all(image.min() >= 0 and image.max() <= 1 for image in images)
        return sum(
            float((image - view.image_u8 / 255).square().sum())
            for image, view in zip(images, views, strict=True)
        )

    before, rows = error(raw), torch.arange(20)
    expected = torch.tensor([error(raw.rows(rows != row)) - before for row in range(20)])
    assert (expected < -1).any()
    assert (expected > 1).any()
    torch.testing.assert_close(score.scores(), expected, rtol=0.1, atol=0.3)


def test_adams_moment_is_the_mean_of_squared_gradients() -> None:
    raw = random_raw(5, 1)
    model = FullPrecision(raw, FinetuneSettings(), BACKEND)
    gradients = random_raw(5, 1, seed=3)
    expected = sum(0.001 * g.flatten(1).square().sum(dim=1) for g in gradients)
    model.apply(gradients, dict.fromkeys(RawParameters._fields, 0.0))
    torch.testing.assert_close(AdamMoment(model).scores(), expected)
