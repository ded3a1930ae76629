# SPDX-License-Identifier: Apache-2.0
"""`pip install .`: what the wheel contains, and the command `fast3dgs` far from a checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from fast3dgs import command
from splat_formats.ply import read_ply, write_ply
from tests.format_models import model as splats_of

ROOT = Path(__file__).parents[1]
# For work on the project, not for its use.
NOT_INSTALLED = {"benchmarks", "tests", "tools", "submodules", "docs", "build", "demo", "dist"}
SCRIPTS = sorted(path.stem.replace("_", "-") for path in ROOT.glob("*.py"))


def installed_folders() -> list[Path]:
    """The folders with Python modules that scripts may import, from the root."""
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/*.py")}
    return sorted(folder for folder in folders if folder.parts[0] not in NOT_INSTALLED)


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    folders = [".".join(folder.parts) for folder in installed_folders()]
    expected = [f"fast3dgs.tree.{name}" for name in folders if name != "fast3dgs"]
    assert sorted(listed) == sorted(["fast3dgs", "fast3dgs.tree", *expected])


@pytest.mark.parametrize(
    ("words", "status"), [(["--help"], 0), (["-h"], 0), ([], 2), (["--version"], None)]
)
def test_help_lists_all_scripts(
    words: list[str], status: int | None, command_line, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line(*words)
    if status is None:
        command.main()
        assert capsys.readouterr().out == "fast3dgs 0.1.0\n"
        return
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == status
    streams = capsys.readouterr()
    said = streams.err if status else streams.out
    named = re.findall(r"^  ([a-z-]+)  +([A-Z].+)$", said, re.M)
    assert [name for name, _ in named] == SCRIPTS  # each has a sentence, too
    assert len(SCRIPTS) > 10 and "compress" in SCRIPTS


def test_unknown_commands_get_advice(command_line, capsys: pytest.CaptureFixture[str]) -> None:
    for typed, advice in (("compres", " Did you mean compress?"), ("xyz", "")):
        command_line(typed, "-m", "model")
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 2
        expected = f"error: fast3dgs has no command '{typed}'.{advice} fast3dgs --help lists all.\n"
        assert capsys.readouterr().err == expected


@dataclass(frozen=True)
class Installation:
    """A wheel, installed into an environment of its own."""

    wheel: Path
    program: Path
    folder: Path
    """Where the program is started: not the checkout, and with modules of the same names."""

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Runs `fast3dgs` with these arguments."""
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [self.program, *map(str, words)],
            cwd=self.folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def succeed(self, *words: object) -> str:
        """Runs `fast3dgs`, which must end well; what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", *(f"{s}.py" for s in SCRIPTS)):
        shutil.copy(ROOT / name.replace("-", "_"), source / name.replace("-", "_"))
    for name in {path.parts[0] for path in installed_folders()} | {"web"}:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    (libraries,) = environment.glob("lib/python*/site-packages")
    # PyTorch and the kernels are those of the environment that runs the tests.
    (libraries / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    python = ("--python", environment / "bin" / "python")
    install = ("install", "--no-deps", "--no-index", "--no-compile", wheel)
    subprocess.run([*pip, *python, *install], check=True)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("scene", "utils", "arguments"):
        (elsewhere / f"{name}.py").write_text("raise ImportError('another project has this name')")
    return Installation(wheel, environment / "bin" / "fast3dgs", elsewhere)


def test_the_wheel_has_all_files_and_one_package(installation: Installation) -> None:
    with zipfile.ZipFile(installation.wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fast3dgs", "fast_3dgs"}
    folders = [*(ROOT / path for path in installed_folders()), *(ROOT / "web", ROOT / "web/viewer")]
    files = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    needed = {f"fast3dgs/tree/{path.relative_to(ROOT).as_posix()}" for path in files}
    needed = {name.replace("fast3dgs/tree/fast3dgs", "fast3dgs") for name in needed}
    assert len(needed) > 150
    assert not needed - names
    assert {f"fast3dgs/tree/{name.replace('-', '_')}.py" for name in SCRIPTS} <= names


def test_the_commands_are_the_scripts(installation: Installation) -> None:
    assert [
        line.split()[0] for line in installation.succeed("--help").splitlines()[2:-2]
    ] == SCRIPTS
    said = installation.succeed("decompress", "--help")
    assert said.startswith("usage: fast3dgs decompress [-h]")
    failed = installation.run("decompress", "nowhere.f3dgs", "--info")
    assert failed.returncode == 1 and failed.stderr.startswith("error: ")


def test_a_model_is_compressed_and_decoded(installation: Installation, tmp_path: Path) -> None:
    write_ply(tmp_path / "start.ply", splats_of(200, 1))
    installation.succeed(
        *("compress", "--training_free", "--start_ply", tmp_path / "start.ply"),
        *("-m", tmp_path / "model"),
    )
    report = json.loads((tmp_path / "model" / "compressed" / "report.json").read_text())
    assert report["command"][:3] == ["fast3dgs", "compress", "--training_free"]
    file = tmp_path / "model" / "compressed" / "model.f3dgs"
    installation.succeed("decompress", file, tmp_path / "decoded.ply")
    assert read_ply(tmp_path / "decoded.ply").count == report["compressed"]["gaussians"] > 150
    installation.succeed("decompress", file, tmp_path / "page.html")  # contains the viewer
    assert (tmp_path / "page.html").stat().st_size > 100_000


def test_the_viewer_finds_its_page(installation: Installation, tmp_path: Path) -> None:
    write_ply(tmp_path / "model.ply", splats_of(50, 1))
    words = [
        installation.program,
        "view",
        str(tmp_path / "model.ply"),
        "--port",
        "0",
        "--no_browser",
    ]
    with subprocess.Popen(words, cwd=installation.folder, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            found = re.match(r"(http://\S+) shows", run.stdout.readline())
            assert found
            with urllib.request.urlopen(found[1], timeout=30) as answer:
                assert b"<html" in answer.read()
        finally:
            run.send_signal(signal.SIGTERM)
