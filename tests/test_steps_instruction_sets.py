# SPDX-License-Identifier: Apache-2.0
"""Both fused optimiser steps on every instruction set of this processor."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from diff_gaussian_rasterization import native

HERE = Path(__file__).parent
TESTS = {
    "test_grid_step.py": "bit_by_bit or plain_one",
    "test_straight_through.py": "bit_by_bit or half_precision",
}


@pytest.mark.parametrize("instruction_set", ["v2", "v3", "v4"])
def test_every_instruction_set_decodes_alike(instruction_set: str) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("one instruction set only on this machine")
    if native.instruction_set == f"x86-64-{instruction_set}":
        pytest.skip(f"{instruction_set} is what these files run on in the suite itself")
    files = [str(HERE / name) for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files, "-k", " or ".join(TESTS.values())],
        env={**os.environ, "FAST3DGS_ISA": instruction_set},
        capture_output=True,
        text=True,
    )
    if "supports only" in done.stdout:
        pytest.skip(f"this processor has no {instruction_set}")
    assert done.returncode == 0, done.stdout
