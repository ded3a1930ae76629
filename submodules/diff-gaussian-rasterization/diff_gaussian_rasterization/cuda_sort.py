# SPDX-License-Identifier: Apache-2.0
"""Stable sorting and sums over arrays on a CUDA device, by the kernels of sort.cu.

Unsigned 32-bit numbers are held in int32 tensors.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ._cuda import Arguments, KernelRunner, pointer

_DIGIT_BITS = 8
_BLOCK_KEYS = 4096  # of sort.cu
_BLOCK_SCANNED = 2048  # likewise


class _SortArguments(Arguments):
    """Mirror of `SortArguments` in sort.cu."""

    _fields_ = (
        ("keys", pointer),
        ("values", pointer),
        ("sorted_keys", pointer),
        ("sorted_values", pointer),
        ("places", pointer),
        ("count", ctypes.c_int64),
        ("shift", ctypes.c_int32),
    )


class _ScanArguments(Arguments):
    """Mirror of `ScanArguments` in sort.cu."""

    _fields_ = (
        ("values", pointer),
        ("block_sums", pointer),
        ("count", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
    )


def sort_with_indices(kernels: KernelRunner, keys: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(the keys in ascending order, their indices); equal keys keep their order.

    `keys` int32 (N,), compared as unsigned numbers by their lowest `bits` bits, at least 1.
    """
    blocks = -(-len(keys) // _BLOCK_KEYS)
    places = keys.new_empty(blocks << _DIGIT_BITS)
    values: Tensor | None = None
    for shift in range(0, bits, _DIGIT_BITS):
        sorted_keys, sorted_values = torch.empty_like(keys), torch.empty_like(keys)
        arguments = _SortArguments(
            keys=keys,
            values=values,
            sorted_keys=sorted_keys,
            sorted_values=sorted_values,
            places=places,
            count=len(keys),
            shift=shift,
        )
        kernels.launch("radix_count", blocks, arguments)
        sum_up(kernels, places)
        kernels.launch("radix_scatter", blocks, arguments)
        keys, values = sorted_keys, sorted_values
    assert values is not None
    return keys, values


def sum_up(kernels: KernelRunner, values: Tensor) -> None:
    """Replace each number of `values`, int32 (N,), by the sum of those before it."""
    blocks = -(-len(values) // _BLOCK_SCANNED)
    sums = values.new_empty(blocks)
    arguments = _ScanArguments(values=values, block_sums=sums, count=len(values), blocks=blocks)
    kernels.launch("scan_blocks", blocks, arguments)
    if blocks > 1:
        kernels.launch("scan_top", 1, arguments)
        kernels.launch("scan_add", blocks, arguments)
