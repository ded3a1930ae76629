# SPDX-License-Identifier: Apache-2.0
"""fleet.py: with real programs, killed and run again; the rest with workers that only pretend."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import fleet
from many_scenes import driver, records, worker
from many_scenes.figures import csv_text, page_text, row_of
from many_scenes.live_table import LiveTable
from many_scenes.records import (
    COMPRESSING,
    DONE,
    FAILED,
    INTERRUPTED,
    MODEL_NAME,
    TRAINING,
    WAITING,
    Record,
)
from many_scenes.runners import Ended, shares
from many_scenes.scene_list import ListedScene, read_scene_list
from many_scenes.worker import Task
from splat_formats.ply import write_ply
from tests.other_programs import ray
from tests.test_training_free import visible_splats
from utils.errors import InputError
from utils.folder_lock import locked

ROOT = Path(__file__).parents[1]
SHORT = "--warmup_iterations 4 --finetune_iterations 4 --final_iterations 4 --max_rounds 1 " \
    "--max_psnr_drop 50"  # fmt: skip


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "fleet.py"), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 1200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def write_list(folder: Path, scenes: list[dict[str, object]]) -> Path:
    path = folder / "scenes.json"
    path.write_text(json.dumps({"scenes": scenes}))
    return path


def eight_scenes(folder: Path, small_scene: Path, trained: str) -> Path:
    """One is trained first and compressed with `trained`, one has no model, six need no
    photographs."""
    ply = folder / "start.ply"
    write_ply(ply, visible_splats(300, 1))
    free = f"--training_free --start_ply '{ply}'"
    scenes: list[dict[str, object]] = [
        {"model": f"models/free_{index}", "compress_options": free} for index in range(6)
    ]
    scenes.insert(1, {"model": "broken", "compress_options": "--training_free --start_ply no.ply"})
    scenes.insert(
        2,
        {
            "name": "trained",
            "model": "models/größer",
            "source": str(small_scene),
            "train": True,
            "train_options": "--eval --iterations 6 --test_iterations -1",
            "compress_options": trained,
        },
    )
    return write_list(folder, scenes)


def starts(output: Path, name: str) -> Counter[str]:
    """How often each script was started for a scene."""
    log = (output / "scenes" / name / "log.txt").read_text()
    return Counter(re.findall(r"^\$ (\w+\.py)", log, re.M))


def rows_of(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((output / "fleet.csv").read_text(encoding="utf-8"))))


def known(output: Path, scenes: tuple[ListedScene, ...]) -> dict[str, Record]:
    found = (records.read_record(output / "scenes" / scene.name, scene) for scene in scenes)
    return {record.scene.name: record for record in found}


def test_eight_scenes_one_broken_the_driver_killed(small_scene: Path, tmp_path: Path) -> None:
    path, output = eight_scenes(tmp_path, small_scene, "--training_free"), tmp_path / "out"
    scenes = read_scene_list(path)
    words = (path, "-o", output, "--workers", 2, "--retries", 1)

    def finished() -> set[str]:
        return {name for name, record in known(output, scenes).items() if record.state == DONE}

    with start(*words) as process:
        wait_for(lambda: len(finished()) >= 2, process)
        process.kill()
    before = finished()
    assert len(before) < 7
    with start(*words) as process:
        printed, errors = process.communicate()
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1] == "error: 1 of 8 scenes failed: broken"
    assert "error: broken: compress.py: " in errors
    assert "no.ply" in errors
    found = known(output, scenes)
    assert Counter(record.state for record in found.values()) == {DONE: 7, FAILED: 1}
    for name in before:
        assert starts(output, name)["compress.py"] == 1
    for name in found.keys() - before - {"broken"}:
        assert starts(output, name)["compress.py"] <= 2
    rows = rows_of(output)
    assert [row["scene"] for row in rows] == [scene.name for scene in scenes]
    trained = rows[2]
    assert int(trained["start_gaussians"]) == 300
    model = tmp_path / "models" / "größer"
    assert int(trained["bytes"]) == (model / MODEL_NAME).stat().st_size
    page = (output / "fleet.html").read_text(encoding="utf-8")
    assert "7 of 8" in page
    link = re.search(r'href="([^"]*report\.html)">trained<', page)
    assert link and link[1] == "../models/gr%C3%B6%C3%9Fer/compressed/report.html"
    assert printed.count("free_0: done") == 1
    # A third run does nothing for scenes that are done, and tries the broken one again.
    tried = {name: starts(output, name) for name in found}
    with start(*words, "--retries", 0) as process:
        process.communicate()
    assert process.returncode == 1
    tried["broken"]["compress.py"] += 1
    assert {name: starts(output, name) for name in found} == tried


def test_scenes_on_ray(small_scene: Path, tmp_path: Path) -> None:
    """The same with Ray on this machine, killed and run again."""
    ray()
    path, output = eight_scenes(tmp_path, small_scene, SHORT), tmp_path / "out"
    scenes = read_scene_list(path)
    words = (path, "-o", output, "--ray", "--workers", 2, "--retries", 0)
    with start(*words) as process:
        wait_for(lambda: any(r.state == DONE for r in known(output, scenes).values()), process)
        process.kill()
    before = {name for name, record in known(output, scenes).items() if record.state == DONE}
    with start(*words) as process:
        _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1] == "error: 1 of 8 scenes failed: broken"
    found = known(output, scenes)
    assert Counter(record.state for record in found.values()) == {DONE: 7, FAILED: 1}
    assert all(starts(output, name)["compress.py"] == 1 for name in before)
    trained = rows_of(output)[2]
    assert float(trained["start_test_psnr"]) > 5
    assert float(trained["test_psnr"]) > 5


def test_ray_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    ray()
    path = write_list(tmp_path, [{"model": "m"}])
    with start(path, "--ray", "--threads", 10_000) as process:
        _, errors = process.communicate()
    assert (process.returncode, errors.splitlines()[-1]) == (
        1, "error: --threads 10000 and --gpus_per_scene 0: no machine of the cluster has so many"
    )  # fmt: skip


class PretendedWorkers:
    """A Runner whose workers leave records as listed in `ends`, by scene, and no others."""

    def __init__(self, output: Path, ends: dict[str, list[str]]) -> None:
        self.places, self.threads = 2, 1
        self._output, self._ends = output, ends
        self.started: list[str] = []
        self._running: list[Task] = []
        self.closed = 0

    def start(self, task: Task) -> None:
        assert len(self._running) < self.places
        self.started.append(task.scene.name)
        self._running.append(task)

    def ended(self) -> list[Ended]:
        tasks, self._running = self._running, []
        return [Ended(task.scene.name, self._end(task)) for task in tasks]

    def _end(self, task: Task) -> str:
        scene, state = task.scene, self._ends[task.scene.name].pop(0)
        folder = records.scene_folder(self._output, scene.name)
        if state == DONE:
            file = Path(scene.model) / MODEL_NAME
            file.parent.mkdir(parents=True)
            file.write_bytes(b"model")
            written = records.file_state(Path(scene.model))
            records.write_record(folder, Record(scene, DONE, file=written))
        elif state == FAILED:
            records.write_record(folder, Record(scene, FAILED, message="bad scene"))
        return "" if state == DONE else "killed"

    def close(self) -> None:
        self.closed += 1


def drive(
    output: Path, ends: dict[str, list[str]], retries: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[PretendedWorkers, dict[str, Record]]:
    monkeypatch.setattr(driver, "_SECONDS", 0)
    scenes = [ListedScene(name, str(output / "models" / name)) for name in ends]
    runner = PretendedWorkers(output, {name: list(states) for name, states in ends.items()})
    found = driver.Driver(scenes, output, runner, retries).run(lambda shown, running: None)
    assert runner.closed == 1
    return runner, {record.scene.name: record for record in found}


def test_failed_scenes_are_tried_again_after_the_others(tmp_path: Path, monkeypatch) -> None:
    ends = {"a": [FAILED, DONE], "b": [DONE], "c": ["", FAILED, FAILED], "d": [DONE]}
    runner, found = drive(tmp_path, ends, 2, monkeypatch)
    assert runner.started == ["a", "b", "c", "d", "a", "c", "c"]
    assert {name: record.state for name, record in found.items()} == {
        "a": DONE, "b": DONE, "c": FAILED, "d": DONE
    }  # fmt: skip
    again, _ = drive(tmp_path, {**ends, "c": ["", ""]}, 1, monkeypatch)
    assert again.started == ["c", "c"]


def test_records_are_read_when_they_change(tmp_path: Path, monkeypatch) -> None:
    read: Counter[str] = Counter()

    def counted(folder: Path, scene: ListedScene) -> Record:
        read[scene.name] += 1
        return records.read_record(folder, scene)

    monkeypatch.setattr(driver, "read_record", counted)
    ends = {str(number): [DONE] for number in range(30)}
    drive(tmp_path, {**ends, "broken": [FAILED]}, 0, monkeypatch)
    assert len(read) == 31
    # At the start, when its worker has ended, at the end; and once while it runs.
    assert max(read.values()) <= 4


def test_a_record_that_a_worker_changes_is_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(driver, "_SECONDS", 0)
    scene = ListedScene("a", str(tmp_path / "models" / "a"))
    folder = records.scene_folder(tmp_path, "a")
    runner = PretendedWorkers(tmp_path, {"a": [DONE]})
    states = [WAITING, TRAINING, COMPRESSING, COMPRESSING]
    wanted = iter(states)

    def ended() -> list[Ended]:
        state = next(wanted, None)
        if state is None:
            return PretendedWorkers.ended(runner)
        records.write_record(folder, Record(scene, state))
        return []

    monkeypatch.setattr(runner, "ended", ended)
    seen: list[str] = []
    driver.Driver([scene], tmp_path, runner, 0).run(lambda shown, _: seen.append(shown[0].state))
    assert seen == [*states, DONE]


def test_a_worker_that_left_no_record_has_failed(tmp_path: Path, monkeypatch) -> None:
    _, found = drive(tmp_path, {"a": [""]}, 0, monkeypatch)
    assert (found["a"].state, found["a"].message) == (FAILED, "killed")


def test_a_file_that_changed_or_vanished_is_made_again(tmp_path: Path, monkeypatch) -> None:
    drive(tmp_path, {"a": [DONE], "b": [DONE]}, 0, monkeypatch)
    file = tmp_path / "models" / "a" / MODEL_NAME
    file.unlink()
    file.parent.rmdir()
    runner, _ = drive(tmp_path, {"a": [DONE], "b": []}, 0, monkeypatch)
    assert runner.started == ["a"]


@pytest.mark.parametrize(
    "text",
    ['{"scene": 3', "[" * 100_000,
     '{"scene": {"name": "a", "model": "/a"}, "training_minutes": NaN}',
     '{"scene": {"name": "a", "model": "/a"}, "compressing_minutes": null}'],
)  # fmt: skip
def test_a_damaged_record_stops_its_scene_only(tmp_path: Path, monkeypatch, text: str) -> None:
    (tmp_path / "scenes" / "a").mkdir(parents=True)
    (tmp_path / "scenes" / "a" / "record.json").write_text(text)
    _, found = drive(tmp_path, {"a": [""], "b": [DONE]}, 0, monkeypatch)
    assert found["b"].state == DONE
    assert "record.json: expected the record of a scene" in found["a"].message


def pretend_programs(monkeypatch, status: int = 0, text: bytes = b"") -> list[list[str]]:
    """The worker's programs are recorded, print `text` and end with `status`."""
    calls: list[list[str]] = []

    def run_program(words, output, environment) -> int:
        calls.append([Path(words[1]).name, *words[2:]])
        output.write(text)
        output.flush()
        model = Path(words[words.index("-m") + 1])
        if "train.py" in words[1]:
            ply = worker.model_file(model, 9)
            ply.parent.mkdir(parents=True)
            ply.touch()
        return status

    monkeypatch.setattr(worker, "run_program", run_program)
    return calls


