# SPDX-License-Identifier: Apache-2.0
"""The emulation of CUDA on the CPU: it computes what CUDA does, and finds what kernels do wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from emulated_kernels import EmulationError, launch_body

SHARED = """
  __shared__ float values[64];
  values[threadIdx.x] = arguments.in[threadIdx.x];
  {barrier}
  arguments.out[threadIdx.x] = values[{other}];
  {after}
"""


def shared(barrier: str, other: str = "threadIdx.x ^ 1", after: str = "") -> str:
    parts = {"{barrier}": barrier, "{other}": other, "{after}": after}
    body = SHARED
    for name, part in parts.items():
        body = body.replace(name, part)
    return body


def operation(expression: str) -> str:
    return (
        f"const float value = arguments.in[threadIdx.x]; arguments.out[threadIdx.x] = {expression};"
    )


OPERATIONS: dict[str, tuple[str, Callable[[int], int]]] = {
    "shuffle": ("__shfl_sync(kAllLanes, value, 3)", lambda i: i // 32 * 32 + 3),
    "up": ("__shfl_up_sync(kAllLanes, value, 2)", lambda i: i - 2 if i % 32 >= 2 else i),
    "down": ("__shfl_down_sync(kAllLanes, value, 5)", lambda i: i + 5 if i % 32 < 27 else i),
    "swap": ("__shfl_xor_sync(kAllLanes, value, 9)", lambda i: i ^ 9),
    "running_sum": ("warp_running_sum(value)", lambda i: sum(range(i // 32 * 32, i + 1))),
    "ballot": ("__popc(__ballot_sync(kAllLanes, value < 40))", lambda i: 32 if i < 32 else 8),
    "match": (
        "__popc(__match_any_sync(kAllLanes, static_cast<unsigned>(value) / 7))",
        lambda i: sum(j // 7 == i // 7 for j in range(i // 32 * 32, i // 32 * 32 + 32)),
    ),
    "sizes": ("value + blockIdx.x + gridDim.x * blockDim.x", lambda i: i + 64),
}

CORRECT = {
    "sum": """
      __shared__ float sums[2];
      const float value = warp_sum(arguments.in[threadIdx.x]);
      if (lane() == 0) sums[warp()] = value;
      __syncthreads();
      if (threadIdx.x == 0) arguments.out[0] = sums[0] + sums[1];
    """,
    "partial_mask": """
      float value = arguments.in[threadIdx.x];
      if (lane() < 8) value = __shfl_xor_sync(0xffu, value, 1);
      arguments.out[threadIdx.x] = value;
    """,
    "atomic": "atomicAdd(arguments.out, arguments.in[threadIdx.x]);",
    "warp_barrier": shared("__syncwarp();"),
    "block_barrier": shared("__syncthreads();"),
    "fresh_memory": """
      __shared__ float value[64];
      arguments.out[global_thread()] = value[threadIdx.x];
      value[threadIdx.x] = 1.0f;
    """,
    "first": "if (atomicAdd(arguments.out, 1.0f) == 0.0f) arguments.out[1] = threadIdx.x;",
}

WRONG = {
    "reads_past_end": (
        "arguments.out[threadIdx.x] = arguments.in[threadIdx.x + 1];",
        "reads 4 bytes outside",
    ),
    "writes_before": (
        "arguments.out[static_cast<int>(threadIdx.x) - 1] = 0.0f;",
        "writes 4 bytes outside",
    ),
    "writes_elsewhere": (
        "const_cast<float*>(arguments.in)[1 << 20] = 0.0f;",
        "writes 4 bytes outside",
    ),
    "same_place": ("arguments.out[threadIdx.x / 2] = 1.0f;", "a race in global memory"),
    "two_blocks": ("arguments.out[threadIdx.x] = 1.0f;", "a race in global memory"),
    "no_barrier": (shared(""), "a race in shared memory"),
    "shuffle_is_no_barrier": (
        shared("__shfl_sync(kAllLanes, 1, 0);"),
        "a race in shared memory",
    ),
    "barrier_of_one_warp": (
        shared("__syncwarp();", "63 - threadIdx.x"),
        "a race in shared memory",
    ),
    "overwritten": (
        shared("__syncthreads();", after="values[threadIdx.x] = 0.0f;"),
        "a race in shared memory",
    ),
    "missing_at_barrier": (
        "arguments.out[threadIdx.x] = 0.0f; if (threadIdx.x != 5) __syncthreads();",
        "waits for ever: 63 threads at __syncthreads",
    ),
    "missing_at_shuffle": (
        "if (lane() != 5) arguments.out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);",
        "62 at warp operations",
    ),
    "index": (
        "float own[4] = {}; own[threadIdx.x / 8] = 1.0f; arguments.out[threadIdx.x] = own[0];",
        "undefined behaviour: an index outside of an array in line",
    ),
    "shift": (
        "arguments.out[threadIdx.x] = 1 << threadIdx.x;",
        "undefined behaviour: a shift by too many bits in line",
    ),
    "conversion": (
        "arguments.out[threadIdx.x] = static_cast<uint16_t>(-2 * arguments.in[threadIdx.x]);",
        "undefined behaviour: a float beyond the integers",
    ),
    "shuffle_outside_mask": (
        "if (lane() < 2) arguments.out[threadIdx.x] = __shfl_sync(3u, 1.0f, 2);",
        "outside its mask",
    ),
}


def run(name: str, out: torch.Tensor, blocks: int = 1, seed: int = 0) -> list[float]:
    """What a kernel of 64 threads writes; its input is 0, 1, ..., 63."""
    bodies = {
        **{name: operation(expression) for name, (expression, _) in OPERATIONS.items()},
        **CORRECT,
        **{name: body for name, (body, _) in WRONG.items()},
    }
    launch_body(bodies, name, torch.arange(64.0), out, blocks, seed)
    return out.tolist()


def nothing(count: int = 64) -> torch.Tensor:
    return torch.full((count,), torch.nan)


@pytest.mark.parametrize("seed", range(5))
def test_shuffles_and_barriers_give_the_sum_of_a_block(seed: int) -> None:
    assert run("sum", nothing(1), seed=seed) == [2016]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_a_warp(name: str) -> None:
    assert run(name, nothing()) == [OPERATIONS[name][1](i) for i in range(64)]


def test_lanes_of_a_partial_mask_exchange_alone() -> None:
    expected = [i ^ 1 if i % 32 < 8 else i for i in range(64)]
    assert run("partial_mask", nothing()) == expected


def test_atomic_additions_are_no_race() -> None:
    assert run("atomic", torch.zeros(1), blocks=3) == [3 * 2016]


@pytest.mark.parametrize("name", ["warp_barrier", "block_barrier"])
def test_shared_memory_after_a_barrier(name: str) -> None:
    assert run(name, nothing()) == [i ^ 1 for i in range(64)]


def test_shared_memory_starts_as_nan_in_every_block() -> None:
    assert torch.tensor(run("fresh_memory", torch.zeros(128), blocks=2)).isnan().all()


@pytest.mark.parametrize("name", WRONG)
def test_what_a_kernel_does_wrong_is_found(name: str) -> None:
    with pytest.raises(EmulationError, match=WRONG[name][1]):
        run(name, nothing(), blocks=2 if name == "two_blocks" else 1)


def test_threads_run_in_another_order_with_another_seed() -> None:
    first = {run("first", torch.zeros(2), seed=seed)[1] for seed in range(8)}
    assert len(first) > 3
