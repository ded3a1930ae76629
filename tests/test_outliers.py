# SPDX-License-Identifier: Apache-2.0
"""One extreme Gaussian does not change the others, and is itself decoded exactly."""

from dataclasses import replace

import numpy as np
import pytest

from splat_codec.model_file import decode
from splat_formats.axes import unit_quaternions
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.outliers import MOST_OPACITY, middle, set_aside, with_limited_colours
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats
from tests.test_training_free import compressed
from utils.errors import InputError

COUNT = 300
EXTREME = {
    "opacity": (1000.0, 1e4, 1e5, 3e38, -1e3, -1e30),
    "features_dc": (1e4, -1e4, 1e30, -3e38),
    "features_rest": (1e3, 1e30, -1e30),
    "rotation": (1e20, 1e-30, 3e38, 1e-45),
    "scaling": (80.0, -80.0, 1e30, -1e30),
    "xyz": (1e9, -1e30, 3e38),
}


def with_extreme(splats: Splats, name: str, value: float, whole_row: bool = False) -> Splats:
    """The splats with a number of row 7, or all of them, replaced."""
    array = getattr(splats, name).copy()
    array[7].flat[slice(None) if whole_row else 0] = value
    return replace(splats, **{name: array})


def visible_splats() -> Splats:
    splats = random_splats(COUNT, 1, seed=5)
    xyz = splats.xyz.copy()
    xyz[:3] = xyz[3:6]  # instead of the far ones
    return replace(splats, xyz=xyz, opacity=np.maximum(splats.opacity, np.float32(-5)))


@pytest.fixture(scope="module")
def errors_without() -> dict[str, float]:
    """Root mean square errors of the model without an extreme Gaussian."""
    report = compressed(visible_splats()).report
    return {name: error.rms for name, error in report.errors.items()}


@pytest.mark.parametrize("name", EXTREME)
def test_an_extreme_gaussian_does_not_change_the_others(
    name: str, errors_without: dict[str, float]
) -> None:
    ordinary = visible_splats()
    for number, value in enumerate(EXTREME[name]):
        changed = with_extreme(ordinary, name, value, whole_row=number % 2 == 1)
        result = compressed(changed)
        report, decoded = result.report, result.decoded.splats
        dropped = int(name == "opacity" and value < 0)
        assert report.start.dropped == dropped
        assert decoded.count == COUNT - dropped
        same = to_splats(decode(result.data).splats)
        for attribute, found in same.columns().items():
            np.testing.assert_array_equal(found, decoded.columns()[attribute])
            assert np.isfinite(found).all()
        for attribute, error in report.errors.items():
            assert error.rms <= 1.1 * errors_without[attribute] + 1e-7, (value, attribute)


@pytest.mark.parametrize("count", [5, 12, 300])
def test_numbers_far_from_all_others_are_decoded_exactly(count: int) -> None:
    ordinary = random_splats(count, 1, seed=3)
    ordinary = replace(ordinary, opacity=np.maximum(ordinary.opacity, np.float32(-5)))
    dc, rest, scaling = (
        getattr(ordinary, name).copy() for name in ("features_dc", "features_rest", "scaling")
    )
    dc[2, 0, 1], rest[2, 1, 0], rest[3, 2, 2] = 1e4, -1e6, 1e3
    scaling[4] = 80, -90, -3
    result = compressed(replace(ordinary, features_dc=dc, features_rest=rest, scaling=scaling))
    found = result.decoded.splats
    assert np.count_nonzero(found.features_dc == np.float32(1e4)) == 1
    assert np.count_nonzero(found.features_rest == np.float32(-1e6)) == 1
    assert np.count_nonzero(found.features_rest == np.float32(1e3)) == 1
    assert {80.0, -90.0} <= set(found.scaling.ravel().tolist())
    assert any("stored exactly: 3" in notice for notice in result.report.notices)


@pytest.mark.parametrize("value", [1e20, -1e38, 3.4e38])
@pytest.mark.parametrize("name", ["features_dc", "features_rest", "scaling", "xyz"])
@pytest.mark.parametrize("count", [6, 300])
def test_many_extreme_numbers_are_decoded_too(name: str, value: float, count: int) -> None:
    """More than the hundredth part that lies outside of the middle; up to all Gaussians."""
    ordinary = visible_splats()
    array = getattr(ordinary, name).copy()
    array.reshape(COUNT, -1)[:count, 0] = value
    on_grids = quantize_splats(replace(ordinary, **{name: array}), QUALITIES["high"])
    decoded = getattr(to_splats(on_grids.splats), name)[np.argsort(on_grids.order)]
    found = np.sort(decoded.reshape(COUNT, -1), axis=1)[:count]  # scales have another order
    assert np.isclose(found, np.float32(value), rtol=1e-5).any(axis=1).all()


def test_opacities_are_clamped_to_where_the_sigmoid_changes() -> None:
    def sigmoid(logit: float) -> np.float32:
        return np.float32(1) / (np.float32(1) + np.exp(np.float32(-logit)))

    assert sigmoid(MOST_OPACITY) == 1
    result = compressed(with_extreme(visible_splats(), "opacity", 1000.0))
    assert any("sigmoid is 0 or 1: 1" in notice for notice in result.report.notices)
    assert sigmoid(result.decoded.splats.opacity.max()) == 1


def test_a_model_that_no_image_shows_is_refused() -> None:
    splats = visible_splats()
    with pytest.raises(InputError, match="Gaussians that an image can show, found none among 300"):
        compressed(replace(splats, opacity=np.full((COUNT, 1), -9, np.float32)))


def test_colours_far_from_all_others_are_clamped_without_exact_values() -> None:
    ordinary = visible_splats()
    same, none = with_limited_colours(ordinary)
    assert none == 0
    np.testing.assert_array_equal(same.features_rest, ordinary.features_rest)
    changed = with_extreme(with_extreme(ordinary, "features_dc", -1e30), "features_rest", 1e4)
    limited, moved = with_limited_colours(changed)
    assert moved == 1
    assert np.abs(limited.features_dc).max() < 100
    assert np.abs(limited.features_rest).max() < 100
    same_rows = np.arange(COUNT) != 7
    np.testing.assert_array_equal(limited.features_dc[same_rows], ordinary.features_dc[same_rows])


def test_quaternions_of_any_length_become_unit_quaternions() -> None:
    ordinary = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = unit_quaternions(ordinary)
    for exponent in (-100, -60, -1, 60, 100):
        np.testing.assert_array_equal(unit_quaternions(np.ldexp(ordinary, exponent)), expected)
    np.testing.assert_array_equal(unit_quaternions(np.zeros((1, 4), np.float32)), [[1, 0, 0, 0]])


def test_an_ordinary_model_has_no_outliers() -> None:
    splats = random_splats(3000, 3)
    stand_ins, exact = set_aside(splats)
    assert len(exact) == 0
    assert stand_ins.scaling is splats.scaling


def test_the_middle_is_without_the_extremes() -> None:
    values = np.array([[1e30], [1], [2], [3], [-1e30]], np.float32)
    low, high = middle(values)
    assert (low[0], high[0]) == (1, 3)