def test_a_trained_model_stays_trained(tmp_path: Path, monkeypatch) -> None:
    calls = pretend_programs(monkeypatch)
    model = tmp_path / "m"
    model.mkdir()
    (model / "chkpnt5.pth").touch()
    scene = ListedScene("a", str(model), str(tmp_path), True, ("--iterations", "9"), ("--x",))
    task = Task(scene, str(tmp_path), 1)
    worker.do(task)
    training = ["train.py", "-s", str(tmp_path), "--iterations", "9", "-m", str(model)]
    checkpoint = str(model / "chkpnt5.pth")
    compression = ["compress.py", "-s", str(tmp_path), "-m", str(model), "--x"]
    assert calls == [
        [*training, "--disable_viewer", "--start_checkpoint", checkpoint], compression
    ]  # fmt: skip
    calls.clear()
    worker.do(replace(task, scene=replace(scene, compress_options=("--y",))))
    assert calls == [[*compression[:-1], "--y"]]
    with pytest.raises(InputError, match=r"was trained with -s .* --iterations 9, not with"):
        worker.do(replace(task, scene=replace(scene, train_options=())))


@pytest.mark.parametrize("compressed", [True, False])
def test_a_signal_just_after_the_last_record_leaves_the_scene_done(
    tmp_path: Path, monkeypatch, compressed: bool
) -> None:
    pretend_programs(monkeypatch)
    model, write = tmp_path / "m", worker.write_record
    (model / "compressed").mkdir(parents=True)
    if compressed:
        (model / MODEL_NAME).write_bytes(b"x")

    def write_and_stop(folder: Path, record: Record) -> None:
        write(folder, record)
        if record.state == DONE:
            raise KeyboardInterrupt

    monkeypatch.setattr(worker, "write_record", write_and_stop)
    scene = ListedScene("a", str(model), "", False, (), ())
    with pytest.raises(KeyboardInterrupt):
        worker.do(Task(scene, str(tmp_path), 1))
    (record,) = known(tmp_path, (scene,)).values()
    assert record.state == (DONE if compressed else INTERRUPTED)


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (1, b"bar 3\rbar 4\nerror: no data\nmore\n", r"compress.py: no data \(status 1\)"),
        (1, b"Traceback\nValueError: x\n\n", r"compress.py: ValueError: x \(status 1\)"),
        (1, b"", r"compress.py: \$ compress|compress.py: no message \(status 1\)"),
        (-9, b"", "compress.py: ended by SIGKILL: perhaps there was not enough memory"),
    ],
)
def test_the_reason_of_a_failure_is_recorded(
    tmp_path: Path, monkeypatch, status: int, text: bytes, reason: str
) -> None:
    pretend_programs(monkeypatch, status, text)
    scene = ListedScene("a", str(tmp_path / "m"))
    with pytest.raises(InputError, match=reason):
        worker.do(Task(scene, str(tmp_path), 1))
    record = records.read_record(records.scene_folder(tmp_path, "a"), scene)
    assert record.state == FAILED
    assert re.match(reason, record.message)


