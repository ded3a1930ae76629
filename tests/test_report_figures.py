# SPDX-License-Identifier: Apache-2.0
"""What the report is made of: histograms of attributes, and values read from JSON."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from gaussian_compression.attribute_histograms import BINS, attribute_histograms
from gaussian_compression.html_report import figures
from gaussian_compression.report import Histogram
from gaussian_compression.rounds import Quality
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats
from utils.json_values import from_json


def values_of(found: Histogram) -> tuple[int, int]:
    return (
        sum(found.start) + found.start_outside,
        sum(found.compressed) + found.compressed_outside,
    )


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("counts", [(1, 1), (1, 0), (30_000, 20_000), (300, 20_000)])
def test_every_value_is_counted_once(degree: int, counts: tuple[int, int]) -> None:
    start, compressed = (random_splats(count, degree, seed) for seed, count in enumerate(counts))
    found = attribute_histograms(start, compressed)
    per_gaussian = {"scaling": 3, "features_dc": 3, "features_rest": 3 * ((degree + 1) ** 2 - 1)}
    assert ("features_rest" in found) == (degree > 0)
    for name, histogram in found.items():
        values = per_gaussian.get(name, 1)
        assert values_of(histogram) == (counts[0] * values, counts[1] * values)
        assert len(histogram.start) == len(histogram.compressed) == BINS
        assert histogram.start_outside + histogram.compressed_outside <= 0.0021 * sum(
            values_of(histogram)
        )


def test_large_models_are_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaussian_compression.attribute_histograms.MOST_GAUSSIANS", 100)
    start, compressed = random_splats(350, 1), random_splats(200, 1)
    for histogram in attribute_histograms(start, compressed).values():
        assert histogram.every == 3
        first, second = values_of(histogram)
        assert first / 117 == second / 67 in (1, 3, 9)


def test_extreme_values_have_histograms() -> None:
    def changed(**values: float) -> Splats:
        splats = random_splats(5, 1)
        return replace(splats, **{
            name: np.full_like(getattr(splats, name), value) for name, value in values.items()
        })  # fmt: skip

    for start in (
        changed(xyz=3e38, scaling=-3e38, opacity=np.inf, features_dc=-3e38),
        changed(xyz=1e-40, scaling=88.0, opacity=40.0, rotation=0.0, features_rest=np.nan),
        changed(opacity=37.0),
    ):
        for histogram in attribute_histograms(start, random_splats(4, 1)).values():
            assert math.isfinite(histogram.low) and math.isfinite(histogram.high)
            assert histogram.low < histogram.high
            assert values_of(histogram)[0] in (5, 15, 45)


def test_equal_models_have_equal_histograms() -> None:
    splats = random_splats(500, 2)
    turned = replace(  # the same ellipsoids with their axes in another order
        splats, rotation=splats.rotation[:, [1, 0, 3, 2]] * np.float32([-1, 1, 1, -1])
    )
    for histogram in attribute_histograms(splats, turned).values():
        assert histogram.start == histogram.compressed


@dataclass(frozen=True)
class Inner:
    size: int
    part: float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    pairs: dict[str, Inner] = field(default_factory=dict)
    items: tuple[float, ...] = ()
    other: Inner | None = None
    any: Any = None
    yes: bool = False


def test_json_becomes_dataclasses() -> None:
    found = from_json(Outer, {
        "name": "a", "inner": {"size": 3, "unknown": 1}, "pairs": {"x": {"size": 1, "part": 2}},
        "items": [1, 2.5, None], "other": None, "any": [{}], "yes": True, "later": 1,
    })  # fmt: skip
    assert found == Outer(
        "a", Inner(3), {"x": Inner(1, 2)}, (1, 2.5, None), None, [{}], True  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "name: expected str, got '3'"),
        ({"name": None}, "name: expected str"),
        ({"inner": []}, "inner: expected an object"),
        ({"inner": {}}, "inner.size is missing"),
        ({"inner": {"size": 1.5}}, "inner.size: expected int"),
        ({"inner": {"size": True}}, "inner.size: expected int"),
        ({"inner": {"size": 10**200}}, "inner.size: expected a number up to"),
        ({"items": [1, "x"]}, r"items\[1\]: expected float"),
        ({"items": {}}, "items: expected a list"),
        ({"pairs": []}, "pairs: expected an object"),
        ({"pairs": {"k": {"size": "1"}}}, "pairs.k.size: expected int"),
        ({"other": 3}, "other: expected an object"),
        ({"yes": 1}, "yes: expected bool"),
    ],
)
def test_json_of_other_types_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Outer, {"name": "a", "inner": {"size": 3}, **changes})


def test_figures_as_text() -> None:
    sizes = {1: "1 byte", 999: "999 bytes", 1000: "1.00 kB", 99_960: "100 kB", 999_499: "999 kB",
             999_500: "1.00 MB", 28_525_499: "28.5 MB", 4_000_000_000_000: "4,000 GB"}  # fmt: skip
    assert {value: figures.size(value) for value in sizes} == sizes
    assert [figures.seconds(value) for value in (0.04, 59.0, 60, 3599.4, 3600, 90_061)] == [
        "0.0 s", "59.0 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 01 min"]  # fmt: skip
    assert figures.psnr(Quality(None, None)) == figures.size(None) == "not measured"
    assert figures.psnr(Quality(None, 1.0)) == "infinite"
    assert figures.change(3, 1, 0) == "−2" and figures.change(None, 1, 0) == ""
