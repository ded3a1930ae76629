# SPDX-License-Identifier: Apache-2.0
"""The stopping rule, and rounds on disk, from which a run continues."""

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from reference.random_splats import random_raw

from gaussian_compression.checkpoints import Checkpoint, RoundFolder
from gaussian_compression.finetune import TrainableModel
from gaussian_compression.round_choice import check_measured
from gaussian_compression.rounds import Cycle, Measurement, Quality, Round, round_from_json
from gaussian_compression.settings import (
    QuantizationSettings,
    StoppingRule,
)
from gaussian_compression.stopping import allowed_on_guard, judge, predicted_drop
from gaussian_compression.unpruned_course import unpruned
from utils.errors import InputError

QUANTIZED = QuantizationSettings()

# The stopping rule


def rounds_with_guard(*psnrs: float) -> list[Round]:
    return [
        Round(number, 100 - number, 1000 * (number + 1), Quality(psnr, 0.9), 1.0, 1.0)
        for number, psnr in enumerate(psnrs)
    ]


def shipped(psnrs: list[float], rule: StoppingRule) -> int | None:
    verdict = judge(rounds_with_guard(*psnrs), rule)
    return None if verdict is None else verdict.ship


def test_the_last_round_that_satisfied_the_rule_is_stored() -> None:
    rule = StoppingRule(max_psnr_drop=0.1, max_rounds=50, patience=1)
    assert shipped([30.0], rule) is None
    assert shipped([30.0, 30.2, 29.95], rule) is None
    assert shipped([30.0, 30.2, 29.95, 29.89], rule) == 2
    assert shipped([30.0, 29.5], rule) == 0


def test_patience_is_a_number_of_rounds_in_a_row() -> None:
    rule = StoppingRule(max_psnr_drop=0.1, max_rounds=50, patience=3)
    assert shipped([30.0, 29.8, 29.8], rule) is None
    assert shipped([30.0, 29.8, 29.8, 29.95, 29.8, 29.8], rule) is None
    assert shipped([30.0, 29.8, 29.8, 29.95, 29.8, 29.8, 29.8], rule) == 3
    assert shipped([30.0, 29.8, 29.8, 29.8], rule) == 0
    assert shipped([30.0, 29.95, 29.8], StoppingRule(max_rounds=2)) == 1


def test_max_rounds_is_the_exact_number_of_rounds() -> None:
    rule = StoppingRule(max_psnr_drop=100, max_rounds=3)
    assert shipped([30.0, 20.0, 10.0], rule) is None
    assert shipped([30.0, 20.0, 10.0, 5.0], rule) == 3
    assert shipped([30.0], StoppingRule(max_rounds=0)) == 0


def test_rounds_after_the_stop_do_not_change_the_verdict() -> None:
    history = [30.0, 29.95, 29.85, 29.95, 29.5]
    assert shipped(history, StoppingRule(max_psnr_drop=0.1, patience=1)) == 1
    assert shipped(history, StoppingRule(max_psnr_drop=0.3, patience=1)) == 3
    assert shipped(history, StoppingRule(max_psnr_drop=100, max_rounds=2)) == 2


def forgetting(*losses: tuple[float, float]) -> list[Round]:
    """Rounds from their losses on guard and training views, in dB; SSIM loses a tenth of these."""
    return [
        replace(
            rounds_with_guard(*[30.0] * (number + 1))[-1],
            guard=Quality(30 - guard, 0.9 - guard / 10),
            training=Quality(35 - training, 0.95 - training / 10),
        )
        for number, (guard, training) in enumerate([(0.0, 0.0), *losses])
    ]


def test_unseen_views_lose_less_than_guard_views_by_the_share_that_these_remember() -> None:
    zero, done = forgetting((0.3, 0.6))
    assert predicted_drop(zero, done, 0.0).psnr == pytest.approx(0.3)
    assert predicted_drop(zero, done, 0.25).psnr == pytest.approx(0.2)
    assert predicted_drop(zero, done, 0.25).ssim == pytest.approx(0.02)
    assert predicted_drop(zero, done, 0.5).psnr == pytest.approx(0.0)
    # The guard views are then what shows the loss best, not something above it.
    assert predicted_drop(*forgetting((0.3, 0.2)), 0.5).psnr == pytest.approx(0.3)


