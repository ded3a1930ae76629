# SPDX-License-Identifier: Apache-2.0
"""The packages in submodules/: shared files, building without PyTorch, choice of the library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fused_ssim
import pytest
import torch
from emulated_kernels import launch_layer, source_of
from fused_ssim import l1_ssim_value_and_gradient
from simple_knn._C import distCUDA2

SUBMODULES = Path(__file__).parents[1] / "submodules"
PACKAGES = {
    "diff-gaussian-rasterization": "diff_gaussian_rasterization",
    "fused-ssim": "fused_ssim",
    "plane-coder": "plane_coder",
    "simple-knn": "simple_knn",
}
LEVELS = ["v2", "v3", "v4"]


def test_every_way_to_install_has_every_package() -> None:
    """tools/setup.sh installs each folder with a pyproject.toml."""
    assert {path.parent.name for path in SUBMODULES.glob("*/pyproject.toml")} == set(PACKAGES)
    listed = (SUBMODULES.parent / "environment.yml").read_text()
    assert all(f"- ./submodules/{package}\n" in listed for package in PACKAGES)


def test_every_package_starts_the_shared_build() -> None:
    first, *others = (SUBMODULES / package / "setup.py" for package in PACKAGES)
    assert [str(o) for o in others if o.read_bytes() != first.read_bytes()] == []
    own = {path.name for package in PACKAGES for path in (SUBMODULES / package).rglob("native/*")}
    assert not own & {path.name for path in (SUBMODULES / "common").iterdir()}


def copy_sources(folder: Path) -> Path:
    """A copy of submodules/ without anything that was built."""
    built = ("*.so", "build", "dist", "*.egg-info", "__pycache__", "_native.py", "_cuda.py", "cuda")
    copy = Path(
        shutil.copytree(SUBMODULES, folder / "submodules", ignore=shutil.ignore_patterns(*built))
    )
    for name in ("_native.py", "_cuda.py"):
        shutil.copy(SUBMODULES / "common" / name, copy / "common")
    return copy


def without_torch(folder: Path) -> dict[str, str]:
    """Environment variables with which importing torch fails."""
    blocked = folder / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "torch.py").write_text("raise ImportError('torch is not available at build time')\n")
    return {**os.environ, "PYTHONPATH": str(blocked)}


def build_wheel(sources: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel of a source folder or an sdist into `folder`, without torch."""
    command = [
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--disable-pip-version-check", "-w", str(folder), str(sources)),
    ]
    environment = {**without_torch(folder), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def build_in_place(package: Path, hook: str, target: Path) -> Path:
    """The file that a hook of PEP 517 or 660 builds from a package's folder."""
    program = f"from setuptools import build_meta; build_meta.{hook}({str(target)!r})"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=package,
        env=without_torch(target),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (made,) = [path for path in target.iterdir() if path.is_file()]
    return made


def unpack(wheel: Path, folder: Path) -> Path:
    assert "-py3-none-" in wheel.name
    assert not wheel.stem.endswith("-any")
    shutil.unpack_archive(wheel, folder / "installed", "zip")
    return folder / "installed"


def run_python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


# What each package computes alone, and where it was imported from.
PROGRAMS = {
    "fused-ssim": (
        "import fused_ssim as module, torch; image = torch.ones(3, 8, 8);"
        "assert module.l1_ssim_value_and_gradient(image, image)[0] == 0;"
        "print(module.__file__)"
    ),
    "diff-gaussian-rasterization": (
        "import diff_gaussian_rasterization as module, torch; points = torch.zeros(1, 3);"
        "from diff_gaussian_rasterization import _C; eye = torch.eye(4);"
        "assert not _C.mark_visible(points, eye, eye).any(); print(module.__file__)"
    ),
    "plane-coder": (
        "import plane_coder as module, numpy; tokens = numpy.full(9, 7, numpy.uint8);"
        "keys = numpy.zeros(9, numpy.int16); module.add_energy(keys, tokens);"
        "assert keys.tolist() == [28] * 9; print(module.__file__)"
    ),
    "simple-knn": (
        "import simple_knn._C as module, torch; points = torch.ones(9, 3);"
        "assert module.distCUDA2(points).tolist() == [0] * 9; print(module.__file__)"
    ),
}


def check_it_runs(package: str, folder: Path) -> None:
    """The package in `folder` computes what it should."""
    result = run_python(PROGRAMS[package], PYTHONPATH=str(folder))
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(folder)


@pytest.mark.parametrize("package", ["diff-gaussian-rasterization", "fused-ssim", "simple-knn"])
def test_package_builds_from_its_folder_without_torch(tmp_path: Path, package: str) -> None:
    result = build_wheel(copy_sources(tmp_path) / package, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = unpack(wheel, tmp_path)
    check_it_runs(package, installed)
    check_cuda_sources(package, installed / PACKAGES[package] / "cuda")


def check_cuda_sources(package: str, folder: Path) -> None:
    """An installed package has all CUDA sources, with the headers that they include."""
    names = [path.stem for path in (SUBMODULES / package / "native").glob("*.cu")]
    assert sorted(path.stem for path in folder.glob("*.cu")) == sorted(names)
    for name in names:
        assert launch_layer().Source.read(name, (folder,)) == source_of(package, name)


def test_package_builds_from_its_sdist_alone(tmp_path: Path) -> None:
    sources, made = copy_sources(tmp_path), tmp_path / "made"
    made.mkdir()
    sdist = build_in_place(sources / "plane-coder", "build_sdist", made)
    shutil.rmtree(sources)
    result = build_wheel(sdist, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    check_it_runs("plane-coder", unpack(wheel, tmp_path))


def test_editable_package_runs_from_its_folder(tmp_path: Path) -> None:
    package, made = copy_sources(tmp_path) / "plane-coder", tmp_path / "made"
    made.mkdir()
    build_in_place(package, "build_editable", made)
    check_it_runs("plane-coder", package)


def test_a_folder_without_the_shared_one_is_named(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path)
    shutil.rmtree(sources / "common")
    result = build_wheel(sources / "simple-knn", tmp_path)
    assert result.returncode != 0
    assert "common/build_kernels.py was not found" in result.stdout + result.stderr


def test_missing_compiler_is_named(tmp_path: Path) -> None:
    package = copy_sources(tmp_path) / "simple-knn"
    empty = tmp_path / "empty"
    empty.mkdir()
    result = build_wheel(package, tmp_path, PATH=str(empty), CXX="")
    assert result.returncode != 0
    assert "no C++ compiler was found: install one" in result.stdout + result.stderr
    result = build_wheel(package, tmp_path, CXX="no-such-compiler -O2")
    assert result.returncode != 0
    assert "named by CXX, 'no-such-compiler', was not found" in result.stdout + result.stderr


def test_compiler_errors_are_shown(tmp_path: Path) -> None:
    package = copy_sources(tmp_path) / "simple-knn"
    with (package / "native" / "knn.cpp").open("a") as source:
        source.write("#error the moon is full\n")
    result = build_wheel(package, tmp_path)
    assert result.returncode != 0
    assert "the moon is full" in result.stdout + result.stderr
    assert "the C++ compiler failed" in result.stdout + result.stderr


@pytest.mark.parametrize("contents", [None, b"", b"no library at all"])
def test_libraries_that_are_missing_or_damaged_are_named(
    tmp_path: Path, contents: bytes | None
) -> None:
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("from ._native import load_library\nload_library()\n")
    shutil.copy(SUBMODULES / "common" / "_native.py", package)
    if contents is not None:
        (package / "_native_generic.so").write_bytes(contents)
    result = subprocess.run(
        [sys.executable, "-S", "-c", "import a_package"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    reason = "has no compiled library" if contents is None else "cannot load its compiled library"
    assert f"ImportError: a_package {reason}" in result.stderr
    assert "install it with pip again" in result.stderr


# Prints what both packages compute from fixed inputs; the test compares it with its own results.
PROGRAM = """
import json, torch, fused_ssim
from simple_knn._C import distCUDA2, instruction_set
generator = torch.Generator().manual_seed(0)
x, y = torch.rand((2, 3, 50, 70), generator=generator)
points = torch.randn((500, 3), generator=generator)
l1, ssim, gradient = fused_ssim.l1_ssim_value_and_gradient(x, y)
print(json.dumps({
    "sets": [fused_ssim.instruction_set, instruction_set], "l1": l1, "ssim": ssim,
    "gradient": gradient.flatten().tolist(), "distances": distCUDA2(points).tolist(),
}))
"""


def runnable_levels() -> list[str]:
    """The x86-64 levels that this processor has; none on another architecture."""
    own = fused_ssim.instruction_set.removeprefix("x86-64-")
    return [level for level in LEVELS if own in LEVELS and level <= own]


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set_gives_the_same_numbers(level: str) -> None:
    if level not in runnable_levels():
        pytest.skip(f"this processor has no {level}")
    result = run_python(PROGRAM, FAST3DGS_ISA=level)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["sets"] == [f"x86-64-{level}"] * 2

    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand((2, 3, 50, 70), generator=generator)
    points = torch.randn((500, 3), generator=generator)
    l1, ssim, gradient = l1_ssim_value_and_gradient(x, y)
    assert found["l1"] == pytest.approx(l1, rel=1e-7)
    assert found["ssim"] == pytest.approx(ssim, rel=1e-6)
    difference = torch.tensor(found["gradient"]) - gradient.flatten()
    assert float(difference.norm() / gradient.norm()) < 5e-6
    distances = torch.tensor(found["distances"])
    torch.testing.assert_close(distances, distCUDA2(points), rtol=1e-6, atol=0)


def test_unknown_instruction_set_is_refused() -> None:
    if not runnable_levels():
        pytest.skip("not an x86-64 processor")
    result = run_python("import fused_ssim", FAST3DGS_ISA="v9")
    assert result.returncode != 0
    assert "FAST3DGS_ISA must be v2, v3 or v4, not 'v9'" in result.stderr
