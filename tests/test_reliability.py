# SPDX-License-Identifier: Apache-2.0
"""What users' machines do to long runs: kills in every stage, full disks, data that is read-only.

docs/reliability.md names the test of every fault; most are in the files of what they concern.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train
from utils import cli

ROOT = Path(__file__).parents[1]
TRAIN = ("--eval", "--disable_viewer", "--iterations", "12", "--checkpoint_iterations", "4", "8")
COMPRESS = (
    *("--warmup_iterations", "8", "--finetune_iterations", "4", "--final_iterations", "4"),
    *("--max_psnr_drop", "100", "--max_rounds", "1"),
)


def script(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **options)


@pytest.fixture(scope="module")
def model(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    done = script("train.py", "-s", small_scene, "-m", folder, *TRAIN, "--quiet")
    assert done.returncode == 0, done.stderr
    return folder


def killed_runs(name: str, model: Path, work: Path, *arguments: object) -> list[tuple]:
    work.mkdir()
    done = script("tests/killed_runs.py", name, model, work, "--", *arguments)
    assert done.returncode == 0, done.stderr
    return [tuple(entry) for entry in json.loads(done.stdout)]


def test_compress_killed_in_any_stage_ends_with_the_same_bytes(
    small_scene: Path, model: Path, tmp_path: Path
) -> None:
    runs = killed_runs("compress", model, tmp_path / "work", "-s", small_scene, *COMPRESS)
    stages = [stage for stage, _, _ in runs]
    assert {"round 0, unpruned, 1 of 2", "round 1, scores", "final fine-tuning"} <= {*stages}
    assert [(stage, 0, True) for stage in stages] == runs


def test_training_that_is_killed_goes_on_from_its_checkpoint(
    small_scene: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "none"
    runs = killed_runs("train", missing, tmp_path / "work", "-s", small_scene, *TRAIN)
    assert ("Training progress", 0, True) in runs
    assert all(status == 0 and same for _, status, same in runs)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A function that makes a file system of so many KiB."""
    mounted: list[Path] = []

    def make(kib: int) -> Path:
        folder = tmp_path / f"disk_{kib}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def files_in(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_is_named_and_nothing_is_lost(
    small_scene: Path, model: Path, tmp_path: Path, small_disk
) -> None:
    disk = small_disk(48)
    done = script("train.py", "-s", small_scene, "-m", disk / "new", *TRAIN)
    assert (done.returncode, files_in(disk)) == (1, {})
    assert re.search(r"^error: disk full: .*chkpnt4.pth", done.stderr, re.M), done.stderr

    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    disk = small_disk(size // 1024 + 150)
    shutil.copytree(model, disk / "model")
    before = files_in(disk / "model")
    done = script("compress.py", "-s", small_scene, "-m", disk / "model", *COMPRESS)
    assert done.returncode == 1
    assert re.search(r"^error: disk full: .*compressed", done.stderr, re.M)
    after = files_in(disk / "model")
    assert before == {name: after[name] for name in before}
    assert not [name for name in after if ".tmp" in name or ".incomplete" in name]
    # With more space, the same command continues.
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    done = script("compress.py", "-s", small_scene, "-m", disk / "model", *COMPRESS)
    assert done.returncode == 0, done.stderr


def test_a_read_only_data_set_with_long_names_is_enough_and_stays_as_it_is(
    small_scene: Path, model: Path, tmp_path: Path
) -> None:
    place = tmp_path / ("ü" * 100) / "日本 語" / ("x" * 200)
    scene = shutil.copytree(small_scene, place / "scene")
    folders = [scene, *(path for path in scene.rglob("*") if path.is_dir())]
    before = files_in(scene), sorted(path.stat().st_mtime_ns for path in folders)
    for folder in folders:
        folder.chmod(0o555)
    try:
        copy = shutil.copytree(model, place / "model")
        for command in (
            ["train.py", "-s", scene, "-m", place / "new", *TRAIN],
            ["compress.py", "-s", scene, "-m", copy, *COMPRESS],
        ):
            done = script(*command)
            assert done.returncode == 0, done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (files_in(scene), sorted(path.stat().st_mtime_ns for path in folders)) == before


def test_a_name_that_is_too_long_is_an_error(
    small_scene: Path, tmp_path: Path, command_line, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line("-s", small_scene, "-m", tmp_path / ("x" * 300), *TRAIN)
    with pytest.raises(SystemExit) as end:
        cli.run(train.main)
    assert end.value.code == 1
    assert re.search(r"^error: File name too long: ", capsys.readouterr().err, re.M)


IDLE = """
import time, torch
torch.set_num_threads(2)
from benchmarks.busy import training
step = training()
step(lambda name: None)
torch.ones(5_000_000).exp().sum()
time.sleep(0.1)
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""


def test_idle_threads_leave_the_processors_to_others() -> None:
    """Neither the kernels' nor PyTorch's threads spin while they wait for work."""
    done = subprocess.run(
        [sys.executable, "-c", IDLE], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert float(done.stdout) < 0.05  # of CPU time, in half a second


def test_every_row_of_the_page_names_its_tests() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for happens, _, tests in rows:
        names = re.findall(r"`(test_\w+\.py)`", tests)
        assert names, happens
        for name in names:
            assert (ROOT / "tests" / name).is_file(), name


def test_no_duration_depends_on_the_clock_of_the_machine() -> None:
    """time.time() jumps when the clock is set; durations are differences of time.monotonic()."""
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder, folders, names in os.walk(ROOT)
        for path in (Path(folder, name) for name in names if name.endswith(".py"))
        if folders is not None and ".venv" not in path.parts and "tests" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\btime\.time(_ns)?\(", line)
    ]
    assert places == []
