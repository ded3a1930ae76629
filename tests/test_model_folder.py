# SPDX-License-Identifier: Apache-2.0
"""Outputs in a model folder: foreign files stay, outdated ones do not, also after a kill."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arguments import ModelOptions
from gaussian_compression import training_free
from gaussian_compression.cfg_record import record_options
from gaussian_compression.decoded_mark import MARK, is_decoded, read_mark
from gaussian_compression.model_folder import free_iteration, start_from_folder
from gaussian_compression.report import read_report, report_path
from splat_codec.model_file import decode
from splat_formats.decoded import to_splats
from splat_formats.ply import read_ply, write_ply
from tests.test_grid_codec import random_splats
from utils.errors import InputError
from utils.folder_lock import locked

ROOT = Path(__file__).parents[1]
PLY = "point_cloud/iteration_{}/point_cloud.ply"


def trained(model: Path, *numbers: int, seed: int = 0) -> Path:
    for number in numbers:
        write_ply(model / PLY.format(number), random_splats(30 + number % 7, 1, seed))
    return model


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[]", "\xff", '{"file": 1, "start_iteration": "x", "file_sha256": 2, '
     '"ply_sha256": 3}', '{"file": "a", "start_iteration": 1, "file_sha256": "0", "ply_sha256": '
     '"0", "exports": ["a"]}'],
)  # fmt: skip
def test_damaged_marks_mark_nothing(tmp_path: Path, text: str) -> None:
    folder = (trained(tmp_path, 10) / PLY.format(10)).parent
    (folder / MARK).write_bytes(text.encode("latin-1"))
    assert read_mark(folder) is None
    assert is_decoded(folder) == ("ply_sha256" not in text)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def numbers(model: Path) -> list[int]:
    names = [path.name for path in (model / "point_cloud").iterdir()]
    return sorted(int(name.removeprefix("iteration_")) for name in names)


@pytest.fixture
def encode(command_line):
    """Compresses without training into a folder."""

    def run(model: Path, *arguments: object) -> Path:
        command_line("--training_free", "-m", model, *arguments)
        training_free.main()
        return model

    return run


@pytest.mark.parametrize(
    ("existing", "expected"), [((), 1), ((1,), 2), ((1, 5), 6), ((7000, 30000), 30001)]
)
def test_a_trained_model_is_never_replaced(
    tmp_path: Path, encode, existing: tuple[int, ...], expected: int
) -> None:
    model = trained(tmp_path / "model", *existing)
    write_ply(tmp_path / "start.ply", random_splats(20, 0))
    before = contents(model)
    encode(model, "--start_ply", tmp_path / "start.ply")
    after = contents(model)
    assert {name: after.get(name) for name in before} == before
    assert numbers(model) == [*existing, expected]
    assert not [n for n in existing if (model / PLY.format(n)).with_name(MARK).exists()]
    assert read_report(report_path(model)).compressed.iteration == expected
    decoded = to_splats(decode((model / "compressed/model.f3dgs").read_bytes()).splats)
    assert read_ply(model / PLY.format(expected)).xyz.tobytes() == decoded.xyz.tobytes()


def test_without_a_start_ply_the_folder_s_model_is_used(tmp_path: Path, encode) -> None:
    model = encode(trained(tmp_path, 5, 9))
    report = read_report(report_path(model))
    assert (report.start.iteration, report.start.ply) == (9, str(model / PLY.format(9)))
    assert numbers(encode(model)) == [5, 9, 10]


def test_earlier_results_and_their_renders_are_removed(tmp_path: Path, encode) -> None:
    model = encode(trained(tmp_path, 9))
    (model / PLY.format(10)).parent.rename(model / "point_cloud/iteration_50")
    for name in ("test/ours_50/renders/00000.png", "test/ours_50/gt/00000.png", "test/ours_9/a"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).touch()
    encode(model, "--quality", "low")
    assert numbers(model) == [9, 10]
    assert [path.name for path in (model / "test").iterdir()] == ["ours_9"]


def test_what_a_user_adds_to_a_decoded_model_stays(tmp_path: Path, encode) -> None:
    model = encode(trained(tmp_path, 9))
    added = (model / PLY.format(10)).with_name("mine.splat")
    added.write_text("precious")
    encode(model)
    assert numbers(model) == [9, 10, 11]
    assert added.read_text() == "precious"


@pytest.mark.parametrize("has_digests", [True, False])
def test_a_model_trained_over_a_decoded_one_is_a_start_again(
    tmp_path: Path, encode, has_digests: bool
) -> None:
    model = encode(trained(tmp_path, 9))
    if has_digests:
        trained(model, 10, seed=5)  # as train.py --iterations 10 in this folder
        assert start_from_folder(model).iteration == 10
    else:  # a mark of an earlier version
        (model / PLY.format(10)).with_name(MARK).write_text('{"file": "compressed/model.f3dgs"}')
        assert start_from_folder(model).iteration == 9
    before = contents(model / "point_cloud")
    encode(model)
    after = contents(model / "point_cloud")
    assert {name: after.get(name) for name in before} == before
    assert max(numbers(model)) == 11


def test_a_file_that_no_compression_here_wrote_is_not_replaced(tmp_path: Path, encode) -> None:
    model = trained(tmp_path, 9)
    (model / "compressed").mkdir()
    (model / "compressed/model.f3dgs").write_text("downloaded")
    before = contents(model)
    with pytest.raises(InputError, match=r"model\.f3dgs would be replaced"):
        encode(model)
    assert contents(model) == before


@pytest.mark.parametrize("name", ["report.html", "report_views/mine.webp"])
def test_a_page_or_picture_that_no_compression_wrote_is_not_replaced(
    tmp_path: Path, encode, name: str
) -> None:
    model = encode(trained(tmp_path, 9))
    foreign = model / "compressed" / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("<p>mine")
    before = contents(model)
    with pytest.raises(InputError, match="would be replaced, but"):
        encode(model)
    assert contents(model) == before


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path, encode) -> None:
    model = encode(trained(tmp_path, 9))
    folder = model / "compressed/report_views"
    folder.mkdir()
    (folder / "worst_original.webp").write_bytes(b"RIFF")
    encode(model)
    assert not folder.exists()
    assert "rendered no views" in (model / "compressed/report.html").read_text()


def test_the_start_model_is_not_replaced(tmp_path: Path, encode) -> None:
    model = encode(trained(tmp_path, 9))
    file = model / "compressed/model.f3dgs"
    with pytest.raises(InputError, match="is the model to start from"):
        encode(model, "--start_ply", file)


def test_an_iteration_without_a_ply_is_no_model(tmp_path: Path, encode) -> None:
    trained(tmp_path, 9)
    (tmp_path / "point_cloud/iteration_12").mkdir()
    assert start_from_folder(tmp_path).iteration == 9
    assert free_iteration(tmp_path, 1) == 13


def test_a_failure_leaves_no_folder(tmp_path: Path, encode, monkeypatch) -> None:
    write_ply(tmp_path / "start.ply", random_splats(20, 0))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gaussian_compression.model_folder.write_mark", fail)
    with pytest.raises(OSError, match="No space"):
        encode(tmp_path / "model", "--start_ply", tmp_path / "start.ply")
    assert [path.name for path in tmp_path.iterdir()] == ["start.ply"]


def test_a_second_run_is_refused_at_the_start(tmp_path: Path, encode) -> None:
    model = trained(tmp_path, 9)
    with locked(model), pytest.raises(InputError, match="is in use by"):
        encode(model)
    assert numbers(encode(model)) == [9, 10]


KILL = """
import os, shutil, sys
from pathlib import Path
from gaussian_compression import training_free

