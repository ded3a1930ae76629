# SPDX-License-Identifier: Apache-2.0
"""The stages of compression, each alone: quantisers, guard views, pruning, the start."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.random_splats import random_raw

from compress import PRESETS
from gaussian_compression.decoded_mark import MARK
from gaussian_compression.finetune import TrainableModel
from gaussian_compression.model_folder import start_from_file, start_from_folder
from gaussian_compression.prune import count_after_round, rows_to_keep
from gaussian_compression.quantize import (
    Range,
    ShRanges,
    box_warnings,
    initial_ranges,
    moved_ranges,
    quantize_into,
    quantizers_for,
    to_symbols,
)
from gaussian_compression.scores import (
    SCORES,
    ScoreAccumulator,
    ScoredView,
    ScoreTools,
    accumulate_scores,
    score_named,
)
from gaussian_compression.settings import (
    CompressionSettings,
    FinetuneSettings,
    GridSettings,
    QuantizationSettings,
    StoppingRule,
    TrajectorySettings,
    check_settings,
)
from gaussian_compression.trainable import FullPrecision, take_step
from gaussian_compression.validation_split import split_off_guard
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.array_operations import ArrayOperations, TorchOperations
from scene.raw_parameters import RawParameters
from splat_codec.symbols import same_symbols
from splat_formats.decoded import to_splats
from splat_formats.ply import write_ply
from splat_formats.splats import Splats
from utils.errors import InputError

CPU = torch.device("cpu")
RATES = dict.fromkeys(RawParameters._fields, 0.01)

# Quantisers


@pytest.mark.parametrize("position_bits", [32, 16])
@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_what_is_trained_is_what_is_stored(position_bits: int, sh_degree: int) -> None:
    raw = random_raw(sh_degree=sh_degree)
    settings = QuantizationSettings(position_bits=position_bits)
    quantizers = quantizers_for(raw, initial_ranges(raw), settings)
    rendered = quantize_into(raw, quantizers, raw.map(torch.empty_like))
    decoded = to_splats(to_symbols(raw, quantizers))
    for name, tensor in rendered.named():
        np.testing.assert_array_equal(tensor.numpy(), getattr(decoded, name), err_msg=name)


def test_storing_decoded_values_again_gives_the_same_symbols() -> None:
    raw = random_raw()
    quantizers = quantizers_for(raw, initial_ranges(raw), QuantizationSettings())
    decoded = quantize_into(raw, quantizers, raw.map(torch.empty_like))
    assert same_symbols(to_symbols(raw, quantizers), to_symbols(decoded, quantizers))


def test_values_out_of_range_go_to_the_edge() -> None:
    raw = random_raw()
    narrow = ShRanges(Range(-0.5, 0.5), Range(-0.01, 0.01))
    quantizers = quantizers_for(raw, narrow, QuantizationSettings())
    decoded = to_splats(to_symbols(raw, quantizers))
    assert abs(decoded.features_rest).max() < 0.0101
    assert abs(decoded.features_dc).max() < 0.51


def test_quantisation_error_is_small() -> None:
    raw = random_raw()
    settings = QuantizationSettings(position_bits=16)
    quantizers = quantizers_for(raw, initial_ranges(raw), settings)
    decoded = to_splats(to_symbols(raw, quantizers))
    extent = float(raw.xyz.amax() - raw.xyz.amin())
    assert abs(decoded.xyz - raw.xyz.numpy()).max() < extent / 2**16
    assert abs(decoded.features_rest - raw.features_rest.numpy()).max() < 1.0 / 255
    np.testing.assert_allclose(decoded.scaling, raw.scaling, rtol=5e-4, atol=1e-4)


def test_ranges_move_a_little_towards_new_values() -> None:
    raw = random_raw()
    before = ShRanges(Range(0.0, 0.0), Range(-1.0, 1.0))
    after = moved_ranges(before, initial_ranges(raw), momentum=0.01)
    assert after.dc.high == pytest.approx(0.01 * float(raw.features_dc.max()))
    assert after.rest.low == pytest.approx(-1 + 0.01 * (1 + float(raw.features_rest.min())))


# Guard views


@dataclass
class NamedView:
    image_name: str


def names(views: list[NamedView]) -> list[str]:
    return [view.image_name for view in views]


def test_guard_is_every_eighth_by_name_whatever_the_order() -> None:
    views = [NamedView(f"{number:03d}.jpg") for number in range(40)]
    split = split_off_guard(random.Random(1).sample(views, 40))
    assert names(split.guard) == ["004.jpg", "012.jpg", "020.jpg", "028.jpg", "036.jpg"]
    assert sorted(names(split.guard) + names(split.training)) == names(views)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_few_views_still_have_one_guard_and_one_training_view(count: int) -> None:
    split = split_off_guard([NamedView(str(number)) for number in range(count)])
    assert len(split.guard) == 1
    assert len(split.training) == count - 1


def test_one_view_is_not_enough() -> None:
    with pytest.raises(InputError, match="at least 2 training views"):
        split_off_guard([NamedView("only")])


# Pruning


def test_the_lowest_scores_are_removed() -> None:
    scores = torch.tensor([5.0, 1.0, 4.0, 0.5, 3.0])
    assert rows_to_keep(scores, 3).tolist() == [True, False, True, False, True]


def test_counts_are_rounded_down_and_ties_go_in_order() -> None:
    assert rows_to_keep(torch.ones(39), count_after_round(39, 0.05)).sum() == 38
    assert rows_to_keep(torch.ones(4), 2).tolist() == [False, False, True, True]
    assert rows_to_keep(torch.ones(19), count_after_round(19, 0.05)).all()
    assert rows_to_keep(torch.zeros(0), 0).shape == (0,)


def test_a_score_of_nan_counts_as_the_lowest() -> None:
    assert rows_to_keep(torch.tensor([1.0, float("nan"), 0.0]), 2).tolist() == [1, 0, 1]


@pytest.mark.parametrize("sh_degree", [0, 2])
def test_score_is_the_sum_of_six_norms(sh_degree: int) -> None:
    gradients = random_raw(7, sh_degree)
    expected = [sum(float(np.linalg.norm(t[i])) for t in gradients if t.numel()) for i in range(7)]

    def differentiate(weight: Any, raw: RawParameters, out: RawParameters) -> None:
        for target, gradient in zip(out, gradients, strict=True):
            target.copy_(weight * gradient)

    score, tools = score_of("gradient_norm", differentiate)
    accumulate_scores([score], gradients, [0.75, 0.25], tools, lambda: None)  # type: ignore
    np.testing.assert_allclose(score.scores(), expected, rtol=1e-5)


def score_of(name: str, differentiate: Any) -> tuple[ScoreAccumulator, ScoreTools]:
    """A score that only reads the loss gradients, and its tools."""
    tools = ScoreTools(TorchOperations(), differentiate, None, torch.zeros(3))  # type: ignore
    return score_named(name, tools), tools


class Visits:
    """In how many views a Gaussian has a gradient of its opacity."""

    def __init__(self, tools: ScoreTools) -> None:
        pass

    def start(self, raw: RawParameters) -> None:
        self.counts = torch.zeros(raw.gaussian_count)

    def add(self, view: ScoredView) -> None:
        self.counts += view.loss_gradients.opacity[:, 0] > 0

    def scores(self) -> torch.Tensor:
        return self.counts


def test_any_set_of_scores_takes_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "visits", Visits)
    raw, visited = random_raw(5, 1), []

    def differentiate(view: Any, raw: RawParameters, out: RawParameters) -> None:
        visited.append(view)
        for target in out:
            target.fill_(view)

    (visits, tools), (norm, _) = (score_of(n, differentiate) for n in ("visits", "gradient_norm"))
    for _ in range(2):  # the second pass begins anew
        accumulate_scores([visits, norm], raw, [1, 2, 3], tools, lambda: None)  # type: ignore
    assert visited == [1, 2, 3] * 2
    assert visits.scores().tolist() == [3] * 5
    widths = [tensor[0].numel() for tensor in raw]
    expected = sum(6 * width**0.5 for width in widths)
    np.testing.assert_allclose(norm.scores(), expected, rtol=1e-5)


def test_an_unknown_score_is_named() -> None:
    with pytest.raises(InputError, match=r"score 'opacity'.*gradient_norm"):
        score_of("opacity", None)


# Rounds in full precision


@pytest.mark.parametrize("operations", [TorchOperations(), backend_for(CPU, RenderOptions())])
def test_full_precision_is_adam_with_the_penalty_and_the_decay(operations: ArrayOperations) -> None:
    raw, loss = random_raw(60, 2), FinetuneSettings(sh_sparsity=0.5)
    leaves = raw.map(lambda tensor: tensor.clone().requires_grad_())
    reference = torch.optim.Adam(
        [{"params": [leaf], "lr": RATES[name]} for name, leaf in leaves.named()], eps=1e-15
    )
    model = FullPrecision(raw, loss, operations, opacity_decay=0.1)
    assert model.seen is raw
    for seed in range(3):
        gradients = random_raw(60, 2, seed=seed + 1)
        penalty = loss.sh_sparsity * leaves.features_rest.abs().mean()
        products = zip(leaves, gradients, strict=True)
        (sum((leaf * slope).sum() for leaf, slope in products) + penalty).backward()
        reference.step()
        leaves.opacity.data.sub_(0.1 * RATES["opacity"])
        reference.zero_grad()
        take_step(model, gradients, RATES)
    for (name, found), wanted in zip(raw.named(), leaves, strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-6, msg=name)


def test_only_the_published_preset_trains_rounds_under_its_quantisation() -> None:
    raw = random_raw(20, 1)
    compact, published = (
        PRESETS[name].trajectory.quantization for name in ("balanced", "fast3dgs")
    )
    assert TrainableModel.start_from(raw, compact).seen(compact) is raw
    quantized = TrainableModel.start_from(raw, published)
    assert quantized.ranges == initial_ranges(raw)
    assert not torch.equal(quantized.seen(published).features_dc, raw.features_dc)
    with pytest.raises(InputError, match="got None for both"):
        check_settings(CompressionSettings(TrajectorySettings(quantization=None)))


# Start models


def small_splats(sh_degree: int = 1) -> Splats:
    return random_raw(9, sh_degree).to_splats()


def test_start_is_the_highest_trained_iteration(tmp_path: Path) -> None:
    for iteration in (7000, 30000, 64000):
        write_ply(tmp_path / f"point_cloud/iteration_{iteration}/point_cloud.ply", small_splats())
    (tmp_path / "point_cloud/iteration_64000" / MARK).write_text("{}")
    start = start_from_folder(tmp_path)
    assert start.iteration == 30000
    assert start.splats.count == 9


def test_missing_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained model"):
        start_from_folder(tmp_path)
    with pytest.raises(InputError, match=r"no file at .*gone\.ply"):
        start_from_file(tmp_path / "gone.ply")
    with pytest.raises(InputError, match="this is a folder"):
        start_from_file(tmp_path)
    (tmp_path / "point_cloud").mkdir()
    with pytest.raises(InputError, match=r"is a model folder: .* give --pretrained_dir"):
        start_from_file(tmp_path)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        (
            CompressionSettings(TrajectorySettings(prune_fraction=1.0)),
            "--prune_fraction 1.0: expected a finite number greater than 0 and less than 1",
        ),
        (
            CompressionSettings(stopping=StoppingRule(max_psnr_drop=-1)),
            "--max_psnr_drop -1: expected",
        ),
        (
            CompressionSettings(final_iterations=-5),
            "--final_iterations -5: expected a whole number",
        ),
        (
            CompressionSettings(
                TrajectorySettings(quantization=QuantizationSettings(position_bits=4))
            ),
            "--position_bits 4: expected 32, or a whole number from 8 to 24",
        ),
        (
            CompressionSettings(grids=GridSettings(position_bits=21)),
            "--position_bits 21: expected a whole number from 12 to 20",
        ),
    ],
)
def test_settings_out_of_range_are_named(settings: CompressionSettings, flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        check_settings(settings)


def test_a_far_centre_is_reported_where_it_makes_the_grid_coarse() -> None:
    xyz = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    assert not box_warnings(xyz, 16)
    xyz[7, 1] = 1e6
    (warning,) = box_warnings(xyz, 16)
    assert warning.startswith("centres far from all others (1) make the grid of --position_bits 16")
    assert not box_warnings(xyz, 32)
    assert not box_warnings(xyz[:0], 16)
