# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels on the CPU: the same sources, compiled with submodules/common/cuda_emulation.h.

The emulation checks bounds and races. Where the environment variable EMULATION_SANITIZERS is set,
Address- and UBSanitizer check instead; their library must then be loaded first (LD_PRELOAD).
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
COMMON = REPOSITORY / "submodules" / "common"
PACKAGES = ("diff-gaussian-rasterization", "fused-ssim", "simple-knn")
FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-unknown-pragmas", f"-I{COMMON}"),
]
UNDEFINED = "shift,bounds,signed-integer-overflow,integer-divide-by-zero,bool,float-cast-overflow"
CHECKED_BY_EMULATION = ["-fsanitize=thread", f"-fsanitize={UNDEFINED}"]
BY_SANITIZERS = "EMULATION_SANITIZERS"
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
CHECKED_BY_SANITIZERS = [*SANITIZERS, "-fsanitize-sections=emulated_shared", "-O1", "-g1"]


def launch_layer() -> Any:
    """submodules/common/_cuda.py, which the packages contain as a copy."""
    if "common_cuda" not in sys.modules:
        spec = importlib.util.spec_from_file_location("common_cuda", COMMON / "_cuda.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["common_cuda"] = module
        spec.loader.exec_module(module)
    return sys.modules["common_cuda"]


def native_folder(package: str) -> Path:
    return REPOSITORY / "submodules" / package / "native"


def cuda_files() -> list[tuple[str, str]]:
    """(package, name) of every CUDA source file."""
    return [
        (package, path.stem)
        for package in PACKAGES
        for path in sorted(native_folder(package).glob("*.cu"))
    ]


def source_of(package: str, name: str) -> Any:
    """The source as the package contains it: without the header for the emulation."""
    source = launch_layer().Source.read(name, (native_folder(package), COMMON))
    headers = {name: text for name, text in source.headers.items() if name != "cuda_emulation.h"}
    return dataclasses.replace(source, headers=headers)


class EmulationError(AssertionError):
    """What a kernel did wrong."""


class EmulatedKernels:
    """A KernelRunner whose kernels run on the CPU, on CPU tensors, with every access checked."""

    def __init__(self, library: Path, threads: dict[str, int], seed: int = 0) -> None:
        self._library, self._threads, self.seed = ctypes.CDLL(str(library)), threads, seed
        self._library.emulate.restype = ctypes.c_char_p
        self.launched: list[str] = []

    def launch_over(self, name: str, items: int, arguments: Any) -> None:
        self.launch(name, -(-items // self._threads[name]), arguments)

    def launch(self, name: str, blocks: int, arguments: Any) -> None:
        """Run a kernel; EmulationError if it breaks a rule (docs/gpu.md)."""
        if blocks == 0:
            return
        kernel = getattr(self._library, name)
        size = ctypes.c_uint32.in_dll(self._library, f"{name}_bytes").value
        threads = ctypes.c_uint32.in_dll(self._library, f"{name}_threads").value
        assert threads == self._threads[name]
        assert size == ctypes.sizeof(arguments), f"the structure of {name} is not mirrored exactly"
        buffers = [(t.data_ptr(), t.nbytes) for t in arguments.tensors]
        flat = [number for pair in buffers for number in pair]
        error = self._library.emulate(
            kernel,
            (ctypes.c_uint32 * 3)(blocks, 1, 1),
            threads,
            ctypes.byref(arguments),
            ctypes.c_uint64(size),
            (ctypes.c_uint64 * len(flat))(*flat),
            ctypes.c_uint64(len(buffers)),
            ctypes.c_uint64(self.seed),
        )
        self.launched.append(name)
        self.seed += 1
        if error is not None:
            raise EmulationError(f"{name}: {error.decode()}")


def emulated(package: str, name: str, seed: int = 0) -> EmulatedKernels:
    """The kernels of a source file of a package."""
    source = source_of(package, name)
    return EmulatedKernels(_library(native_folder(package) / f"{name}.cu"), source.kernels, seed)


_TWO = """
#include "cuda_kernel.h"
using namespace cuda;
struct Two { const float* in; float* out; };
"""


def launch_body(
    bodies: dict[str, str],
    name: str,
    given: Tensor,
    out: Tensor,
    blocks: int = 1,
    seed: int = 0,
) -> None:
    """Launch the kernel `name` of 64 threads, one of `bodies` by name, from `in` to `out`.

    For tests of the emulation itself. All bodies are compiled together, once.
    """
    layer = launch_layer()

    class Two(layer.Arguments):
        _fields_ = (("in", layer.pointer), ("out", layer.pointer))

    text = _TWO + "".join(f"KERNEL({n}, 64, Two) {{{body}}}\n" for n, body in bodies.items())
    _emulated_text(text, seed).launch(name, blocks, Two(**{"in": given, "out": out}))


def _emulated_text(text: str, seed: int) -> EmulatedKernels:
    path = _folder() / f"text_{abs(hash(text))}.cu"
    path.write_text(text)
    layer = launch_layer()
    source = layer.Source.read(path.stem, (path.parent, COMMON))
    return EmulatedKernels(_library(path), source.kernels, seed)


@functools.cache
def _folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="emulated")
    _HELD.append(holder)
    return Path(holder.name)


_HELD: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def _library(path: Path) -> Path:
    target = _folder() / f"{path.parent.parent.name}_{path.stem}.so"
    unit = target.with_suffix(".o")
    by_sanitizers = BY_SANITIZERS in os.environ
    checked = CHECKED_BY_SANITIZERS if by_sanitizers else CHECKED_BY_EMULATION
    source = ["-x", "c++", f"-I{path.parent}", "-c", str(path)]
    _compile([*FLAGS, *checked, *source, "-o", str(unit)])
    libraries = SANITIZERS if by_sanitizers else []
    _compile(["-shared", *libraries, str(unit), str(_scheduler()), "-o", str(target)])
    return target


@functools.cache
def _scheduler() -> Path:
    unit = _folder() / "scheduler.o"
    told = ["-DEMULATION_UNDER_SANITIZERS"] if BY_SANITIZERS in os.environ else []
    _compile([*FLAGS, *told, "-c", str(COMMON / "cuda_emulation.cpp"), "-o", str(unit)])
    return unit


def _compile(arguments: list[str]) -> None:
    environment = {**os.environ, "LD_PRELOAD": ""}  # the compiler need not be checked
    result = subprocess.run(
        ["g++", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        pytest.fail(result.stderr)
