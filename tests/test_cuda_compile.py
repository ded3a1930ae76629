# SPDX-License-Identifier: Apache-2.0
"""Every CUDA source compiles, without a GPU: for three architectures, or for all in .ci/run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from emulated_kernels import COMMON, cuda_files, launch_layer, native_folder, source_of

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
if not os.environ.get("ALL_ARCHITECTURES"):  # a minute of CPU time
    ARCHITECTURES = ("sm_75", "sm_90", "sm_120")
FILES = cuda_files()
REGISTERS = 65536  # of a multiprocessor
MOST_OF_BLENDING = 64  # so that 1,024 threads fit on one
_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) reg", re.S
)


def nvrtc():
    """The compiler, or why it is missing."""
    layer = launch_layer()
    try:
        return layer.NvrtcCompiler()
    except layer.CudaMissingError as error:
        return str(error)


@pytest.fixture(scope="module")
def compiler():
    found = nvrtc()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def test_there_is_something_to_compile() -> None:
    assert FILES
    for package, name in FILES:
        source = source_of(package, name)
        assert source.kernels, name
        assert "cuda_kernel.h" in source.headers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("package", "name"), FILES, ids=[name for _, name in FILES])
def test_nvrtc_compiles_without_spills(compiler, package, name, architecture) -> None:
    source = source_of(package, name)
    image, log = compiler.compile(source, architecture)
    assert image.startswith(b"\x7fELF")
    assert "warning" not in log, log
    used = {kernel: (int(spilt), int(registers)) for kernel, spilt, registers in _USED.findall(log)}
    assert set(used) == set(source.kernels)
    for kernel, (spilt, registers) in used.items():
        print(f"{kernel}, {architecture}: {registers} registers, {spilt} bytes spilt")
        assert spilt == 0, f"{kernel} spills {spilt} bytes\n{log}"
        assert registers * source.kernels[kernel] <= REGISTERS, f"{kernel}: a block does not fit"
        assert name != "blend" or registers <= MOST_OF_BLENDING, f"{kernel}: {registers} registers"


@pytest.mark.parametrize(("package", "name"), FILES, ids=[name for _, name in FILES])
def test_nvcc_compiles_where_there_is_no_nvrtc(package: str, name: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None or not isinstance(nvrtc(), str):
        pytest.skip("NVRTC is there, or no nvcc is on the PATH")
    folder = native_folder(package)
    command = [
        *(nvcc, "-std=c++17", "--cubin", "-arch=sm_90", "-Werror", "all-warnings"),
        *(f"-I{COMMON}", f"-I{folder}", str(folder / f"{name}.cu"), "-o", str(tmp_path / "out")),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_error_in_a_source_is_shown(compiler) -> None:
    source = launch_layer().Source("broken", "KERNEL(a, 1, int) { nonsense; }", {})
    with pytest.raises(RuntimeError, match=r"cannot compile broken\.cu[\s\S]*nonsense"):
        compiler.compile(source, "sm_90")


def test_an_architecture_without_support_is_named(compiler) -> None:
    source = launch_layer().Source("empty", "", {})
    with pytest.raises(launch_layer().CudaMissingError, match="no support for sm_20"):
        compiler.compile(source, "sm_20")