def test_a_worker_waits_for_an_earlier_one(tmp_path: Path, monkeypatch) -> None:
    calls = pretend_programs(monkeypatch)
    scene, folder = ListedScene("a", str(tmp_path / "m")), records.scene_folder(tmp_path, "a")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        lock.__exit__(None, None, None)

    lock = locked(folder)
    lock.__enter__()
    monkeypatch.setattr(worker.time, "sleep", sleep)
    worker.do(Task(scene, str(tmp_path), 1))
    assert len(waits) == 1
    assert len(calls) == 1


def test_a_worker_ends_its_program_when_its_starter_ends(tmp_path: Path) -> None:
    """The program gets a SIGTERM, is waited for, and the scene is recorded as interrupted."""
    (tmp_path / "compress.py").write_text(
        "import signal, sys, time, pathlib\n"
        "here = pathlib.Path(__file__).parent\n"
        "def end(*_):\n"
        "    time.sleep(0.3); (here / 'saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); (here / 'ready').touch(); time.sleep(300)\n"
    )
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from many_scenes import worker; from utils.cli import run\n"
        "worker.ROOT = Path(sys.argv[2]); run(worker.main)\n"
    )
    scene = ListedScene("a", str(tmp_path / "m"))
    command = [sys.executable, "-c", program, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(worker.line_of(Task(scene, str(tmp_path), 1)))
        process.stdin.flush()
        wait_for(lambda: (tmp_path / "ready").exists(), process)
        process.stdin.close()
        assert process.wait(timeout=300) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    record = records.read_record(records.scene_folder(tmp_path, "a"), scene)
    assert record.state == INTERRUPTED


YAML = """
defaults: {train: true, compress_options: --preset fast}
scenes:
  - {model: models/a, source: data/a, train_options: [-r, 2]}
  - {name: second, model: /b, train: false, compress_options: "--noise 0.1 --export 'a b'"}
"""
TOML = """
defaults = {train = true, compress_options = "--preset fast"}
[[scenes]]
model = "models/a"
source = "data/a"
train_options = ["-r", 2]
[[scenes]]
name = "second"
model = "/b"
train = false
compress_options = "--noise 0.1 --export 'a b'"
"""


@pytest.mark.parametrize(("name", "text"), [("s.yaml", YAML), ("s.yml", YAML), ("s.toml", TOML)])
def test_lists_of_all_formats(tmp_path: Path, name: str, text: str) -> None:
    if text is YAML:
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    a, b = str(tmp_path / "models/a"), str(tmp_path / "data/a")
    assert read_scene_list(tmp_path / name) == (
        ListedScene("a", a, b, True, ("-r", "2"), ("--preset", "fast")),
        ListedScene("second", "/b", "", False, (), ("--noise", "0.1", "--export", "a b")),
    )


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "s.yaml"
    path.write_text("scenes: !!python/object/apply:os.mkdir ['made']\n")
    with pytest.raises(InputError, match="could not determine a constructor"):
        read_scene_list(path)


@pytest.mark.parametrize("value", ["!!bool foo", "!!int ''", "!!timestamp foo"])
def test_yaml_tags_that_do_not_fit_are_named(tmp_path: Path, value: str) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "a.yaml").write_text(f"scenes: {value}")
    with pytest.raises(InputError, match=r"a\.yaml"):
        read_scene_list(tmp_path / "a.yaml")


