# SPDX-License-Identifier: Apache-2.0
"""Files for others' machines, which the tests cannot run: containers, notebooks, wheels' builds."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import plane_coder
import pytest

ROOT = Path(__file__).parents[1]
SUBMODULES = ROOT / "submodules"
PACKAGES = sorted(path.parent.name for path in SUBMODULES.glob("*/pyproject.toml"))
SCRIPTS = {path.stem.replace("_", "-"): path for path in ROOT.glob("*.py")}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_have_valid_cells_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) > 3
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse("".join(line for line in cell["source"] if not line.startswith("!")))


def commands_in(text: str) -> list[tuple[str, set[str]]]:
    """Each `fast3dgs COMMAND` in a text, and its long options."""
    lines = re.findall(r"fast3dgs ([a-z-]+) ([^#\n`]*)", text)
    return [(name, set(re.findall(r"(--\w+)", options))) for name, options in lines]


def test_notebooks_use_commands_and_options_that_exist() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("arguments/*.py"))
    found = [item for path in NOTEBOOKS for item in commands_in(path.read_text("utf-8"))]
    assert {name for name, _ in found} == {"sample-scene", "train", "compress", "decompress"}
    for name, options in found:
        known = SCRIPTS[name].read_text(encoding="utf-8") + sources
        missing = {
            option for option in options
            if f'"{option}"' not in known and not re.search(rf"\b{option[2:]}\b", known)
        }  # fmt: skip
        assert not missing, name


def test_the_editors_container_is_set_up_as_the_tests_are() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert "WITH_DEV=1" in container["postCreateCommand"]
    assert "tools/setup.sh" in container["postCreateCommand"]


def test_the_image_installs_the_scripts_and_all_kernels() -> None:
    text = (ROOT / "Dockerfile").read_text()
    pattern = re.search(r"pip install --no-cache-dir \. \./submodules/(\S+)/\n", text)
    assert pattern
    assert sorted(path.name for path in SUBMODULES.glob(pattern[1])) == PACKAGES


def test_wheels_are_built_of_every_kernel_package() -> None:
    workflow = (ROOT / ".github" / "workflows" / "wheels.yml").read_text()
    listed = re.search(r"package: \[(.*)\]", workflow)
    assert listed and sorted(listed[1].split(", ")) == PACKAGES
    settings = tomllib.loads((ROOT / "tools" / "cibuildwheel.toml").read_text())
    assert "tools/cibuildwheel.toml" in workflow
    assert (ROOT / "tools" / "wheel_check.py").is_file()
    assert "tools/wheel_check.py" in settings["tool"]["cibuildwheel"]["test-command"]


def test_the_check_of_a_wheel_loads_its_library() -> None:
    check = [sys.executable, str(ROOT / "tools" / "wheel_check.py")]
    for package in PACKAGES:
        done = subprocess.run([*check, f"submodules/{package}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{package.replace('-', '_')}: the library for ")
    done = subprocess.run([*check, "submodules/other"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: other is not installed\n"


def native_sources() -> list[Path]:
    """The C++ of the kernels, without the emulation of CUDA, which only the tests compile."""
    folders = [SUBMODULES / "common", *(SUBMODULES / package / "native" for package in PACKAGES)]
    files = [path for folder in folders for path in folder.iterdir()]
    return [p for p in files if p.suffix in (".cpp", ".h") and not p.stem.startswith("cuda_")]


def test_only_one_header_says_how_functions_are_exported() -> None:
    assert len(native_sources()) > 20
    for path in native_sources():
        text = path.read_text(encoding="utf-8")
        assert ("visibility(" in text) == (path.name == "export.h"), path
        assert not re.search(r'^extern "C"', text, re.M) or path.name == "export.h", path


def test_headers_of_one_system_are_guarded() -> None:
    """unistd.h, sys/mman.h and the like do not exist on Windows, windows.h only there."""
    for path in native_sources():
        depth = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            depth += line.startswith("#if") - line.startswith("#endif")
            if re.match(r"#include <(unistd|sys/|time|windows|malloc|cpuid)", line):
                assert depth > 0, (path, line)


def test_the_level_by_cpuid_is_that_of_the_compilers_check(tmp_path: Path) -> None:
    """The branch for Windows, compiled here; both are in cpu_level.h."""
    compiler = shutil.which("c++") or shutil.which("clang++")
    _, instruction_set = plane_coder._native.load_library()
    if compiler is None or instruction_set == "generic":
        pytest.skip("needs a C++ compiler on x86-64")
    (tmp_path / "level.cpp").write_text(
        '#include <cstdio>\n#include "cpu_level.h"\n'
        'int main() { std::printf("%d", cpu_level()); }\n'
    )
    printed = {}
    for name, flags in (("cpuid", ["-DFAST3DGS_CPUID"]), ("compiler", [])):
        program = tmp_path / name
        command = [compiler, "-std=c++17", *flags, f"-I{SUBMODULES / 'common'}"]
        subprocess.run([*command, str(tmp_path / "level.cpp"), "-o", str(program)], check=True)
        printed[name] = subprocess.run([str(program)], capture_output=True, check=True).stdout
    assert printed["cpuid"] == printed["compiler"] in (b"2", b"3", b"4")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_kernels_compile_for_windows(package: str) -> None:
    """With Clang and MinGW's headers (Debian: clang-19 g++-mingw-w64-x86-64-posix)."""
    compiler = next(filter(None, map(shutil.which, ("clang++-19", "clang++"))), None)
    if compiler is None or not Path("/usr/x86_64-w64-mingw32").is_dir():
        pytest.skip("Clang and MinGW are not installed")
    sources = sorted((SUBMODULES / package / "native").glob("*.cpp"))
    if package == "diff-gaussian-rasterization":  # the others include only headers of this one
        sources = [path for path in sources if path.name == "rasterizer.cpp"]
    flags = ["-std=c++17", "-march=x86-64-v2", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, "--target=x86_64-w64-mingw32", *flags, f"-I{SUBMODULES / 'common'}"]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
