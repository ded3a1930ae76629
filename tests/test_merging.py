# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' merging of Gaussians that look alike."""

import numpy as np
import pytest
import torch
from reference.random_splats import random_raw

from benchmarks.merging import disjoint, likeness, merged, near_pairs, put_merged
from scene.raw_parameters import RawParameters
from utils.general_utils import build_scaling_rotation


def covariance(raw: RawParameters, row: int) -> np.ndarray:
    root = build_scaling_rotation(raw.scaling.double().exp(), raw.rotation.double())[row].numpy()
    return root @ root.T


def surface(raw: RawParameters, row: int) -> float:
    x, y, z = raw.scaling[row].double().exp().tolist()
    return x * y + y * z + z * x


def mass(raw: RawParameters, row: int) -> float:
    return float(torch.sigmoid(raw.opacity[row, 0].double())) * surface(raw, row)


def test_one_gaussian_has_the_mass_mean_and_covariance_of_two() -> None:
    raw = random_raw(6, 2)
    raw.opacity.clamp_(max=-1.0)
    raw.xyz[4] = raw.xyz[1] + 0.1
    before = raw.map(torch.clone)
    put_merged(raw, torch.tensor([[1, 4]]))
    weights = np.array([mass(before, 1), mass(before, 4)])
    assert mass(raw, 1) == pytest.approx(weights.sum(), rel=1e-4)
    parts = weights / weights.sum()
    centres = before.xyz[[1, 4]].double().numpy()
    middle = parts @ centres
    np.testing.assert_allclose(raw.xyz[1].numpy(), middle, rtol=1e-5)
    expected = sum(
        part * (covariance(before, row) + np.outer(centre - middle, centre - middle))
        for part, row, centre in zip(parts, (1, 4), centres, strict=True)
    )
    np.testing.assert_allclose(covariance(raw, 1), expected, rtol=1e-4, atol=1e-6)
    colours = before.features_rest[[1, 4]].double().numpy()
    np.testing.assert_allclose(
        raw.features_rest[1].numpy(), np.tensordot(parts, colours, 1), rtol=1e-4, atol=1e-6
    )
    for new, old in zip(raw, before, strict=True):
        assert torch.equal(new[[0, 2, 3, 5]], old[[0, 2, 3, 5]])


def test_twins_are_merged_first_and_the_scores_added() -> None:
    raw = random_raw(20, 1)
    twin = raw.rows(torch.tensor([7]))
    raw = RawParameters(*map(torch.cat, zip(raw, twin, strict=True)))
    scores = torch.arange(1.0, 22)
    result, new_scores = merged(raw, scores, 1)
    assert result.gaussian_count == 20
    assert float(new_scores[7]) == 8 + 21
    torch.testing.assert_close(result.xyz, raw.xyz[:20])
    assert (result.opacity >= raw.opacity[:20]).all()
    torch.testing.assert_close(covariance(result, 7), covariance(raw, 7), rtol=1e-4, atol=1e-6)


def test_likeness_is_1_for_twins_and_falls_with_distance_and_colour() -> None:
    raw = random_raw(4, 1)
    raw = raw.rows(torch.tensor([0, 0, 0, 0]))
    raw.xyz[2] += 2 * raw.scaling[2].exp().max()
    raw.features_dc[3] += 1.0
    found = likeness(raw, torch.tensor([[0, 1], [0, 2], [0, 3]]))
    assert float(found[0]) == pytest.approx(1)
    assert (found[1:] < 0.9).all()


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_pairs_are_of_neighbours_and_few_gaussians_are_no_error(count: int) -> None:
    raw = random_raw(9, 1).rows(torch.arange(count))
    pairs = near_pairs(raw)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(pairs) == len({tuple(pair) for pair in pairs.tolist()})
    assert len(pairs) >= count // 2
    result, scores = merged(raw, torch.ones(count), 100)
    assert result.gaussian_count == len(scores) >= count - count // 2


def test_no_gaussian_is_in_two_pairs() -> None:
    pairs = torch.tensor([[0, 1], [1, 2], [2, 3], [4, 5]])
    assert disjoint(pairs, 2).tolist() == [True, False, True, False]
    assert disjoint(pairs, 9).tolist() == [True, False, True, True]