def test_a_terminated_driver_waits_for_its_programs(tmp_path: Path, small_scene: Path) -> None:
    path, output = eight_scenes(tmp_path, small_scene, "--training_free"), tmp_path / "out"
    with start(path, "-o", output, "--workers", 2) as process:
        wait_for(lambda: any((output / "scenes").glob("*/log.txt")), process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors.splitlines()[-1] == "ended by SIGTERM"
    with locked(output):  # nothing is left that works there
        pass


def test_yaml_without_its_package(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "s.yaml"
    path.write_text(YAML)
    with pytest.raises(InputError, match=r"pip install PyYAML, or write the list as \.json"):
        read_scene_list(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected a list of scenes"),
        ("[" * 100_000, "expected a list of scenes"),
        ("[]", r"the file: expected entries out of scenes, defaults, got \[\]"),
        ("{}", "scenes: expected a list with at least one scene, got nothing"),
        ('{"scenes": []}', "expected a list with at least one scene"),
        ('{"scenes": [3]}', r"scenes\[0\]: expected entries"),
        ('{"scenes": [{}]}', r"scenes\[0\].model: expected the path of a folder, got nothing"),
        ('{"scenes": [{"model": "a", "colour": 1}]}', "got 'colour'"),
        ('{"scene": [{"model": "a"}]}', "got 'scene'"),
        ('{"defaults": {"model": "a"}, "scenes": [{}]}', "defaults: expected .* got 'model'"),
        ('{"scenes": [{"model": "a", "train": "no"}]}', "expected true or false, got 'no'"),
        ('{"scenes": [{"model": "a", "train": true}]}', "source: expected the data set"),
        ('{"scenes": [{"model": "a", "name": "../b"}]}', "expected a name"),
        ('{"scenes": [{"model": "/"}]}', "expected a name that can be that of a folder, got ''"),
        ('{"scenes": [{"model": "a", "compress_options": "\'"}]}', "options as in a shell"),
        ('{"scenes": [{"model": "a", "train_options": [true]}]}', "expected texts and numbers"),
        ('{"scenes": [{"model": "a"}, {"model": "b/A"}]}', "two scenes have the name a"),
        ('{"scenes": [{"model": "a"}, {"model": "./a", "name": "b"}]}', "two .* the model"),
    ],
)
def test_wrong_lists_are_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(InputError, match=fault):
        read_scene_list(path)


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ({"model": "m", "name": "a\ud800"}, "name"),
        ({"model": "m\udfff"}, "model"),
        ({"model": "m", "source": "\ud83d"}, "source"),
        ({"model": "m", "compress_options": "--export \ud800"}, "compress_options"),
        ({"model": "m", "compress_options": ["\ud800"]}, "compress_options"),
        ({"model": "m", "compress_options": ["a\0b"]}, "compress_options"),
    ],
)
def test_texts_that_no_file_can_have_are_named(
    tmp_path: Path, entry: dict[str, object], place: str
) -> None:
    """Halves of UTF-16 pairs, which JSON can hold, and zeros."""
    (tmp_path / "s.json").write_text(json.dumps({"scenes": [entry]}))
    with pytest.raises(InputError, match=rf"scenes\[0\]\.{place}: expected "):
        read_scene_list(tmp_path / "s.json")