@pytest.mark.parametrize("training", [-0.2, 0.05, 0.1, 0.4, 2.0])
def test_the_loss_allowed_on_guard_views_is_where_the_prediction_meets_the_limit(
    training: float,
) -> None:
    rule = StoppingRule(max_psnr_drop=0.1, max_ssim_drop=0.02, guard_memory=0.4)
    most = allowed_on_guard(*forgetting((0.0, training)), rule)
    met = predicted_drop(*forgetting((most.psnr, training)), rule.guard_memory)
    assert met.psnr == pytest.approx(0.1)
    met = predicted_drop(*forgetting((10 * most.ssim, training)), rule.guard_memory)
    assert met.ssim == pytest.approx(0.02)
    free = allowed_on_guard(*forgetting((0.0, training)), replace(rule, max_ssim_drop=None))
    assert free.ssim is None


def test_a_round_has_to_keep_to_all_limits() -> None:
    """MS-SSIM loses a fifth of what PSNR does here."""

    def with_ms_ssim(done: Round) -> Round:
        lost = [30 - done.guard.psnr, 35 - done.training.psnr]
        guard, training = (0.97 - one / 50 for one in lost)
        return replace(
            done,
            guard=replace(done.guard, ms_ssim=guard),
            training=replace(done.training, ms_ssim=training),
        )

    rounds = [with_ms_ssim(done) for done in forgetting((0.3, 0.6), (0.5, 0.7))]
    rule = StoppingRule(max_psnr_drop=10, max_ms_ssim_drop=0.005, patience=1, guard_memory=0.25)
    assert predicted_drop(*rounds[:2], 0.25).ms_ssim == pytest.approx(0.004)
    verdict = judge(rounds, rule)
    assert verdict.ship == 1
    assert "10 dB or 0.005 in MS-SSIM" in verdict.reason and "0.0087 in MS-SSIM" in verdict.reason
    assert judge(rounds, replace(rule, max_ms_ssim_drop=0.01)) is None
    assert judge(rounds, replace(rule, max_ssim_drop=0.01)).ship == 0
    assert allowed_on_guard(*rounds[:2], rule).ms_ssim == pytest.approx(0.00675)


def test_rounds_go_on_while_guard_views_only_forget() -> None:
    losses = [(0.15, 0.4), (0.25, 0.7), (0.35, 0.8), (0.6, 1.0)]
    rule = StoppingRule(max_psnr_drop=0.1, patience=1)
    assert judge(forgetting(*losses), rule).ship == 0
    verdict = judge(forgetting(*losses), replace(rule, guard_memory=0.4))
    assert verdict.ship == 3 and "0.333 dB" in verdict.reason and "predicted" in verdict.reason


def course(iterations: int, slope: float) -> tuple[Quality, Quality]:
    """Guard and training views of a model that falls by `slope` dB as iterations double."""
    doubled = math.log2(iterations / 100)
    guard = Quality(32 - slope * doubled, 0.95 - slope * doubled / 100)
    return guard, Quality(36 - slope / 4 * doubled, 0.97)


def after_cycles(slope: float, cycles: int = 11) -> Round:
    """Round 0, of so many cycles of 100 iterations."""
    lengths = [100 * number for number in range(1, cycles)]
    guard, training = course(100 * cycles, slope)
    return Round(
        *(0, 1000, 100 * cycles, guard, 1.0, 1.0),
        training=training,
        cycles=tuple(Cycle(length, *course(length, slope)) for length in lengths),
    )


@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0, -0.3])
def test_what_guard_views_forget_without_pruning_is_no_loss(slope: float) -> None:
    zero = after_cycles(slope)
    for iterations in (1100, 1500, 2200):
        found, (guard, training) = unpruned(zero, iterations), course(iterations, slope)
        assert found.guard.psnr == pytest.approx(guard.psnr)
        assert found.guard.ssim == pytest.approx(guard.ssim)
        assert found.training == Quality(pytest.approx(training.psnr), pytest.approx(0.97))
    guard, training = course(2200, slope)
    lost = replace(guard, psnr=guard.psnr - 0.3), replace(training, psnr=training.psnr - 0.7)
    done = Round(11, 100, 2200, lost[0], 1.0, 1.0, training=lost[1])
    assert predicted_drop(zero, done, 0.2).psnr == pytest.approx(0.2)
    rule = StoppingRule(max_psnr_drop=0.2, guard_memory=0.2)
    assert allowed_on_guard(zero, done, rule).psnr == pytest.approx(0.3 + slope)
    # Without memory, guard views count as they are.
    assert predicted_drop(zero, done, 0.0).psnr == pytest.approx(0.3 + slope)
    assert allowed_on_guard(zero, done, replace(rule, guard_memory=0.0)).psnr == 0.2


def test_one_measurement_that_is_off_moves_the_course_little() -> None:
    zero = after_cycles(1.0)
    off = replace(zero, guard=replace(zero.guard, psnr=zero.guard.psnr + 0.1))
    expected = course(2200, 1.0)[0].psnr
    assert unpruned(off, 2200).guard.psnr == pytest.approx(expected, abs=0.06)


