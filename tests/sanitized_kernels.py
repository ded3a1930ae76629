# SPDX-License-Identifier: Apache-2.0
"""Tests for a process with EMULATION_SANITIZERS, which test_cuda_sanitizers.py starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulated_kernels import launch_body

CORRECT = """
  __shared__ float first[64];
  __shared__ float second[64];
  first[threadIdx.x] = second[threadIdx.x] = arguments.in[threadIdx.x];
  __syncthreads();
  arguments.out[threadIdx.x] = first[63 - threadIdx.x] + warp_sum(second[threadIdx.x ^ 1]);
"""
# Volatile: the compiler does not know the array, so that not UBSanitizer finds it first.
INDIRECT = (
    "const float* volatile from = {array}; arguments.out[threadIdx.x] = from[threadIdx.x + 1];"
)

WRONG = {
    "past_a_tensor": (INDIRECT.replace("{array}", "arguments.in"), "heap-buffer-overflow"),
    "past_shared_memory": (
        CORRECT + INDIRECT.replace("{array}", "first"),
        "global-buffer-overflow",
    ),
    "past_own_memory": (
        "float own[64] = {}; own[threadIdx.x] = 1.0f;" + INDIRECT.replace("{array}", "own"),
        "stack-buffer-overflow",
    ),
    "misaligned": (
        "arguments.out[0] = *reinterpret_cast<const float*>("
        "reinterpret_cast<const char*>(arguments.in) + 1);",
        "misaligned address",
    ),
    "shift": ("arguments.out[threadIdx.x] = 1 << threadIdx.x;", "is too large for 32-bit type"),
}


def run(name: str) -> torch.Tensor:
    """What a kernel of 64 threads writes; its input is 0, 1, ..., 63."""
    bodies = {"correct": CORRECT, **{name: body for name, (body, _) in WRONG.items()}}
    out = torch.zeros(64)
    launch_body(bodies, name, torch.arange(64.0), out)
    return out


def test_a_correct_kernel_is_not_refused() -> None:
    halves = [sum(range(32)), sum(range(32, 64))]
    assert run("correct").tolist() == [63 - i + halves[i // 32] for i in range(64)]


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_sanitizers_see_what_a_kernel_does_wrong(name: str, tmp_path: Path) -> None:
    status, report = in_a_copy(lambda: run(name), tmp_path / "report")
    assert status != 0
    assert WRONG[name][1] in report, report


def in_a_copy(action: Callable[[], object], report: Path) -> tuple[int, str]:
    """Exit status and standard error of a copy of this process that runs `action`."""
    child = os.fork()
    if child == 0:
        try:
            with report.open("wb") as file:
                os.dup2(file.fileno(), sys.__stderr__.fileno())
                action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return status, report.read_text()