def test_other_files_are_no_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file \.yaml"):
        read_scene_list(tmp_path / "s.txt")
    (tmp_path / "s.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match="expected a list of scenes"):
        read_scene_list(tmp_path / "s.json")


def test_options_are_checked(command_line, tmp_path: Path) -> None:
    path = write_list(tmp_path, [{"model": "m"}])
    for words, fault in (
        (("--workers", 0), "--workers 0"),
        (("--retries", -1), "--retries -1"),
        (("--gpus_per_scene", 1), "expected --ray too"),
        (("--threads", 0), "--threads 0"),
    ):
        command_line(path, *words)
        with pytest.raises(InputError, match=fault):
            fleet.main()
    with locked(tmp_path / "scenes_fleet"):
        command_line(path)
        with pytest.raises(InputError, match="is in use"):
            fleet.main()


def test_workers_share_the_cores() -> None:
    assert shares(2, None, None) == (1, 2)
    assert shares(64, None, None) == (16, 4)
    assert shares(64, 3, None) == (3, 21)
    assert shares(2, 8, None) == (8, 1)
    assert shares(64, None, 8) == (8, 8)


def made_records(folder: Path) -> list[Record]:
    scene = ListedScene("<b>", str(folder / "m"))
    return [
        Record(scene, FAILED, 2, 'no "data" & <more>', training_minutes=1.5),
        Record(replace(scene, name="later", model=str(folder / "n"))),
    ]


def test_page_and_csv_hold_any_text(tmp_path: Path) -> None:
    rows = [row_of(record) for record in made_records(tmp_path)]
    found = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert (found[0]["scene"], found[0]["message"]) == ("<b>", 'no "data" & <more>')
    assert (found[1]["bytes"], found[1]["state"]) == ("", WAITING)
    page = page_text(tmp_path, rows)
    assert "<b>" not in page
    assert "&lt;b&gt;: no &quot;data&quot; &amp; &lt;more&gt;" in page
    assert "0 of 2" in page


def test_a_report_that_is_unreadable_is_named(tmp_path: Path) -> None:
    record = Record(ListedScene("a", str(tmp_path / "m")), DONE)
    (fault,) = fleet.write_figures(tmp_path, [record])
    assert fault.startswith("a: its report cannot be read: ")
    (row,) = rows_of(tmp_path)
    assert row["message"] == fault
    assert asdict(row_of(replace(record, state=FAILED)))["bytes"] is None


def test_the_table_is_redrawn_in_place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "5")
    scenes = [ListedScene(f"scene{index}", "m") for index in range(9)]
    shown = [Record(scene) for scene in scenes]
    shown[7] = Record(scenes[7], "compressing", 2)
    log = records.log_path(records.scene_folder(tmp_path, "scene7"))
    log.parent.mkdir(parents=True)
    log.write_bytes(b"one\nround 3\x1b[31m:  10%\rround 3:  20%" + b"x" * 50)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        table = LiveTable(terminal, tmp_path)
        texts = []
        for _ in range(2):
            table.show(shown, {"scene7"})
            texts.append(os.read(reader, 10_000).decode())
    os.close(reader)
    first, second = texts
    assert second == f"\x1b[3F{first}"
    lines = first.removeprefix("\x1b[J").splitlines()
    assert [line.split()[0] for line in lines] == ["scene7", "scene0", "8"]
    assert lines[0].startswith("scene7" + " " * 19 + "compressing (t")
    assert max(map(len, lines)) <= 39
