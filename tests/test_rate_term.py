# SPDX-License-Identifier: Apache-2.0
"""The benchmark of last stages: its settings, and the views that it trains on."""

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.rate_term import ATTRIBUTES, HEAD, Bench, Figures, Variant, row, variant_of
from gaussian_compression.finetune import Finetuner
from gaussian_compression.settings import GridSettings
from gaussian_compression.validation_split import ViewSplit
from utils.errors import InputError


def test_settings_are_the_presets_with_changes() -> None:
    assert variant_of("") == Variant()
    expected = Variant(replace(GridSettings(), noise=0.06, deadzone=0.7), ridge=0.01)
    assert variant_of("noise=0.06,ridge=0.01,deadzone=0.7") == expected


@pytest.mark.parametrize(
    "text", ["noise", "noise=", "noise=much", "size=1", "final_restart=1", "grids=1"]
)
def test_other_settings_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--settings: expected"):
        variant_of(text)


def test_guard_views_are_not_trained_on() -> None:
    trained: list[Any] = []

    def record(model: object, views: list[Any], iterations: int, order: random.Random,
               *rest: object) -> None:  # fmt: skip
        trained.extend(views)
        assert (iterations, order.random()) == (7, random.Random(3).random())

    finetuner = cast(Finetuner, SimpleNamespace(run=record))
    views: ViewSplit[Any] = ViewSplit(["a", "b"], ["guard"])
    nothing = cast(Any, None)
    bench = Bench(nothing, views, finetuner, nothing, nothing, 7, nothing)
    bench.finetune(nothing, 3, GridSettings())
    assert trained == ["a", "b"]


def test_a_row_has_the_columns_of_the_head() -> None:
    sizes = {name: 10.0 * place for place, name in enumerate(ATTRIBUTES)}
    cells = row("x", 1, Figures(10, 250, sizes, 30.0, 35.0, 2.4)).split(";")
    values = dict(zip(HEAD.split(";"), cells, strict=True))
    assert values["file"] == "25.000"
    assert values["features_rest"] == "5.000"
    assert (values["guard_psnr"], values["train_psnr"]) == ("30.000", "35.000")
