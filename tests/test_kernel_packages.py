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
from fused_ssim import l1_ssim_value_and_gradient
from simple_knn._C import distCUDA2

SUBMODULES = Path(__file__).parents[1] / "submodules"
PACKAGES = {
    "diff-gaussian-rasterization": "diff_gaussian_rasterization",
    "fused-ssim": "fused_ssim",
    "plane-coder": "plane_coder",
    "simple-knn": "simple_knn",
}
# Each package installs alone, so each has its own copy of these.
SHARED_FILES = [
    "setup.py",
    "MANIFEST.in",
    "native/cpu_level.h",
    "native/thread_pool.h",
    "{module}/_native.py",
]
LEVELS = ["v2", "v3", "v4"]


WITHOUT_THREADS = {"plane-coder"}


@pytest.mark.parametrize("name", SHARED_FILES)
def test_shared_files_are_copies_of_each_other(name: str) -> None:
    original, *copies = (
        SUBMODULES / package / name.format(module=module)
        for package, module in PACKAGES.items()
        if package not in WITHOUT_THREADS or "thread" not in name
    )
    changed = [str(copy) for copy in copies if copy.read_bytes() != original.read_bytes()]
    assert not changed, f"differ from {original}"


def copy_sources(package: str, folder: Path) -> Path:
    """A copy of the package's sources without anything that was built."""
    ignored = shutil.ignore_patterns("*.so", "build", "dist", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(SUBMODULES / package, folder / package, ignore=ignored))


def build_wheel(sources: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel into `sources`/dist, in an environment where importing torch fails."""
    poison = sources.parent / "poison"
    poison.mkdir(exist_ok=True)
    (poison / "torch.py").write_text("raise ImportError('torch is not there at build time')\n")
    environment = {**os.environ, "PYTHONPATH": str(poison), **variables}
    command = [
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--disable-pip-version-check", "-w", "dist", "."),
    ]
    return subprocess.run(
        command, cwd=sources, env=environment, capture_output=True, text=True, check=False
    )


def run_python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("package", "program"),
    [
        (
            "fused-ssim",
            "import fused_ssim as module, torch; image = torch.ones(3, 8, 8);"
            "assert module.l1_ssim_value_and_gradient(image, image)[0] == 0;"
            "print(module.__file__)",
        ),
        (
            "diff-gaussian-rasterization",
            "import diff_gaussian_rasterization as module, torch; points = torch.zeros(1, 3);"
            "from diff_gaussian_rasterization import _C; eye = torch.eye(4);"
            "assert not _C.mark_visible(points, eye, eye).any(); print(module.__file__)",
        ),
        (
            "plane-coder",
            "import plane_coder as module, numpy; tokens = numpy.full(9, 7, numpy.uint8);"
            "keys = numpy.zeros(9, numpy.int16); module.add_energy(keys, tokens);"
            "assert keys.tolist() == [28] * 9; print(module.__file__)",
        ),
        (
            "simple-knn",
            "import simple_knn._C as module, torch; points = torch.ones(9, 3);"
            "assert module.distCUDA2(points).tolist() == [0] * 9; print(module.__file__)",
        ),
    ],
)
def test_wheel_builds_without_torch_and_runs_alone(
    tmp_path: Path, package: str, program: str
) -> None:
    sources = copy_sources(package, tmp_path)
    result = build_wheel(sources)
    assert result.returncode == 0, result.stderr
    (wheel,) = (sources / "dist").glob("*.whl")
    assert "-py3-none-" in wheel.name
    assert not wheel.stem.endswith("-any")
    installed = tmp_path / "installed"
    shutil.unpack_archive(wheel, installed, "zip")
    result = run_python(program, PYTHONPATH=str(installed))
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed)


def test_missing_compiler_is_named(tmp_path: Path) -> None:
    sources = copy_sources("simple-knn", tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = build_wheel(sources, PATH=str(empty), CXX="")
    assert result.returncode != 0
    assert "no C++ compiler was found: install one" in result.stdout + result.stderr
    result = build_wheel(sources, CXX="no-such-compiler -O2")
    assert result.returncode != 0
    assert "named by CXX, 'no-such-compiler', was not found" in result.stdout + result.stderr


def test_compiler_errors_are_shown(tmp_path: Path) -> None:
    sources = copy_sources("simple-knn", tmp_path)
    with (sources / "native" / "knn.cpp").open("a") as source:
        source.write("#error the moon is full\n")
    result = build_wheel(sources)
    assert result.returncode != 0
    assert "the moon is full" in result.stdout + result.stderr
    assert "the C++ compiler failed" in result.stdout + result.stderr


def test_package_that_was_not_built_says_so(tmp_path: Path) -> None:
    copy = copy_sources("simple-knn", tmp_path)
    result = run_python("import simple_knn._C", PYTHONPATH=str(copy))
    assert result.returncode != 0
    assert "simple_knn has no compiled library: install it with pip" in result.stderr


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
