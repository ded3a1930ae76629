# SPDX-License-Identifier: Apache-2.0
"""Compiles native/*.cpp into the package, once per instruction set, with a C++ compiler alone.

The setup.py of each kernel package runs this file in its own folder. The libraries have a plain C
interface and use neither Python nor PyTorch, so one build serves every version of both. There is
one library per instruction set, and not one with all of them: a linker merges equal inline
functions, and could then keep the copy that an older processor cannot run. `_native.py`,
beside the libraries, selects one at run time; an sdist includes this folder.

CUDA sources, native/*.cu, are not compiled here: they become files of the package, with the headers
that they may include, and `_cuda.py` compiles them on the machine that has a GPU.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

SHARED = Path(__file__).resolve().parent
LOADER = "_native.py"
LAUNCHER = "_cuda.py"
CUDA_HEADER = "cuda_kernel.h"
SHARED_FILES = (
    *("build_kernels.py", LOADER, LAUNCHER, "cpu_level.h", "export.h", "thread_pool.h"),
    CUDA_HEADER,
)
SOURCES = sorted(path.as_posix() for path in Path("native").glob("*.cpp"))
HEADERS = sorted(path.as_posix() for path in Path("native").glob("*.h"))
KERNELS = sorted(path.as_posix() for path in Path("native").glob("*.cu"))

WINDOWS = os.name == "nt"
ENDING = ".dll" if WINDOWS else ".so"  # _native.py looks for the same
# The run-time libraries become part of each library: Python does not bring those of C++.
ONLY_WINDOWS = ("-fms-runtime-lib=static",)
# Fused multiply-adds are allowed, but nothing that reorders sums: results must not depend on the
# compiler.
FLAGS = [
    *("-std=c++17", "-O3", "-shared"),
    *(ONLY_WINDOWS if WINDOWS else ("-fPIC", "-pthread", "-fvisibility=hidden")),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Wno-psabi"),
]
X86_LEVELS = {f"x86-64-{level}": [f"-march=x86-64-{level}"] for level in ("v4", "v3", "v2")}
PLAIN: dict[str, list[str]] = {"generic": []}


def instruction_sets() -> dict[str, list[str]]:
    """Name of each library to build -> the compiler flags that make it."""
    return X86_LEVELS if platform.machine().lower() in ("x86_64", "amd64") else PLAIN


def find_compiler() -> list[str]:
    """The command of a C++ compiler: $CXX, else the first of c++, g++ and clang++ on the PATH.

    On Windows clang++ alone: Microsoft's compiler has no vector extension.
    """
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"], posix=not WINDOWS)
        if shutil.which(command[0]) is None:
            raise CompileError(f"the C++ compiler named by CXX, '{command[0]}', was not found.")
        return command
    for name in ("clang++",) if WINDOWS else ("c++", "g++", "clang++"):
        if shutil.which(name) is not None:
            return [name]
    raise CompileError(
        "no C++ compiler was found: install one (Debian/Ubuntu: `apt install g++`, macOS: "
        "`xcode-select --install`, conda: `conda install cxx-compiler`, Windows: `winget install "
        "LLVM.LLVM` and Visual Studio's build tools) or name it in CXX."
    )


def compile_library(
    compiler: list[str], flags: list[str], sources: list[str], target: Path
) -> None:
    """Write the shared library `target`; CompileError with the command where it cannot be built."""
    # Renamed when complete: a running program may have the old library mapped into its memory.
    unfinished = target.with_suffix(".tmp")
    command = [*compiler, *FLAGS, *flags, f"-I{SHARED}", *sources, "-o", str(unfinished)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        print(result.stderr)
        raise CompileError(
            "the C++ compiler failed (its output is above; GCC 11 or Clang 12 or newer is needed): "
            f"{shlex.join(command)}"
        )
    unfinished.replace(target)


class BuildLibraries(build_ext):
    """`build_ext` that makes plain shared libraries instead of Python extension modules."""

    def run(self) -> None:
        """Compile one library per instruction set, at the same time, and add the loader."""
        compiler = find_compiler()
        for source, target in self._copies(self._folder()).items():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
        with ThreadPoolExecutor() as pool:
            jobs = [
                pool.submit(compile_library, compiler, flags, self.extensions[0].sources, target)
                for target, flags in self._targets(self._folder()).items()
            ]
            for job in jobs:
                job.result()

    def get_outputs(self) -> list[str]:
        """The files that `run` writes."""
        folder = self._folder()
        return [str(path) for path in (*self._targets(folder), *self._copies(folder).values())]

    def get_output_mapping(self) -> dict[str, str]:
        """Built file -> source tree file: none, an editable build writes there directly."""
        return {}

    def _folder(self) -> Path:
        package = self.distribution.packages[0]
        if self.inplace or self.editable_mode:
            return Path(package)
        folder = Path(self.build_lib) / package
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @staticmethod
    def _copies(folder: Path) -> dict[Path, Path]:
        """File -> its copy in the package."""
        copies = {SHARED / LOADER: folder / LOADER}
        if KERNELS:
            copies[SHARED / LAUNCHER] = folder / LAUNCHER
            for source in (SHARED / CUDA_HEADER, *map(Path, (*HEADERS, *KERNELS))):
                copies[source] = folder / "cuda" / source.name
        return copies

    @staticmethod
    def _targets(folder: Path) -> dict[Path, list[str]]:
        sets = instruction_sets()
        return {folder / f"_native_{name}{ENDING}": flags for name, flags in sets.items()}


class CompleteSdist(sdist):
    """An sdist from which the package can be built elsewhere."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Add what the packages share to the package's own files."""
        super().make_release_tree(base_dir, files)
        folder = Path(base_dir) / "common"
        folder.mkdir()
        for name in SHARED_FILES:
            shutil.copyfile(SHARED / name, folder / name)


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Tags of the wheel: only the platform matters."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("_native", sources=SOURCES, depends=[*HEADERS, *KERNELS])],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel, "sdist": CompleteSdist},
)
