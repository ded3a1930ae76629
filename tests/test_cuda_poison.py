# SPDX-License-Identifier: Apache-2.0
"""Extreme and invalid scenes on the CUDA path: the tests of the CPU path, and its results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_paths import cuda_path
from diff_gaussian_rasterization import native, raw
from reference.random_scenes import random_scene, raw_of
from test_rasterizer_poison import (
    POISONS,
    test_nothing_in_front_of_the_camera_shows_the_background,
    test_odd_sizes_of_images,
    test_one_gaussian,
    test_poisoned_api_tensors,
    test_poisoned_cameras,
    test_poisoned_field_of_view,
    test_tiny_and_huge_scales,
)

__all__ = [
    "test_nothing_in_front_of_the_camera_shows_the_background",
    "test_odd_sizes_of_images",
    "test_one_gaussian",
    "test_poisoned_api_tensors",
    "test_poisoned_cameras",
    "test_poisoned_field_of_view",
    "test_tiny_and_huge_scales",
]


@pytest.fixture(autouse=True)
def on_the_cuda_path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only for the tests of the CPU path: the others choose by themselves."""
    if request.function.__module__ == __name__:
        yield
        return
    with cuda_path():
        yield


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("field", raw.RawGaussians._fields)
def test_poisoned_rows_are_the_same_on_both_paths(field: str, poison: float) -> None:
    scene = random_scene(seed=4, count=64, width=40, height=33)
    gaussians = raw_of(scene)
    tensor = getattr(gaussians, field).clone()
    tensor[::3] = poison
    tensor[1::9, ..., -1] = poison
    gaussians = gaussians._replace(**{field: tensor})
    expected = raw.render(gaussians, scene.settings, training=True, clamp=True)
    with cuda_path():
        found = raw.render(gaussians, scene.settings, training=True, clamp=True)
        found.backward(torch.ones_like(found.image), gaussians.empty_like())
    assert torch.equal(found.radii, expected.radii)
    # A colour that is not finite may spread on a CPU, to the whole block of pixels.
    assert not (found.image.isnan() & expected.image.isfinite()).any()
    if field not in ("features_dc", "features_rest"):
        assert found.image.isfinite().all()
    difference = (found.image - expected.image).nan_to_num().abs()
    assert float((difference > 1e-4).float().mean()) <= 1e-3


def test_more_tile_entries_than_can_be_counted_are_refused() -> None:
    native.check_entries(2**31)
    with pytest.raises(RuntimeError, match=r"cover more than 2\^31 image tiles"):
        native.check_entries(2**31 + 1)
