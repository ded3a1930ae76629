# SPDX-License-Identifier: Apache-2.0
"""demo.sh and test.sh on machines that lack something: one clear sentence, before any download."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ["demo.sh", "test.sh"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts, and no environment yet."""
    for script in SCRIPTS:
        shutil.copy(ROOT / script, tmp_path / script)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    return tmp_path


def start(checkout: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script],
        cwd=checkout,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_python(checkout: Path, script: str) -> None:
    result = start(checkout, script, PYTHON="/no/python3")
    assert result.returncode == 1
    assert "error: Python 3.11 or newer is needed" in result.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_compiler(checkout: Path, script: str) -> None:
    environment = checkout / ".venv" / "bin"
    environment.mkdir(parents=True)
    (environment / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (environment / "python").chmod(0o755)
    result = start(checkout, script, CXX="no-such-compiler")
    assert result.returncode == 1
    assert result.stderr.startswith("error: a C++ compiler is needed and was not found")
    assert "Installing" not in result.stdout


def test_ci_runs_the_tests() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "./test.sh" in (ROOT / ".ci" / "run").read_text()
    for script in SCRIPTS:
        assert os.access(ROOT / script, os.X_OK)
