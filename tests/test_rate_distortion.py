# SPDX-License-Identifier: Apache-2.0
"""The driver of experiments, with a runner that makes reports without compressing."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import curve_runs, rate_distortion, validation_scene
from benchmarks.curve_hours import announcement, iterations_to_do
from benchmarks.curve_plot import plot
from benchmarks.curve_rows import Row, append_row, latest, read_rows
from benchmarks.curve_runs import RULE, Point, Variant, Workshop, after_rounds, missing_tasks, plan
from benchmarks.curve_scenes import CurveScene, chosen_scenes, known_scenes, prepare
from benchmarks.curve_tables import Curves
from gaussian_compression.report import (
    CompressionReport,
    FileFigures,
    StartFigures,
    StoppingFigures,
    report_path,
    write_report,
)
from gaussian_compression.rounds import Quality, Round, StageTime
from scene.dataset_readers import readSceneInfo
from tests.made_datasets import make_blender, make_colmap, options
from utils.errors import InputError

ROUNDS_OF_RULE = 3


def report_of(rounds: int, factor: float) -> CompressionReport:
    """A report of a file after this number of rounds, `factor` times a size of 100 kB."""
    quality = Quality(30.0 - 0.1 * rounds, 0.95 - 0.01 * rounds)
    unpruned = Quality(30.5, 0.95)
    done = [
        Round(n, 1000 - 100 * n, 10 + 5 * n, Quality(31 - 0.05 * n, 0.9), 2.0, 3.0)
        for n in range(rounds + 1)
    ]
    return CompressionReport(
        start=StartFigures("start.ply", 7, 1000, 0, 400_000, guard=unpruned, test=unpruned),
        compressed=FileFigures(
            iteration=8,
            gaussians=done[-1].gaussians,
            sh_degree=3,
            bytes=round(factor * 100_000 * 0.9**rounds),
            ratio=4.0,
            bytes_per_gaussian=100.0,
            bytes_per_attribute={},
            guard=quality,
            test=Quality(quality.psnr and quality.psnr - 1, quality.ssim),
        ),
        settings={"final_iterations": 20},
        environments=(),
        stopping=StoppingFigures(rounds, "test"),
        rounds=tuple(done),
        stages=(StageTime("rounds", 999.0, 999.0), StageTime("encode", 1.0, 1.5)),
    )


@dataclass
class FakeRun:
    """Makes reports; a round is done once in a folder. Fails in the call `fails_in`."""

    commands: list[list[str]] = field(default_factory=list)
    rounds_done: list[int] = field(default_factory=list)
    fails_in: int | None = None

    def __call__(self, command: Sequence[str], log: Path) -> str:
        self.commands.append(list(command))
        if len(self.commands) == self.fails_in:
            raise InputError("compress.py: error: disk full")
        words = list(command)
        folder = Path(words[words.index("-m") + 1])
        assert (folder / "cfg_args").read_text() == "Namespace()"
        if "view_measures.py" in command[1]:
            means = {"MS-SSIM": 0.98, "FLIP": None}
            return f"notice\n{json.dumps({'guard': means, 'test': means})}\n"
        limit = words[words.index("--max_rounds") + 1] if "--max_rounds" in words else None
        rounds = ROUNDS_OF_RULE if limit is None else int(limit)
        counter = folder / "rounds"
        before = int(counter.read_text()) if counter.exists() else 0
        self.rounds_done.append(max(rounds - before, 0))
        counter.write_text(str(max(rounds, before)))
        write_report(report_path(folder), report_of(rounds, 0.5 if "fast" in words else 1.0))
        return ""


@pytest.fixture
def scene(tmp_path: Path) -> CurveScene:
    model = tmp_path / "model"
    (model / "compressed").mkdir(parents=True)
    (model / "compressed" / "report.json").write_text("of an earlier run")
    (model / "cfg_args").write_text("Namespace()")
    (model / "cfg_args").chmod(0o444)
    (tmp_path / "data").mkdir()
    return CurveScene("tiny", tmp_path / "data", model, ("--eval",))


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (curve_runs, rate_distortion):
        monkeypatch.setattr(module, "current_commit", lambda: "abc")


SLOW = Variant("fast3dgs", ())
FAST = Variant("ours", ("--preset", "fast"))
POINTS = [after_rounds(n) for n in (4, 0, 2)]


def do_all(scene: CurveScene, run: FakeRun, folder: Path, points: list[Point], **shop) -> list[Row]:
    """The rows after all tasks that were missing are done."""
    table = folder / "table.csv"
    tasks = plan([scene], [SLOW, FAST], [0, 1], points)
    todo = missing_tasks(tasks, {row.key: row for row in read_rows(table)})
    workshop = Workshop(folder / "work", run, "a machine", **shop)
    rate_distortion.do_all(todo, table, workshop, keep_models=False)
    return read_rows(table)


def test_rounds_of_a_curve_are_done_once(scene: CurveScene, tmp_path: Path) -> None:
    run = FakeRun()
    rows = do_all(scene, run, tmp_path, POINTS)
    assert [row.point for row in rows] == ["rounds=0", "rounds=2", "rounds=4"] * 4
    assert run.rounds_done == [0, 2, 2] * 4
    assert not list((tmp_path / "work" / "runs").iterdir())
    row = rows[1]
    assert row.flags == "--max_psnr_drop 100 --max_rounds 2"
    assert (row.bytes, row.gaussians, row.round, row.iterations) == (81_000, 800, 2, 40)
    assert (row.guard_psnr, row.test_psnr, row.guard_ms_ssim, row.test_flip) == (
        29.8, 28.8, 0.98, None
    )  # fmt: skip
    assert (row.unpruned_guard_psnr, row.round_guard_psnr) == (31.0, 30.9)
    # Three rounds and one stage: the stage `rounds` of a run that continued is not its time.
    assert (row.cpu_seconds, row.wall_seconds) == (3 * 3 + 1.5, 3 * 2 + 1)
    compress, measure = run.commands[:2]
    assert compress[2:5] == ["-s", str(scene.source), "--eval"]
    assert compress[-3:] == ["--seed", "0", "--keep_rounds"]
    assert measure[2:] == compress[2:7]


def test_a_killed_driver_continues(scene: CurveScene, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    run = FakeRun()
    kill = iter(range(100))

    def killed(command: Sequence[str], log: Path) -> str:
        if next(kill) == 4:  # compress.py of the third file
            run(command, log)
            raise KilledError
        return run(command, log)

    with pytest.raises(KilledError):
        do_all(scene, killed, tmp_path, POINTS)  # type: ignore[arg-type]
    assert len(read_rows(tmp_path / "table.csv")) == 2
    rows = do_all(scene, run, tmp_path, POINTS)
    assert len(rows) == 12 and len({row.key for row in rows}) == 12
    # The rounds of the run that was killed are there.
    assert run.rounds_done[:4] == [0, 2, 2, 0]
    commands = len(run.commands)
    assert do_all(scene, run, tmp_path, POINTS) == rows
    assert len(run.commands) == commands


def test_the_rule_comes_first_and_has_its_own_time(scene: CurveScene, tmp_path: Path) -> None:
    run = FakeRun()
    rows = do_all(scene, run, tmp_path, [after_rounds(2), RULE, after_rounds(5)])
    assert [row.point for row in rows[:3]] == ["rule", "rounds=2", "rounds=5"]
    assert run.rounds_done[:3] == [ROUNDS_OF_RULE, 0, 2]
    assert rows[0].flags == "" and rows[0].cpu_seconds == 3 * (ROUNDS_OF_RULE + 1) + 1.5
    assert rows[1].cpu_seconds == 3 * 3 + 1.5


def test_the_rule_does_not_count_rounds_of_others(scene: CurveScene, tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "work", FakeRun(), "a machine")
    first, rule = (plan([scene], [SLOW], [0], [point])[0] for point in (after_rounds(5), RULE))
    shop.do(first)
    assert shop.folder(rule, "abc") != shop.folder(first, "abc")
    assert shop.folder(rule, "def") == shop.folder(first, "def")
    assert shop.do(rule).cpu_seconds == 3 * (ROUNDS_OF_RULE + 1) + 1.5


def test_other_points_and_separate_runs_share_nothing(scene: CurveScene, tmp_path: Path) -> None:
    run = FakeRun()
    do_all(scene, run, tmp_path / "a", [Point("small", ("--max_rounds", "3")), after_rounds(4)])
    assert run.rounds_done[:2] == [3, 4]
    run = FakeRun()
    do_all(scene, run, tmp_path / "b", POINTS, separate=True)
    assert run.rounds_done[:3] == [0, 2, 4]


def test_a_curve_that_fails_does_not_stop_the_others(
    scene: CurveScene, tmp_path: Path, capsys
) -> None:
    with pytest.raises(SystemExit):
        do_all(scene, FakeRun(fails_in=3), tmp_path, POINTS)
    rows = read_rows(tmp_path / "table.csv")
    assert len(rows) == 10 and sum(row.key[1:3] == ("fast3dgs", 0) for row in rows) == 1
    found = capsys.readouterr()
    assert "1 curves are not complete: tiny_fast3dgs_seed0" in found.err
    assert "disk full" in found.out


def test_rows_with_the_same_names_and_other_flags(scene: CurveScene, tmp_path: Path) -> None:
    rows = do_all(scene, FakeRun(), tmp_path, POINTS)
    tasks = plan([scene], [replace(FAST, flags=("--preset", "slow"))], [0], POINTS)
    with pytest.raises(InputError, match=r"variant ours, point rounds=0: .*choose another name"):
        missing_tasks(tasks, {row.key: row for row in rows})


def test_tables_and_plot(scene: CurveScene, tmp_path: Path, capsys) -> None:
    rows = do_all(scene, FakeRun(), tmp_path, [*POINTS, RULE])
    curves = Curves(tuple(rows), "guard")
    text = rate_distortion.summary(curves, "fast3dgs", None)
    assert "| tiny | ours | 0, 1 | -50.0 % (-50.0 % to -50.0 %) |" in text
    assert "* tiny, ours, seed 0: not measured (FLIP)" in text
    # The best file of the reference has 30 dB; so has one of half its size.
    assert re.search(
        r"\| tiny \| ours \| 0, 1 \| 0\.050 .*\| 8\.0 \(8\.0 to 8\.0\) \| 90\.0 %", text
    )
    assert "| tiny | fast3dgs | 0, 1 | 0.100 " in text
    # On test views, losses are counted from the start model, which no file reaches.
    text = rate_distortion.summary(replace(curves, views="test"), "fast3dgs", None)
    assert "* tiny, ours, seed 0: it reaches 29.000 dB, not 30.500 dB (MB at no loss" in text
    assert "| tiny | ours | 0, 1 | – | – | – |" in text
    drawn = ElementTree.fromstring(plot(curves, "psnr"))
    titles = [title.text or "" for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 16 and "ours, seed 1: rounds=0" in titles[-1]
    with pytest.raises(InputError, match="expected points with FLIP on guard views"):
        plot(curves, "flip")


def test_the_last_row_of_a_point_counts(scene: CurveScene, tmp_path: Path) -> None:
    rows = do_all(scene, FakeRun(), tmp_path, POINTS)
    again = replace(rows[0], bytes=5, commit="def")
    append_row(tmp_path / "table.csv", again)
    found = read_rows(tmp_path / "table.csv")
    assert len(found) == 13 and latest(found)[0] == again and len(latest(found)) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("tiny,fast3dgs,0", "tiny,fast3dgs,x"), "line 2: .*column seed"),
        (lambda text: text.replace("scene,variant", "scene,name"), "line 2: .*column variant"),
        (lambda text: text[: text.rindex(",28.")], "line 13: .* value in column"),
        (lambda text: text.replace("\n", ",1,2\n"), "line 2: more values than columns"),
        (lambda text: text.replace("a machine", '"a machine'), "cannot read it"),
    ],
)
def test_damaged_tables(scene: CurveScene, tmp_path: Path, change, message: str) -> None:
    do_all(scene, FakeRun(), tmp_path, POINTS)
    table = tmp_path / "table.csv"
    header, rest = table.read_text().split("\n", 1)
    damaged = change(f"{header}\n{rest}")
    if "more values" in message:
        damaged = f"{header}\n{change(rest)}"
    table.write_text(damaged)
    with pytest.raises(InputError, match=message):
        read_rows(table)


def test_hours_from_rows_and_from_a_short_run(scene: CurveScene, tmp_path: Path) -> None:
    tasks = plan([scene], [Variant("fast3dgs", ("--preset", "fast3dgs"))], [0], POINTS)
    # 4,000 unpruned, 4 rounds of 1,000, and three times 5,000 at the end.
    assert iterations_to_do(tasks, separate=False) == 23_000
    assert iterations_to_do(tasks, separate=True) == 12_000 + 6_000 + 15_000
    run = FakeRun()
    shop = Workshop(tmp_path / "work", run, "a machine")
    assert announcement(tasks, [], shop).startswith("3 files on 1 curves: about 1.9 hours of CPU")
    assert len(run.commands) == 1 and not list((tmp_path / "work" / "runs").iterdir())
    rows = do_all(scene, FakeRun(), tmp_path, [after_rounds(0)])
    text = announcement(tasks, rows, shop)  # 4.5 seconds for 30 iterations
    assert "about 58 minutes of CPU time, and 38 minutes on a machine" in text
    assert len(run.commands) == 1


def test_command_lines_that_cannot_be_run(tmp_path: Path, command_line, scene: CurveScene) -> None:
    table = ("--csv", tmp_path / "table.csv")
    work = (*table, "--work", tmp_path / "work")
    for arguments, message in (
        (table, "--work DIR is required"),
        ((*table, "--summary"), "table.csv has no such rows"),
        ((*work, "--scenes", "moon"), "expected one of the scenes snowmiku, .*, got 'moon'"),
        ((*work, "--points", "a=", "a=--noise 1"), "different names of points, got a several"),
        ((*work, "--points", "rule=--noise 1", "--rule"), "points, got rule several times"),
        ((*work, "--variants", "v=--noise -1"), "noise"),
        ((*work, "--data", tmp_path / "nothing"), "scene fox: expected the folder .*nothing/fox"),
    ):
        command_line(*arguments)
        with pytest.raises(InputError, match=message):
            rate_distortion.main()
    do_all(scene, FakeRun(), tmp_path, POINTS)
    command_line(*table, "--summary", "--reference", "compact")
    with pytest.raises(InputError, match="no rows of the reference compact: fast3dgs, ours"):
        rate_distortion.main()
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").glob("runs/*"))


def test_tables_from_the_command_line(
    tmp_path: Path, command_line, scene: CurveScene, capsys
) -> None:
    do_all(scene, FakeRun(), tmp_path, POINTS)
    arguments = ("--csv", tmp_path / "table.csv", "--summary", "--plot", tmp_path / "out.svg")
    command_line(*arguments, "--measure", "ms_ssim", "--only", "fast3dgs")
    rate_distortion.main()
    assert "| tiny | ours" not in capsys.readouterr().out
    drawn = (tmp_path / "out.svg").read_text()
    assert "MS-SSIM on the guard views" in drawn and "ours" not in drawn


def test_scenes(tmp_path: Path) -> None:
    known = known_scenes(tmp_path, tmp_path / "work", None)
    with pytest.raises(
        InputError, match=r"lego-validation \(lego needs --lego_model\), got 'lego'"
    ):
        chosen_scenes(known, ["lego"], None)
    (fox,) = chosen_scenes(known, ["fox", "fox"], 4)
    assert fox.name == "fox-r4" and fox.loading[2:] == ("--eval", "-r", "4")
    lego = known_scenes(tmp_path, tmp_path, tmp_path / "model")["lego"]
    assert lego.loading[2:] == ("--eval", "-w") and lego.model == tmp_path / "model"


def views_of(folder: Path, **loading) -> tuple[set[str], set[str]]:
    info = readSceneInfo(options(folder, eval=True, **loading), with_points=False)
    return tuple({view.image_name for view in views} for views in info[1:3])  # type: ignore


@pytest.mark.parametrize("make", [make_colmap, make_blender])
def test_validation_scenes_lack_the_test_views(tmp_path: Path, make) -> None:
    source = make(tmp_path / "scene")
    (source / "secret.txt").write_text("not of the data set")
    before, test = views_of(source)
    validation_scene.make(source, tmp_path / "out")
    train, validation = views_of(tmp_path / "out", skip_missing=True)
    assert train and validation and train | validation == before and not train & validation
    assert not {path.stem for path in tmp_path.glob("out/images/*")} & {n[:2] for n in test}
    assert not (tmp_path / "out" / "secret.txt").exists()
    assert not (tmp_path / "out" / "test").exists()
    with pytest.raises(InputError, match="exists: expected the name of a new folder"):
        validation_scene.make(source, tmp_path / "out")


def test_models_of_validation_scenes_are_made_once(tmp_path: Path) -> None:
    known = known_scenes(tmp_path / "data", tmp_path / "work", None)
    commands: list[list[str]] = []

    def make(command: Sequence[str], log: Path) -> str:
        commands.append(list(command))
        step = next(step for step in scene.steps if step.command == tuple(command[1:]))
        step.output.mkdir(parents=True)
        return ""

    scene = known["sample-validation"]
    prepare(scene, tmp_path, make)
    assert [Path(command[1]).name for command in commands] == [
        "sample_scene.py", "validation_scene.py", "train.py"
    ]  # fmt: skip
    assert commands[2][2:6] == ["-s", str(scene.source), "--eval", "--skip_missing"]
    prepare(scene, tmp_path, make)
    assert len(commands) == 3
    with pytest.raises(InputError, match=r"scene fox: expected the folder .*fox, not found"):
        prepare(known["fox"], tmp_path, make)


def test_validation_views_are_for_choices(scene: CurveScene, tmp_path: Path) -> None:
    validation = replace(scene, name="tiny-validation")
    curves = Curves(tuple(do_all(validation, FakeRun(), tmp_path, POINTS)), "guard")
    assert curves.quality(curves.rows[0], "psnr") == 29
    text = rate_distortion.summary(curves, "fast3dgs", None)
    assert "Views: tiny-validation test." in text
    assert "Losses are counted: tiny-validation from `start`." in text
    assert "it reaches 29.000 dB, not 30.500 dB" in text


def test_names_of_variants_and_points() -> None:
    assert rate_distortion.variant_of("compact").flags == ("--preset", "compact")
    assert rate_distortion.variant_of("a.b=--noise 0.1 --seed 'x y'").flags[-1] == "x y"
    for text in ("=--noise 1", "a/b=", "../x", ""):
        with pytest.raises(InputError, match="expected NAME=FLAGS"):
            rate_distortion.variant_of(text)


def test_rows_have_a_column_for_each_field(scene: CurveScene, tmp_path: Path) -> None:
    do_all(scene, FakeRun(), tmp_path, [after_rounds(0)])
    header = (tmp_path / "table.csv").read_text().partition("\n")[0]
    assert header.split(",") == [one.name for one in fields(Row)]