def test_a_warm_up_of_few_cycles_has_no_course() -> None:
    zero = after_cycles(1.0, cycles=3)
    assert unpruned(zero, 5000).guard == zero.guard and len(zero.cycles) == 2
    assert unpruned(after_cycles(1.0, cycles=4), 5000).guard.psnr < zero.guard.psnr - 2


def test_a_round_has_its_cycles_after_json() -> None:
    zero = after_cycles(1.0)
    assert round_from_json(json.loads(json.dumps(asdict(zero)))) == zero
    old = {name: value for name, value in asdict(zero).items() if name != "cycles"}
    assert round_from_json(old).cycles == ()


def test_rounds_without_the_figures_of_the_rule_are_refused(tmp_path: Path) -> None:
    rule = StoppingRule(guard_memory=0.4)
    check_measured(forgetting((0.1, 0.1)), rule, tmp_path)
    check_measured(rounds_with_guard(30.0), replace(rule, guard_memory=0.0), tmp_path)
    check_measured(rounds_with_guard(30.0), replace(rule, target_mb=1.0), tmp_path)
    with pytest.raises(InputError, match=r"did not measure training views.*--restart"):
        check_measured(rounds_with_guard(30.0), rule, tmp_path)
    rule = StoppingRule(max_ms_ssim_drop=0.01)
    with pytest.raises(InputError, match=r"without MS-SSIM.*--restart"):
        check_measured(rounds_with_guard(30.0), rule, tmp_path)
    check_measured(rounds_with_guard(30.0), replace(rule, target_gaussians=5), tmp_path)


def test_a_round_keeps_its_figures_of_training_views_on_disk(tmp_path: Path) -> None:
    saved = Checkpoint(checkpoint(1).model, forgetting((0.1, 0.3)))
    folder = RoundFolder(tmp_path, {"seed": 0})
    folder.save(saved)
    assert folder.load(1, torch.device("cpu")).rounds == saved.rounds


# Checkpoints


def checkpoint(number: int, quantization: QuantizationSettings | None = QUANTIZED) -> Checkpoint:
    model = TrainableModel.start_from(random_raw(20, 2, seed=number), quantization)
    rounds = rounds_with_guard(*[30.0] * (number + 1))
    measured = Measurement(Quality(29.0, None), 1234)
    rounds[0] = Round(0, 100, 1000, Quality(30.0, 0.9), 1.0, 1.0, measured)
    return Checkpoint(model, rounds)


@pytest.mark.parametrize("quantization", [None, QUANTIZED])
def test_a_saved_round_is_loaded_unchanged(
    tmp_path: Path, quantization: QuantizationSettings | None
) -> None:
    folder = RoundFolder(tmp_path, {"seed": 0})
    assert folder.latest() is None
    saved = checkpoint(2, quantization)
    assert (saved.model.ranges is None) == (quantization is None)
    folder.save(saved)
    assert folder.latest() == 2
    loaded = folder.load(2, torch.device("cpu"))
    assert loaded.rounds == saved.rounds
    assert loaded.model.ranges == saved.model.ranges
    for tensor, expected in zip(loaded.model.raw, saved.model.raw, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("keep_last", "left"), [(2, [2, 3]), (3, [1, 2, 3]), (None, [0, 1, 2, 3])])
def test_only_the_last_rounds_are_kept(
    tmp_path: Path, keep_last: int | None, left: list[int]
) -> None:
    folder = RoundFolder(tmp_path, {"seed": 0}, keep_last)
    for number in range(4):
        folder.save(checkpoint(number))
    assert [number for number in range(4) if folder.has(number)] == left


def test_older_rounds_are_removed_when_the_new_one_is_on_disk(tmp_path: Path, monkeypatch) -> None:
    folder = RoundFolder(tmp_path, {"seed": 0}, 1)
    folder.save(checkpoint(0))
    steps: list[str] = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("sync"), fsync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda *paths: (steps.append("name"), replace(*paths))[1])
    monkeypatch.setattr(Path, "unlink", lambda path: (steps.append("remove"), unlink(path))[1])
    folder.save(checkpoint(1))
    assert steps == ["sync", "name", "sync", "remove"]


def test_a_run_does_not_continue_rounds_of_other_settings(tmp_path: Path) -> None:
    RoundFolder(tmp_path, {"seed": 0, "prune": 0.05}).save(checkpoint(1))
    with pytest.raises(InputError, match=r"'seed': 0.*'seed': 1"):
        RoundFolder(tmp_path, {"seed": 1, "prune": 0.05}).latest()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path, {"seed": 0})
    folder.save(checkpoint(1))
    path = next(tmp_path.glob("round_*.npz"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"round_001\.npz"):
        folder.latest()
