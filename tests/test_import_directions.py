# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and the layers that must stay light import no torch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down; a package imports itself and what is in later groups.
LAYERS = [
    ["viewer_server", "reconstruction", "full_evaluation", "many_scenes"],
    ["gaussian_compression"],
    ["gaussian_renderer"],
    ["scene"],
    ["splat_formats"],
    ["splat_codec"],
    ["utils", "arguments", "lpipsPyTorch"],
]
PACKAGES = [package for layer in LAYERS for package in layer]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
# These exist for third-party code, which looks for the names there; nothing here imports them.
REEXPORTS = {
    ROOT / "utils" / "camera_utils.py": {"scene"},
    ROOT / "utils" / "make_depth_scale.py": {"scene"},
}
# `splat_formats` reports its faults and writes its files through these two leaf modules.
WITHOUT_TORCH = [
    *sorted((ROOT / "splat_formats").rglob("*.py")),
    *sorted((ROOT / "splat_codec").rglob("*.py")),
    *sorted((ROOT / "viewer_server").rglob("*.py")),
    *sorted((ROOT / "many_scenes").rglob("*.py")),
    ROOT / "utils" / "__init__.py",
    ROOT / "utils" / "errors.py",
    ROOT / "utils" / "files.py",
]


def imports_of(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it, type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top_level(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def layer_of(package: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if package in layer)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_is_below_them(package: str) -> None:
    files = files_of(package)
    assert files
    above = {other for other in PACKAGES if layer_of(other) < layer_of(package)}
    beside = {
        other for other in PACKAGES if layer_of(other) == layer_of(package) and other != package
    }
    if package == "arguments":  # it writes cfg_args by utils.files
        beside = beside - {"utils"}
    # Below the scene lie only leaves, except that formats use the error type and atomic files.
    forbidden = above | SCRIPTS | (set() if package != "utils" else beside)
    wrong = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in files
        for name in top_level(imports_of(path)) & forbidden - REEXPORTS.get(path, set())
    }
    assert not wrong


def test_reexports_are_for_others() -> None:
    for path, _ in REEXPORTS.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        ours = [*ROOT.glob("*.py"), *(file for package in PACKAGES for file in files_of(package))]
        assert not [file.name for file in ours if module in set(imports_of(file))]


def test_arguments_need_only_the_standard_library() -> None:
    # utils.files, which writes cfg_args, and what that imports need no more either.
    leaves = {
        "arguments",
        "arguments.ranges",
        "arguments.milestones",
        "utils",
        "utils.files",
        "utils.errors",
    }
    for path in [
        *files_of("arguments"),
        *(ROOT / "utils" / f"{n}.py" for n in ("files", "errors")),
    ]:
        ours = {name for name in imports_of(path) if name.partition(".")[0] in PACKAGES}
        assert {name for name in ours if name.count(".") < 2} <= leaves
        assert top_level(imports_of(path)) - {"arguments", "utils"} <= set(sys.stdlib_module_names)


def test_one_place_chooses_by_the_device() -> None:
    """How something is computed on a device is the backend's business.

    `rasterizer` and `photometric` check what third-party packages support, `fingerprint` records
    the machine, `speed` waits for the device and names it.
    """
    allowed = {"choose_backend.py", "rasterizer.py", "photometric.py", "fingerprint.py", "speed.py"}
    layers = ("gaussian_compression", "gaussian_renderer", "scene")
    files = [path for package in layers for path in files_of(package)]
    found = {path.name for path in files if "device.type" in path.read_text(encoding="utf-8")}
    assert "choose_backend.py" in found
    assert found <= allowed


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_no_script_imports_a_script(path: Path) -> None:
    assert not top_level(imports_of(path)) & SCRIPTS


@pytest.mark.parametrize("path", WITHOUT_TORCH, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_light_modules_import_no_torch_even_indirectly(path: Path) -> None:
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        names = set(imports_of(file))
        assert "torch" not in top_level(iter(names)), file
        waiting += [found for name in names for found in own_files(name)]


def own_files(module: str) -> list[Path]:
    """The files that importing `module` runs, if it is one of this project's."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return []
    found = []
    for length in range(1, len(parts) + 1):
        stem = ROOT.joinpath(*parts[:length])
        candidates = (stem / "__init__.py", stem.with_suffix(".py"))
        found += [candidate for candidate in candidates if candidate.is_file()]
    return found


def test_codec_stands_alone() -> None:
    others = [package for package in PACKAGES if package != "splat_codec"]
    for path in files_of("splat_codec"):
        assert not top_level(imports_of(path)) & {*others, *SCRIPTS}
