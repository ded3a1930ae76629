# SPDX-License-Identifier: Apache-2.0
"""full_eval.py: once with all scripts on the sample scene, otherwise with recorded commands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import full_eval
from full_evaluation import steps
from full_evaluation.scenes import SCENES, BenchmarkScene, all_scenes
from full_evaluation.table import Line, lines_of, table_text, with_means
from utils.errors import InputError

ROOT = Path(__file__).parents[1]
QUICK = "--preset fast3dgs --max_rounds 1 --warmup_iterations 1 --finetune_iterations 1 " \
    "--final_iterations 1 --max_psnr_drop 50"  # fmt: skip


class FakeScripts:
    """Records the commands, and leaves what the scripts would leave."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.failing: set[tuple[str, str]] = set()
        """Script and name of the model folder."""

    def __call__(self, script: str, *arguments: str | Path) -> None:
        words = [script, *map(str, arguments)]
        self.calls.append(words)
        models = [Path(word) for word in words[words.index("-m") + 1 :] if os.sep in word]
        model = models[0]
        if (script, model.name) in self.failing:
            raise InputError(f"{script} ended with status 1")
        if script == "train.py":
            for iteration in {7000, int(words[words.index("--iterations") + 1])}:
                ply = steps.model_file(model, iteration)
                ply.parent.mkdir(parents=True)
                ply.write_bytes(b"x" * 1_500_000)
        elif script == "render.py":
            folder = model / "test" / f"ours_{words[words.index('--iteration') + 1]}" / "renders"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "00000.png").write_bytes(b"")
        else:
            assert script == "metrics.py"
            for path in models:
                scores = {"SSIM": 0.5, "PSNR": 20.0, "LPIPS": None}
                found = {folder.name: scores for folder in (path / "test").iterdir()}
                (path / "results.json").write_text(json.dumps(found))

    def took(self) -> list[list[str]]:
        """The commands since the last call of this."""
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> FakeScripts:
    fake = FakeScripts()
    monkeypatch.setattr(steps, "run_script", fake)
    monkeypatch.setattr(full_eval, "run_script", fake)
    return fake


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folders of all 13 scenes."""
    for scene in all_scenes({name: tmp_path / name for name in SCENES}, tmp_path):
        assert scene.source is not None
        scene.source.mkdir(parents=True)
    return tmp_path


@pytest.fixture
def evaluate(command_line, data: Path):
    def run(*words: object, folders: tuple[str, ...] = tuple(SCENES)) -> None:
        given = [word for name in folders for word in (f"--{name}", data / name)]
        command_line(*given, "--output_path", data / "out", *words)
        full_eval.main()

    return run


def test_commands_are_those_of_the_published_evaluation(evaluate, scripts, data: Path) -> None:
    evaluate()
    calls = scripts.took()
    assert [call[0] for call in calls] == 13 * ["train.py"] + 26 * ["render.py"] + ["metrics.py"]
    garden, out = str(data / "mipnerf360" / "garden"), str(data / "out" / "garden")
    assert calls[2] == [
        *("train.py", "-s", garden, "-m", out, "-i", "images_4", "--disable_viewer", "--quiet"),
        *("--eval", "--test_iterations", "-1", "--iterations", "30000"),
    ]
    folders = [call[call.index("-i") + 1] for call in calls[:13]]
    assert folders == 5 * ["images_4"] + 4 * ["images_2"] + 4 * ["images"]
    assert calls[13 + 4] == [
        *("render.py", "-s", garden, "-m", out, "--iteration", "7000"),
        *("--quiet", "--eval", "--skip_train"),
    ]
    assert calls[13 + 5][6] == "30000"
    assert len(calls[-1]) == 2 + 13


def test_flags_reach_the_scripts(evaluate, scripts) -> None:
    evaluate("--aa", "--fast", "--use_depth", "--use_expcomp", "--train_options=-r 2")
    calls = scripts.took()
    assert calls[0][14:] == [
        *("--antialiasing", "-d", "depths2/", "--exposure_lr_init", "0.001"),
        *("--exposure_lr_final", "0.0001", "--exposure_lr_delay_steps", "5000"),
        *("--exposure_lr_delay_mult", "0.001", "--train_test_exp"),
        *("--optimizer_type", "sparse_adam", "-r", "2"),
    ]
    assert calls[13][10:] == ["--antialiasing", "--train_test_exp"]


def test_short_names_are_known(command_line, scripts, data: Path) -> None:
    command_line(
        *("-m360", data / "mipnerf360", "-tat", data / "tanksandtemples"),
        *("-db", data / "deepblending", "-o", data / "out"),
    )
    full_eval.main()
    assert len(scripts.took()) == 40


def test_second_run_does_nothing_but_print(evaluate, scripts, capsys) -> None:
    evaluate()
    scripts.took()
    first = capsys.readouterr().out
    evaluate()
    assert scripts.took() == []
    again = capsys.readouterr().out
    assert again.count(": done before, skipped") == 39
    assert again.splitlines()[-30:] == first.splitlines()[-30:]


def test_scene_that_fails_is_left_out_and_done_the_next_time(evaluate, scripts, capsys) -> None:
    scripts.failing = {("train.py", "stump")}
    with pytest.raises(SystemExit) as end:
        evaluate()
    assert end.value.code == 1
    assert "1 of 13 scenes failed: stump" in capsys.readouterr().err
    calls = scripts.took()
    assert len(calls) == 13 + 24 + 1
    scripts.failing = set()
    evaluate()
    again = scripts.took()
    assert [call[0] for call in again] == ["train.py", "render.py", "render.py", "metrics.py"]
    assert all("stump" in " ".join(call) for call in again)


def test_training_goes_on_from_the_last_checkpoint(evaluate, scripts, data: Path) -> None:
    scripts.failing = {("train.py", "truck")}
    model = data / "out" / "truck"
    model.mkdir(parents=True)
    for iteration in (900, 8000):
        (model / f"chkpnt{iteration}.pth").write_bytes(b"")
    with pytest.raises(SystemExit):
        evaluate("--skip_rendering", "--skip_metrics", folders=("tanksandtemples",))
    assert scripts.took()[0][-2:] == ["--start_checkpoint", str(model / "chkpnt8000.pth")]
    scripts.failing = set()
    evaluate("--skip_rendering", "--skip_metrics", folders=("tanksandtemples",))
    assert [call[4] for call in scripts.took()] == [str(model)]


def test_model_trained_in_another_way_is_refused(evaluate, scripts, capsys) -> None:
    evaluate(folders=("deepblending",))
    scripts.took()
    with pytest.raises(SystemExit):
        evaluate("--aa", folders=("deepblending",))
    assert scripts.took() == []
    assert "was trained with -i images" in capsys.readouterr().err


def test_new_model_is_rendered_and_scored_again(evaluate, scripts, data: Path) -> None:
    evaluate(folders=("deepblending",))
    scripts.took()
    ply = steps.model_file(data / "out" / "playroom", 7000)
    ply.write_bytes(b"another")
    evaluate(folders=("deepblending",))
    rendered, scored = scripts.took()
    assert rendered[5:7] == ["--iteration", "7000"]
    assert scored == ["metrics.py", "-m", str(data / "out" / "playroom")]


def test_timing_adds_the_runs_up(evaluate, scripts, data: Path) -> None:
    evaluate()
    minutes = {"truck": 2.0, "train": 3.5, "room": 1.0}
    for name in (name for scenes in SCENES.values() for name in scenes):
        record = steps.read_record(data / "out" / name)
        assert record.train is not None
        record.train.minutes = minutes.get(name, 0.0)
        steps.write_record(data / "out" / name, record)
    evaluate()
    assert (data / "out" / "timing.txt").read_text().splitlines() == [
        *("mipnerf360: 1.00 minutes", "tanksandtemples: 5.50 minutes"),
        "deepblending: 0.00 minutes",
    ]


def test_skipped_steps_are_not_run(evaluate, command_line, scripts, data: Path) -> None:
    evaluate("--skip_rendering", "--skip_metrics")
    assert {call[0] for call in scripts.took()} == {"train.py"}
    evaluate("--skip_training", "--skip_metrics")
    assert {call[0] for call in scripts.took()} == {"render.py"}
    # Without training and rendering no data set is needed.
    shutil.rmtree(data / "out" / "garden")
    command_line("-o", data / "out", "--skip_training", "--skip_rendering")
    full_eval.main()
    (call,) = scripts.took()
    assert len(call) == 2 + 12


def test_missing_scenes_are_named(evaluate, scripts, data: Path, capsys) -> None:
    shutil.rmtree(data / "tanksandtemples" / "train")
    evaluate(folders=("tanksandtemples",))
    printed = capsys.readouterr().out
    assert f"train: {data / 'tanksandtemples' / 'train'} is not there, skipped" in printed
    assert "--mipnerf360 is not given: its scenes are skipped" in printed
    shutil.rmtree(data / "tanksandtemples" / "truck")
    with pytest.raises(InputError, match="none of the scenes is there"):
        evaluate(folders=("tanksandtemples",))


def test_help_lists_the_known_flags(command_line, capsys) -> None:
    command_line("--help")
    with pytest.raises(SystemExit) as end:
        full_eval.main()
    assert end.value.code == 0
    flags = "--mipnerf360 -m360 --tanksandtemples -tat --deepblending -db --output_path --fast " \
        "--skip_training --skip_rendering --skip_metrics --use_depth --use_expcomp"  # fmt: skip
    assert set(flags.split()) <= set(re.findall(r"(?<![\w-])--?\w+", capsys.readouterr().out))


def test_missing_options_are_named(evaluate) -> None:
    with pytest.raises(InputError, match="expected the folder of a data set"):
        evaluate(folders=())
    with pytest.raises(InputError, match="--iterations 0"):
        evaluate("--iterations", 0)
    with pytest.raises(InputError, match="expected --compress too"):
        evaluate("--compress_options=--preset small")


STEP = {"options": ["-i", "images"], "minutes": 1.5, "done": True}
WRONG_RECORDS = (
    [3],
    {"train": 3},
    {"train": {**STEP, "minutes": "long"}},
    {"train": {**STEP, "minutes": None}},
    {"train": {**STEP, "minutes": -1.0}},
    {"train": {**STEP, "options": "-i images"}},
    {"train": {**STEP, "options": [1]}},
    {"compress": {**STEP, "done": 1}},
    {"rendered": [7000]},
    {"rendered": {"7000": 3}},
)


@pytest.mark.parametrize("text", ['{"train": 3', "[" * 100_000, *map(json.dumps, WRONG_RECORDS)])
def test_broken_record_ends_its_scene_only(
    evaluate, scripts, data: Path, capsys, text: str
) -> None:
    (data / "out" / "truck").mkdir(parents=True)
    (data / "out" / "truck" / steps.RECORD).write_text(text)
    with pytest.raises(SystemExit):
        evaluate("--skip_rendering", "--skip_metrics", folders=("tanksandtemples",))
    assert "error: truck: " in (errors := capsys.readouterr().err)
    assert "expected a record of full_eval" in errors
    assert "Traceback" not in errors
    assert [Path(call[4]).name for call in scripts.took()] == ["train"]
    assert (data / "out" / "timing.txt").is_file()


@pytest.mark.parametrize(
    "content",
    [
        *("", '{"ours_7000": {"PSNR": 2', "[1]", '{"ours_7000": 3}'),
        *(
            f'{{"ours_7000": {{"PSNR": {value}}}}}'
            for value in ('"20"', "[20]", "true", "NaN", 10**400)
        ),
    ],
)
def test_broken_results_are_measured_again(
    evaluate, scripts, data: Path, capsys, content: str
) -> None:
    evaluate(folders=("tanksandtemples",))
    table = capsys.readouterr().out.splitlines()[-5:]
    (data / "out" / "truck" / "results.json").write_text(content)
    scripts.took()
    with pytest.raises(SystemExit):
        evaluate("--skip_metrics", folders=("tanksandtemples",))
    shown = capsys.readouterr()
    assert "results.json: expected the scores of metrics.py" in shown.err
    assert shown.out.splitlines()[-1].split()[:2] == ["tanksandtemples", "train"]
    evaluate(folders=("tanksandtemples",))
    assert [call[0] for call in scripts.took()] == ["metrics.py"]
    assert capsys.readouterr().out.splitlines()[-5:] == table


def test_results_without_a_figure_and_those_of_earlier_versions_are_read(tmp_path: Path) -> None:
    earlier = '{"ours_7": {"SSIM": 0.5, "PSNR": null}, "not_finite": ["ours_7.PSNR"]}'
    for content, psnr in (('{"ours_7": {"SSIM": 0.5, "PSNR": 20.0}}', 20.0), (earlier, None)):
        (tmp_path / "results.json").write_text(content)
        (line,) = lines_of([BenchmarkScene("d", "a", "images", None, tmp_path)])
        assert line.figures == {"PSNR": psnr, "SSIM": 0.5, "LPIPS": None, "MB": None}


def test_results_of_other_methods_are_no_iterations(tmp_path: Path) -> None:
    others = {name: {"PSNR": 20.0} for name in ("theirs", "ours_", "ours_" + "7" * 5000)}
    (tmp_path / "results.json").write_text(json.dumps(others))
    assert lines_of([BenchmarkScene("d", "a", "images", None, tmp_path)]) == []


def test_means_are_of_scenes_with_the_figure() -> None:
    lines = [
        Line("d", "a", "7000", {"PSNR": 20.0, "SSIM": 0.5, "LPIPS": None, "MB": 1.0}),
        Line("d", "b", "7000", {"PSNR": 30.0, "SSIM": 0.7, "LPIPS": 0.1, "MB": 3.0}),
        Line("e", "c", "7000", {"PSNR": 40.0, "SSIM": 0.9, "LPIPS": 0.2, "MB": 5.0}),
    ]
    *same, mean = with_means(lines)
    assert same == lines
    assert mean == Line(
        "d", "mean of 2", "7000",
        {"PSNR": 25.0, "SSIM": pytest.approx(0.6), "LPIPS": None, "MB": 2.0},
    )  # fmt: skip
    rows = [row.split() for row in table_text([lines[0]]).splitlines()]
    assert rows[1] == ["d", "a", "7000", "20.00", "0.5000", "-", "1.00"]


def test_interruption_is_passed_on_and_the_script_waited_for(tmp_path: Path) -> None:
    """SIGTERM reaches the script once, which ends in its own time."""
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n"
        "    time.sleep(0.5); pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path(sys.argv[2]).touch(); time.sleep(300)\n"
    )
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from full_evaluation import steps; from utils.cli import run\n"
        "folder = Path(sys.argv[2]); steps.ROOT = folder\n"
        "run(lambda: steps.run_script('slow.py', folder / 'saved', folder / 'ready'))\n"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 300
            while not (tmp_path / "ready").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (process.returncode, errors) == (128 + 15, "ended by SIGTERM\n")
    assert (tmp_path / "saved").read_text() == "saved"


def test_all_scripts_on_a_small_scene(small_scene: Path, tmp_path: Path) -> None:
    """`truck` is the sample scene; `train` is no data set, and must not stop the others."""
    shutil.copytree(small_scene, tmp_path / "tandt" / "truck")
    (tmp_path / "tandt" / "train").mkdir()
    output = tmp_path / "out"
    words = [
        *(sys.executable, ROOT / "full_eval.py", "-tat", tmp_path / "tandt"),
        *("--output_path", output, "--iterations", 8, "--compress"),
        f"--compress_options={QUICK}",
    ]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: 1 of 2 scenes failed: train", done.stderr
    results = json.loads((output / "truck" / "results.json").read_text())
    decoded = steps.compressed_iteration(output / "truck")
    assert set(results) == {"ours_8", f"ours_{decoded}"}
    rows = {row.split()[2]: row.split() for row in done.stdout.splitlines()[-2:]}
    assert set(rows) == {"8", "compressed"}
    assert float(rows["8"][3]) == pytest.approx(results["ours_8"]["PSNR"], abs=0.006)
    size = (output / "truck" / "compressed" / "model.f3dgs").stat().st_size
    assert float(rows["compressed"][6]) == pytest.approx(size / 1e6, abs=0.006)
    timing = (output / "timing.txt").read_text().splitlines()
    assert re.fullmatch(r"tanksandtemples: \d+\.\d\d minutes", timing[1])
    assert timing[1] != "tanksandtemples: 0.00 minutes"
