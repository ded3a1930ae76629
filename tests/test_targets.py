# SPDX-License-Identifier: Apache-2.0
"""compress.py with targets: a number of Gaussians, a size, limits of PSNR and SSIM."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted_runs import stop_after

import compress
from gaussian_compression import pipeline, timing
from gaussian_compression.budget import settings_within
from gaussian_compression.finetune import Finetuner
from gaussian_compression.plan import Costs, TimeLeft, ViewCounts, duration, plan_lines, plan_of
from gaussian_compression.presets import PRESETS
from gaussian_compression.report import CompressionReport, read_report, report_path
from gaussian_compression.rounds import Quality, Round
from gaussian_compression.settings import StoppingRule, TrajectorySettings, check_settings
from gaussian_compression.stopping import allowed_on_guard, judge
from gaussian_compression.targets import judge_target, last_with
from gaussian_compression.trainable import FullPrecision
from scene.colmap_loader import read_points3D_binary
from splat_codec.model_file import decode
from splat_formats.files import bytes_of_model, read_splats
from splat_formats.ply import write_ply
from splat_formats.splats import Splats
from utils.errors import InputError

Compress = Callable[..., CompressionReport]
SHORT = ("--warmup_iterations", 2, "--finetune_iterations", 1, "--final_iterations", 4)
PLY = "point_cloud/iteration_9/point_cloud.ply"


@pytest.fixture(scope="module")
def splats(small_scene: Path) -> Splats:
    """300 points of the small scene as grey balls, with SH of degree 1."""
    points = read_points3D_binary(small_scene / "sparse/0/points3D.bin")[0].astype(np.float32)
    count, random = len(points), np.random.default_rng(0)
    return Splats(
        xyz=points,
        features_dc=random.normal(0, 0.3, (count, 1, 3)).astype(np.float32),
        features_rest=random.normal(0, 0.1, (count, 3, 3)).astype(np.float32),
        opacity=np.zeros((count, 1), np.float32),
        scaling=np.full((count, 3), -3, np.float32),
        rotation=np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
    )


@pytest.fixture
def model(tmp_path: Path, splats: Splats) -> Path:
    """A model folder with one trained iteration."""
    write_ply(tmp_path / "model" / PLY, splats)
    return tmp_path / "model"


@pytest.fixture
def run(small_scene: Path, command_line, monkeypatch: pytest.MonkeyPatch) -> Compress:
    """Compresses into a folder."""
    monkeypatch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])

    def run(model: Path, *arguments: object) -> CompressionReport:
        command_line("-s", small_scene, "-m", model, *SHORT, *arguments)
        compress.main()
        return read_report(report_path(model))

    return run


def file_of(model: Path) -> bytes:
    return (model / "compressed/model.f3dgs").read_bytes()


def history(*figures: tuple[int, float, float]) -> list[Round]:
    return [
        Round(number, count, number, Quality(psnr, ssim), 0.0, 0.0)
        for number, (count, psnr, ssim) in enumerate(figures)
    ]


def test_both_limits_must_hold() -> None:
    rounds = history((9, 30.0, 0.9), (8, 29.95, 0.9), (7, 29.95, 0.88), (6, 29.95, 0.88))
    assert judge(rounds, StoppingRule(max_rounds=3, patience=2)).ship == 3
    verdict = judge(rounds, StoppingRule(max_rounds=3, patience=2, max_ssim_drop=0.01))
    assert verdict.ship == 1 and "0.01 in SSIM" in verdict.reason and "0.0200" in verdict.reason


def test_the_report_has_the_limit_and_the_loss_of_ssim(model: Path, run: Compress) -> None:
    flags = ("--max_psnr_drop", 100, "--max_ssim_drop", 1e-9, "--patience", 1, "--noise", 5)
    report = run(model, *flags, "--prune_fraction", 0.9)
    assert report.stopping.shipped_round == 0 and len(report.rounds) == 2
    assert report.promise.allowed_ssim_drop == 1e-9
    assert report.promise.kept == (report.promise.ssim_drop <= 1e-9)
    assert "in SSIM on the guard views" in (model / "compressed/report.html").read_text()


def test_a_limit_of_psnr_alone_replaces_both_limits() -> None:
    def rule(*flags: str) -> StoppingRule:
        return compress.settings_of(compress.build_parser()[0].parse_args(flags)).stopping

    default = PRESETS["balanced"].stopping.max_ssim_drop
    assert default is not None
    assert (rule().max_psnr_drop, rule().max_ssim_drop) == (0.1, default)
    assert rule("--max_psnr_drop", "1").max_ssim_drop is None
    assert rule("--max_psnr_drop", "1", "--max_ssim_drop", "0.01").max_ssim_drop == 0.01
    assert rule("--max_ssim_drop", "0.01").max_psnr_drop == 0.1
    assert rule("--preset", "fast3dgs").max_ssim_drop is None


def test_every_round_has_the_figures_of_the_rule(model: Path, run: Compress) -> None:
    report = run(model, "--max_rounds", 1, "--max_psnr_drop", 100)
    warmup, finetune = SHORT[1], SHORT[3]
    assert [done.iterations for done in report.rounds] == [warmup, warmup + finetune]
    zero, last = report.rounds
    rule = StoppingRule(**report.settings["stopping"])
    assert rule.guard_memory == PRESETS["balanced"].stopping.guard_memory > 0
    most = allowed_on_guard(zero, last, rule)
    assert report.promise.allowed_on_guard == pytest.approx(most.psnr)
    assert "on unseen views" in (model / "compressed/report.html").read_text()


def test_the_published_method_stops_by_the_guard_views_alone(model: Path, run: Compress) -> None:
    report = run(model, "--preset", "fast3dgs", "--max_rounds", 1)
    assert report.rounds[0].iterations == SHORT[1]
    assert report.settings["stopping"]["guard_memory"] == 0
    assert report.promise.allowed_on_guard is None


def test_test_views_as_guard_views_have_no_memory(model: Path, run: Compress) -> None:
    report = run(model, "--guard", "test", "--eval", "--max_rounds", 1)
    assert report.settings["stopping"]["guard_memory"] == 0


def test_rounds_end_where_one_pruning_leads_to_the_target() -> None:
    rounds = history((100, 30.0, 0.9), (80, 20.0, 0.5), (64, 10.0, 0.2))
    assert last_with(rounds, 64) == 2 and last_with(rounds, 65) == 1 and last_with(rounds, 101) == 0
    rule = StoppingRule(target_gaussians=60, patience=1)
    assert judge_target(rounds[:2], 64, rule) is None
    assert judge_target(rounds, 51, rule).ship == 2
    assert judge_target(rounds[:1], 80, StoppingRule(target_gaussians=81)).ship == 0
    assert judge_target(rounds, 51, StoppingRule(target_gaussians=1, max_rounds=2)).ship == 2
    assert judge_target(rounds, 64, StoppingRule(target_gaussians=1)).ship == 2  # removes nothing


@pytest.mark.parametrize("preset", ["balanced", "fast3dgs"])
def test_a_number_of_gaussians_is_reached_exactly(
    model: Path, run: Compress, capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    report = run(model, "--preset", preset, "--target_gaussians", 250, "--prune_fraction", 0.1)
    assert [done.gaussians for done in report.rounds] == [300, 270]
    assert decode(file_of(model)).splats.count == report.compressed.gaussians == 250
    assert report.target.reached and report.target.reached_gaussians == 250
    assert report.stopping.shipped_round == 1
    assert report.compressed.iteration == 9 + 2 + 1 + 1 + 4
    assert "Target 250 Gaussians: 250 in the file\nAgainst round 0" in capsys.readouterr().out
    page = (model / "compressed/report.html").read_text()
    assert "The target of 250 Gaussians was reached" in page
    assert "The stopping rule allows" not in page


@pytest.mark.parametrize("preset", ["balanced", "fast"])
def test_round_0_is_made_of_fine_tunings_like_those_of_a_round(
    model: Path, run: Compress, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    fine_tuned, decays = [], []
    run_finetuner = Finetuner.run

    def recorded(*arguments: object) -> FullPrecision:
        decays.append(arguments[3])
        return FullPrecision(*arguments)

    def spied(*arguments: Any) -> None:
        fine_tuned.append((arguments[3], arguments[-1]))
        run_finetuner(*arguments)

    monkeypatch.setattr(pipeline, "FullPrecision", recorded)
    monkeypatch.setattr(Finetuner, "run", spied)
    lengths = ("--warmup_iterations", 7, "--finetune_iterations", 3)
    run(model, "--preset", preset, "--max_psnr_drop", 100, "--max_rounds", 1, *lengths)
    rates = PRESETS[preset].trajectory.round_rates
    in_rounds = [iterations for iterations, course in fine_tuned if course == rates]
    assert in_rounds == [4, 3, 3]
    assert decays == [rates.opacity_decay] * 3 and rates.opacity_decay > 0


@pytest.mark.parametrize(
    "warmup, finetune, lengths",
    [
        (4400, 400, [400] * 11),
        (4000, 400, [400] * 10),
        (9000, 400, [819] * 2 + [818] * 9),
        (300, 400, [300]),
        (300, 1, [28] * 3 + [27] * 8),
        (5, 0, [1] * 5),
        (0, 400, [0]),
    ],
)
def test_cycles_of_the_warm_up_are_at_least_as_long_as_a_round_where_it_is_long_enough(
    warmup: int, finetune: int, lengths: list[int]
) -> None:
    cycles = replace(
        PRESETS["balanced"].trajectory, warmup_iterations=warmup, finetune_iterations=finetune
    ).cycle_lengths
    assert cycles == lengths and sum(cycles) == warmup


def test_other_targets_use_the_same_rounds(
    model: Path, run: Compress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, splats: Splats
) -> None:
    flags = ("--prune_fraction", 0.2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(1, patched)
        run(model, "--target_gaussians", 30, *flags)
    resumed = run(model, "--target_gaussians", 200, *flags)
    write_ply(tmp_path / "other" / PLY, splats)
    straight = run(tmp_path / "other", "--target_gaussians", 200, *flags)
    assert [done.gaussians for done in resumed.rounds] == [300, 240]
    assert resumed.compressed == straight.compressed
    assert file_of(model) == file_of(tmp_path / "other")


@pytest.mark.parametrize("preset", ["balanced", "fast3dgs"])
def test_a_size_is_reached_within_3_per_cent(model: Path, run: Compress, preset: str) -> None:
    start = run(model, "--preset", preset, "--max_rounds", 0).compressed.bytes
    wanted = 0.6 * start / 1e6
    report = run(model, "--preset", preset, "--target_mb", wanted, "--prune_fraction", 0.15)
    assert len(file_of(model)) == pytest.approx(0.6 * start, rel=0.03)
    assert report.target.reached and report.target.reached_bytes == len(file_of(model))
    assert report.promise.drop is not None
    assert report.rounds[0].estimate is not None


def test_a_killed_run_reaches_the_same_file(
    model: Path, run: Compress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, splats: Splats
) -> None:
    write_ply(tmp_path / "other" / PLY, splats)
    flags = ("--target_mb", 0.0015, "--prune_fraction", 0.2)
    straight = run(tmp_path / "other", *flags)
    for number in (0, 2):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            stop_after(number, patched)
            run(model, *flags)
    assert run(model, *flags).compressed == straight.compressed
    assert file_of(model) == file_of(tmp_path / "other")


def test_a_size_above_the_unpruned_file_is_reported(model: Path, run: Compress) -> None:
    report = run(model, "--target_mb", 1)
    assert report.compressed.gaussians == 300 and len(report.rounds) == 1
    assert not report.target.reached
    assert any("away from the 1 MB of --target_mb" in notice for notice in report.notices)


def test_the_plan_counts_rounds_and_their_time() -> None:
    costs, views = Costs(fixed=0.5, per_gaussian=0.01), ViewCounts(training=4, guard=2, test=1)
    given = replace(
        PRESETS["balanced"],
        trajectory=TrajectorySettings(0.2, 10, finetune_iterations=5),
        stopping=StoppingRule(target_gaussians=70),
        final_iterations=20,
    )
    plan = plan_of(given, 100, views, costs)
    assert plan.counts == (100, 80, 64)
    assert plan.round_seconds(0) == pytest.approx(1.5 * (10 + 1.5))
    assert plan.round_seconds(2) == pytest.approx(1.14 * (5 + 4 + 1.5))
    assert plan.seconds() == pytest.approx(
        sum(plan.round_seconds(k) for k in range(3)) + plan.seconds_after(2)
    )
    left = TimeLeft(plan)
    assert left.after(0, 2 * plan.round_seconds(0)) == pytest.approx(2 * plan.seconds_after(0))
    assert left.after(7, 1.0) > 0
    work, took = plan_lines(plan)
    assert "about 2 rounds, down to 70 Gaussians" in work and "iterations per second" in took
    assert (duration(5), duration(600), duration(7500)) == ("5 s", "10 min", "2 h 5 min")


@pytest.mark.parametrize("target", [None, 100])
def test_a_budget_shortens_the_run_until_it_fits(target: int | None) -> None:
    costs, views = Costs(fixed=0.01, per_gaussian=1e-6), ViewCounts(40, 5, 5)
    rule = StoppingRule(target_gaussians=target)
    preset = PRESETS["balanced"]
    finer = replace(preset.trajectory, prune_fraction=0.15)
    longer = replace(preset, trajectory=finer, final_iterations=5000)
    settings = replace(longer, stopping=rule, budget_minutes=1.0)
    plan_with = partial(plan_of, start=10_000, views=views, costs=costs)
    whole = plan_with(settings).seconds()
    assert settings_within(settings, 2 * whole, plan_with).trajectory == settings.trajectory
    before = settings
    for seconds in (whole / 2, whole / 5, whole / 15):
        chosen = settings_within(settings, seconds, plan_with)
        assert 0.75 * seconds < plan_with(chosen).seconds() <= seconds
        assert chosen.final_iterations <= before.final_iterations
        assert target or chosen.stopping.max_rounds == plan_with(chosen).rounds
        before = chosen
    with pytest.raises(InputError, match=r"--budget_minutes 1: .* expected at least"):
        settings_within(settings, whole / 10_000, plan_with)


def test_a_resumed_run_keeps_the_choice_of_its_budget(
    model: Path, run: Compress, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--budget_minutes", 1, "--final_iterations", 300, "--prune_fraction", 0.3)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(1, patched)
        patched.setattr(timing, "measured_costs", lambda job: Costs(0.2, 0.0))
        run(model, *flags)
    first = capsys.readouterr().out
    assert "Gaussians; 9 training views" in first and " left" in first
    report = run(model, *flags)
    choice = [line for line in first.splitlines() if line.startswith("--budget_minutes")]
    assert choice[0] in capsys.readouterr().out
    assert report.settings["budget_minutes"] == 1
    assert report.settings["final_iterations"] < 300
    assert not (model / "compressed/rounds").exists()


def test_a_ladder_is_a_valid_file_for_each_part(
    model: Path, run: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--max_rounds", 20, "--prune_fraction", 0.3, "--max_psnr_drop", 0, "--patience", 1)
    alone = run(model, *flags)
    stored = file_of(model)
    report = run(model, *flags, "--ladder", "20,60,60,100")
    assert [step.gaussians for step in report.ladder] == [300, 180, 60]
    assert [step.base_round for step in report.ladder] == [0, 1, 4]
    for step, part in zip(report.ladder, (100, 60, 20), strict=True):
        data = (model / f"compressed/ladder/{part}.f3dgs").read_bytes()
        assert (step.file, step.bytes) == (f"ladder/{part}.f3dgs", len(data))
        assert decode(data).splats.count == step.gaussians
        assert step.guard.psnr is not None
    assert file_of(model) == stored and report.compressed == alone.compressed
    assert "ladder/20.f3dgs" in capsys.readouterr().out
    page = (model / "compressed/report.html").read_text()
    assert "ladder/60.f3dgs" in page and "Target and ladder" in page
    run(model, *flags, "--ladder", "50")
    assert [path.name for path in (model / "compressed/ladder").iterdir()] == ["50.f3dgs"]
    run(model, *flags)
    assert not (model / "compressed/ladder").exists()


def test_finished_steps_of_a_ladder_are_not_repeated(
    model: Path, run: Compress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, splats: Splats
) -> None:
    flags = ("--max_rounds", 3, "--prune_fraction", 0.3, "--ladder", "60,40")
    write_ply(tmp_path / "other" / PLY, splats)
    straight = run(tmp_path / "other", *flags)
    save = pipeline.StepFolder.save
    made = []

    def save_and_stop(self: pipeline.StepFolder, part: float, step: pipeline.LadderStep) -> None:
        save(self, part, step)
        made.append(part)
        if len(made) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.StepFolder, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, *flags)
    assert run(model, *flags).ladder == straight.ladder
    assert made == [60, 40]
    for part in (60, 40):
        name = f"compressed/ladder/{part}.f3dgs"
        assert (model / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert not (model / "compressed/rounds").exists()


def test_the_ladder_as_levels_of_detail(model: Path, run: Compress) -> None:
    flags = ("--max_rounds", 2, "--prune_fraction", 0.3, "--ladder", "60,30", "--lod")
    report = run(model, *flags)
    lod = model / "compressed/lod"
    assert report.lod.gaussians == (180, 90)
    assert report.lod.bytes == bytes_of_model(lod / "lod-meta.json")
    finest = decode((model / "compressed/ladder/60.f3dgs").read_bytes()).splats
    assert read_splats(lod).splats.count == finest.count == 180
    run(model, *flags)  # replaces what it wrote itself
    (lod / "0_0/mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt would be replaced"):
        run(model, *flags)
    (lod / "0_0/mine.txt").unlink()
    run(model, "--max_rounds", 0)
    assert not lod.exists() and not (model / "compressed/ladder").exists()


def test_a_foreign_file_in_the_place_of_a_step_stays(model: Path, run: Compress) -> None:
    foreign = model / "compressed/ladder/50.f3dgs"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(InputError, match="no compression in this folder wrote it"):
        run(model, "--ladder", "50")
    assert foreign.read_text() == "mine"


def test_presets_have_names_and_an_old_one(model: Path, run: Compress) -> None:
    report = run(model, "--preset", "compact", "--max_rounds", 0)
    assert report.preset == "balanced" and "preset" not in report.changed_settings
    assert decode(file_of(model)).metadata["settings"]["preset"] == "balanced"
    fast, small = PRESETS["fast"], PRESETS["small"]
    assert fast.trajectory.warmup_iterations < PRESETS["balanced"].trajectory.warmup_iterations
    assert small.grids.noise > PRESETS["balanced"].grids.noise
    for preset in PRESETS.values():
        check_settings(preset)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target_gaussians", 301), "at most the 300 Gaussians"),
        (("--target_gaussians", 0), "--target_gaussians 0: expected a whole number"),
        (("--target_mb", 1e-5), "the size of a file with one Gaussian"),
        (("--target_mb", "nan"), "--target_mb nan: expected"),
        (("--target_mb", 1, "--target_gaussians", 5), "got both"),
        (("--ladder", "50,x"), "--ladder 50,x: expected percentages"),
        (("--ladder", "50,0"), "--ladder 0.0: expected"),
        (("--lod",), "--lod: expected --ladder too"),
        (("--ladder", "nan"), "--ladder nan: expected"),
        (("--max_ssim_drop", -1), "--max_ssim_drop -1.0: expected"),
        (("--max_ms_ssim_drop", -1), "--max_ms_ssim_drop -1.0: expected"),
        (("--max_ms_ssim_drop", 0.01), "MS-SSIM needs images of at least 176 pixels"),
    ],
)
def test_targets_that_cannot_be_reached_are_refused(
    model: Path, run: Compress, flags: tuple[object, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(model, *flags)
    assert not (model / "compressed").exists()
