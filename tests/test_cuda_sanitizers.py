# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels under AddressSanitizer and UBSanitizer, in a process of their own.

These see what the emulation's own checks do not: accesses past one of a thread's arrays or past one
of several in shared memory, pointers that leave their array, and all else that C++ leaves
undefined. By default the kernels of a view run; in .ci/run all kernels, with all their tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulated_kernels import BY_SANITIZERS
from test_plane_coder import sanitizer

ROOT = Path(__file__).parents[1]
VIEW = (
    "test_every_kind_of_input_gives_the_cpus_results[True-3]",
    "test_raw_parameters_give_the_cpus_results[3]",
    "test_long_lists_of_entries_cross_batches_and_buckets",
)
ALL_FILES = (
    *(f"test_cuda_{name}" for name in ("adam", "backend", "knn", "poison", "render", "sort")),
    *("test_cuda_ssim", "test_cuda_steps", "test_raw_update"),
)


def chosen() -> list[str]:
    """What pytest is to run there."""
    if os.environ.get("ALL_ARCHITECTURES"):
        return [f"tests/{name}.py" for name in ALL_FILES]
    return [f"tests/test_cuda_render.py::{name}" for name in VIEW]


def test_kernels_do_nothing_undefined() -> None:
    library = sanitizer()
    if library is None:
        pytest.skip("no g++ with AddressSanitizer")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    settings = {
        BY_SANITIZERS: "1",
        "LD_PRELOAD": str(library),
        # Fibres end without a return; Python's own memory is not of interest.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    result = subprocess.run(
        [*command, "tests/sanitized_kernels.py", *chosen()],
        env={**os.environ, **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None, result.stdout
    assert int(passed[1]) >= len(VIEW)
    assert "skipped" not in result.stdout