template, work = Path(sys.argv[1]), Path(sys.argv[2])
for step in range(100):
    model = work / str(step)
    shutil.copytree(template, model)
    child = os.fork()
    if child == 0:
        left = step
        def killed(function):
            def wrapper(*args, **kwargs):
                global left
                left -= 1
                if left < 0:
                    os._exit(9)
                return function(*args, **kwargs)
            return wrapper
        for owner, name in ((Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "rmdir"),
                            (shutil, "rmtree"), (os, "unlink"), (os, "rmdir")):
            setattr(owner, name, killed(getattr(owner, name)))
        sys.argv = ["compress.py", "--training_free", "-m", str(model), "--quality", "low"]
        sys.argv += ["--export", "splat"]
        training_free.main()
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


def test_after_a_kill_at_any_step_the_command_can_run_again(tmp_path: Path, encode) -> None:
    template = encode(trained(tmp_path / "template", 9), "--export", "splat,ply")
    start = (template / PLY.format(9)).read_bytes()
    command = [sys.executable, "-c", KILL, str(template), str(tmp_path / "work")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    steps = sorted((tmp_path / "work").iterdir(), key=lambda path: int(path.name))
    assert len(steps) > 10
    again = ("--quality", "low", "--export", "splat")
    encode(shutil.copytree(template, tmp_path / "whole"), *again)
    for model in steps:
        assert (model / PLY.format(9)).read_bytes() == start
        assert start_from_folder(model).iteration == 9
        decode((model / "compressed/model.f3dgs").read_bytes())
        read_report(report_path(model))
        for folder in (model / "point_cloud").glob("iteration_*"):
            assert (folder / "point_cloud.ply").exists()
    for model in steps[:: len(steps) // 3]:
        found = contents(encode(model, *again))
        expected = contents(tmp_path / "whole")
        assert found.keys() == expected.keys()
        assert found["compressed/model.f3dgs"] == expected["compressed/model.f3dgs"]
        assert numbers(model) == [9, 10]


def test_the_folder_can_be_rendered_from(tmp_path: Path, encode) -> None:
    trained(tmp_path / "a", 9)
    (tmp_path / "a" / "cfg_args").write_text(
        "Namespace(sh_degree=1, source_path='/old/place', eval=True, other=[1, 2])"
    )
    out = encode(tmp_path / "out", "--start_ply", tmp_path / "a" / PLY.format(9))
    recorded = (out / "cfg_args").read_text()
    assert "source_path='/old/place'" in recorded and "eval=True" in recorded
    assert f"model_path='{out}'" in recorded and "antialiasing=False" in recorded
    encode(tmp_path / "a", "-s", tmp_path, "--antialiasing")
    assert (tmp_path / "a" / "cfg_args").read_text() == (
        f"Namespace(sh_degree=1, source_path='{tmp_path}', eval=True, other=[1, 2], "
        "antialiasing=True)"
    )
    file = tmp_path / "a" / "compressed/model.f3dgs"
    assert decode(file.read_bytes()).metadata["antialiasing"] is True


def test_the_report_can_be_read_by_any_json_reader(tmp_path: Path, encode) -> None:
    model = encode(trained(tmp_path, 9))
    found = json.loads((model / "compressed/report.json").read_text())
    assert found["schema"] == 3
    assert os.stat(model / "compressed/report.json").st_size < 10_000  # noqa: PTH116


@pytest.mark.parametrize("flag", ["antialiasing", "ignore_principal_point", "skip_missing"])
def test_flags_that_change_the_views_are_kept_for_rendering(tmp_path: Path, flag: str) -> None:
    text = "Namespace(sh_degree=3, source_path='/abs/x', model_path='', eval=True)"
    (tmp_path / "cfg_args").write_text(text)
    record_options(tmp_path, ModelOptions(**{flag: True}))  # type: ignore[arg-type]
    assert (tmp_path / "cfg_args").read_text() == text[:-1] + f", {flag}=True)"
