# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from splat_formats.palettes import levels_of, nearest_levels, palette_of


def mean_error(rows: np.ndarray, found: np.ndarray) -> float:
    return float(((rows - found) ** 2).sum(axis=1).mean())


def test_few_values_are_levels_themselves() -> None:
    values = np.array([[3, 1], [1, 2]], np.float32)
    levels = levels_of(values, 256)
    assert levels.shape == (256,)
    np.testing.assert_array_equal(levels[nearest_levels(values, levels)], values)
    assert levels_of(np.zeros((0, 3), np.float32), 256).tolist() == [0] * 256


@pytest.mark.parametrize(("outlier", "share"), [(0.0, 0.8), (1e4, 0.8), (-1e30, 3.0)])
def test_levels_are_as_good_as_even_steps_without_the_outlier(outlier: float, share: float) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=5000).astype(np.float32)
    values[0] = outlier
    levels = levels_of(values, 256)
    found = levels[nearest_levels(values, levels)]
    assert levels[0] == values.min()
    assert levels[-1] == values.max()
    assert (np.diff(levels) >= 0).all()
    assert (np.abs(found - values) <= np.diff(levels).max() / 2).all()
    # Even steps over the middle part, which holds all but the outlier, err by step / sqrt(12).
    even = 8 / 256 / np.sqrt(12)
    assert np.sqrt(np.mean((found - values)[1:] ** 2)) < share * even


def test_few_distinct_rows_are_the_palette() -> None:
    generator = np.random.default_rng(2)
    distinct = generator.normal(size=(40, 9)).astype(np.float32)
    rows = distinct[generator.integers(0, 40, 500)]
    palette = palette_of(rows, 64)
    np.testing.assert_array_equal(palette.entries[palette.labels], rows)
    assert len(palette.entries) == len(np.unique(rows, axis=0))


def test_entries_are_in_the_order_of_their_first_use() -> None:
    rows = np.random.default_rng(3).normal(size=(3000, 9)).astype(np.float32)
    palette = palette_of(rows, 128)
    used, first = np.unique(palette.labels, return_index=True)
    assert used.tolist() == list(range(len(palette.entries)))
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("channels", [9, 45])
def test_cells_lose_little_against_comparing_all(channels: int) -> None:
    generator = np.random.default_rng(4)
    latent = generator.normal(size=(6000, 5)) * [3, 2, 1, 1, 0.5]
    rows = (latent @ generator.normal(size=(5, channels))).astype(np.float32)
    palette = palette_of(rows, 1024)  # in 16 cells, of which 8 are compared
    found = mean_error(rows, palette.entries[palette.labels])
    entries = rows[:: len(rows) // 1024][:1024].astype(np.float64)
    for _ in range(9):  # plain k-means with as many steps
        distances = ((rows**2).sum(1)[:, None] - 2 * rows @ entries.T) + (entries**2).sum(1)
        labels = distances.argmin(axis=1)
        counts = np.bincount(labels, minlength=1024)[:, None]
        sums = np.stack([np.bincount(labels, column, 1024) for column in rows.T], 1)
        entries = np.where(counts > 0, sums / np.maximum(counts, 1), entries)
    assert found < 1.05 * mean_error(rows, entries[labels])


def test_labels_name_the_nearest_entry_in_one_cell() -> None:
    rows = np.random.default_rng(5).normal(size=(700, 24)).astype(np.float32)
    palette = palette_of(rows, 64)
    distances = ((rows[:, None] - palette.entries) ** 2).sum(axis=2)
    best = distances.min(axis=1)
    chosen = np.take_along_axis(distances, palette.labels[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, best, rtol=1e-4)


def test_no_rows_and_no_channels() -> None:
    assert palette_of(np.zeros((0, 9), np.float32), 1024).labels.shape == (0,)
    assert palette_of(np.zeros((5, 0), np.float32), 1024).labels.tolist() == [0] * 5
