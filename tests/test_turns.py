# SPDX-License-Identifier: Apache-2.0
"""A turned model looks from turned directions as the original does from the original ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from splat_formats.splats import Splats
from splat_formats.turns import (
    HALF_TURN_X,
    HALF_TURN_Z,
    harmonics_matrix,
    quaternion_of,
    turned,
)
from tests.test_ply import random_splats
from utils.sh_utils import eval_sh

QUARTER_X = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def any_rotation(seed: int) -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def matrices_of(quaternions: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotation matrices of quaternions w, x, y, z."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    return np.stack(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)


def covariances(splats: Splats) -> np.ndarray:
    axes = matrices_of(splats.rotation.astype(np.float64))
    sizes = np.exp(2 * splats.scaling.astype(np.float64))
    return axes * sizes[:, None] @ axes.transpose(0, 2, 1)


ROTATIONS = {
    "half turn about x": HALF_TURN_X,
    "half turn about y": np.diag([-1.0, 1, -1]),
    "half turn about z": HALF_TURN_Z,
    "quarter turn": QUARTER_X,
    "swap": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]]),
    **{f"any {seed}": any_rotation(seed) for seed in range(3)},
}


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("name", ROTATIONS)
def test_colours_and_shapes_turn_with_the_model(name: str, degree: int) -> None:
    rotation, before = ROTATIONS[name], random_splats(50, degree)
    after = turned(before, rotation)
    np.testing.assert_allclose(after.xyz, before.xyz @ rotation.T, atol=1e-6)
    directions = np.random.default_rng(1).normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colours = [
        eval_sh(degree, torch.tensor(coefficients), torch.tensor(seen_from)).numpy()
        for coefficients, seen_from in (
            (with_dc(before), directions),
            (with_dc(after), directions @ rotation.T),
        )
    ]
    np.testing.assert_allclose(colours[1], colours[0], atol=3e-6)
    expected = rotation @ covariances(before) @ rotation.T
    np.testing.assert_allclose(covariances(after), expected, rtol=1e-5, atol=1e-4)


def with_dc(splats: Splats) -> np.ndarray:
    """(N, 3, (degree + 1)^2) coefficients in float64."""
    both = np.concatenate([splats.features_dc, splats.features_rest], axis=1)
    return both.transpose(0, 2, 1).astype(np.float64)


@pytest.mark.parametrize("axis", range(3))
def test_a_half_turn_changes_signs_only(axis: int) -> None:
    signs = np.where(np.arange(3) == axis, 1.0, -1.0)
    before = random_splats(9, 3)
    after = turned(before, np.diag(signs))
    for name in ("xyz", "rotation", "features_rest"):
        np.testing.assert_array_equal(
            np.abs(getattr(after, name)), np.abs(getattr(before, name)), name
        )
    np.testing.assert_array_equal(
        after.rotation, before.rotation * np.array([1, *signs], np.float32)
    )
    again = turned(after, np.diag(signs))
    for name in ("xyz", "rotation", "features_rest"):
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name), name)


def test_signs_of_the_half_turn_about_x() -> None:
    # y and z change their signs: a function keeps its sign if it has an even number of them.
    signs = np.diag(harmonics_matrix(3, HALF_TURN_X))
    assert signs.tolist() == [-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1]


def test_two_turns_are_one() -> None:
    one, two = any_rotation(5), any_rotation(6)
    before = random_splats(20, 3)
    twice, once = turned(turned(before, one), two), turned(before, two @ one)
    for name in ("xyz", "features_rest"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), atol=5e-6)
    np.testing.assert_allclose(covariances(twice), covariances(once), rtol=1e-5, atol=1e-4)


def test_quaternions_of_matrices() -> None:
    np.testing.assert_array_equal(quaternion_of(np.eye(3)), [1, 0, 0, 0])
    np.testing.assert_allclose(quaternion_of(QUARTER_X), [0.5**0.5, 0.5**0.5, 0, 0], atol=1e-15)
    for seed in range(4):
        rotation = any_rotation(seed)
        found = matrices_of(quaternion_of(rotation)[None])[0]
        np.testing.assert_allclose(found, rotation, atol=1e-14)


def test_no_gaussians_and_numbers_that_are_not_finite() -> None:
    assert turned(random_splats(0, 3), any_rotation(0)).count == 0
    before = random_splats(3, 3)
    lost = before.features_rest.copy()
    lost[1, 4, 2] = np.nan
    after = turned(replace(before, features_rest=lost), any_rotation(0))
    assert np.isfinite(after.features_rest[[0, 2]]).all()
    assert np.isnan(after.features_rest[1]).any()


@pytest.mark.parametrize(
    "matrix",
    [np.eye(2), 2 * np.eye(3), np.diag([1.0, 1, -1]), np.full((3, 3), np.nan), np.zeros((3, 3))],
)
def test_other_matrices_are_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rotation matrix"):
        turned(random_splats(1, 0), matrix)
