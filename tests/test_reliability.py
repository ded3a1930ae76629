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

ROOT = Path(__file__).parents[1]
TRAIN = ("--eval", "--disable_viewer", "--iterations", "12", "--checkpoint_iterations", "4", "8")
COMPRESS = (
    *("--warmup_iterations", "4", "--finetune_iterations", "4", "--final_iterations", "4"),
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
    assert {"round 0, unpruned, settling", "round 1, scores", "final fine-tuning"} <= {*stages}
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


def test_a_read_only_data_set_is_enough_and_stays_as_it_is(
    small_scene: Path, model: Path, tmp_path: Path
) -> None:
    scene = shutil.copytree(small_scene, tmp_path / "scene")
    folders = [scene, *(path for path in scene.rglob("*") if path.is_dir())]
    before = files_in(scene), sorted(path.stat().st_mtime_ns for path in folders)
    for folder in folders:
        folder.chmod(0o555)
    try:
        copy = shutil.copytree(model, tmp_path / "model")
        for command in (
            ["train.py", "-s", scene, "-m", tmp_path / "new", *TRAIN],
            ["compress.py", "-s", scene, "-m", copy, *COMPRESS],
        ):
            done = script(*command)
            assert done.returncode == 0, done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (files_in(scene), sorted(path.stat().st_mtime_ns for path in folders)) == before


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
