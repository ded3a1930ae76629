# SPDX-License-Identifier: Apache-2.0
"""Programs that others wrote, for tests that compare with them; skipped where they are missing.

`tools/setup.sh` installs them with WITH_OTHERS=1.
"""

import json
import os
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from splat_formats.ply import read_ply, write_ply
from splat_formats.splats import Splats

_ROOT = Path(__file__).parents[1]
_INSTALLED = _ROOT / ".venv/others/node_modules/.bin/splat-transform"
_VALIDATOR = _ROOT / ".venv/others/node_modules/gltf-validator"
_VALIDATE = """
const { validateBytes } = require(process.argv[1]);
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[2]));
validateBytes(bytes).then((found) => console.log(JSON.stringify(found.issues.messages)));
"""
_SECONDS = 120


def splat_transform() -> str:
    """The path of PlayCanvas' splat-transform; the test is skipped where it is not installed."""
    named = os.environ.get("FAST3DGS_SPLAT_TRANSFORM")
    found = named or (str(_INSTALLED) if _INSTALLED.exists() else shutil.which("splat-transform"))
    if not found:
        pytest.skip("splat-transform is not installed (tools/setup.sh with WITH_OTHERS=1)")
    return found


def convert(source: Path, target: Path, *options: str) -> None:
    """Converts a file by splat-transform, without a GPU."""
    command = [splat_transform(), "-q", "-w", "-g", "cpu", *options, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr


def read_by_splat_transform(path: Path, folder: Path) -> Splats:
    """The Gaussians that splat-transform reads from a file of any format."""
    convert(path, folder / "read_by_splat_transform.ply")
    return read_ply(folder / "read_by_splat_transform.ply")


def write_by_splat_transform(splats: Splats, target: Path, *options: str) -> None:
    """Writes the Gaussians, in the format of the target's ending."""
    source = target.with_name("given_to_splat_transform.ply")
    write_ply(source, splats)
    convert(source, target, *options)


def gltf_issues(path: Path) -> list[dict[str, Any]]:
    """What Khronos' gltf-validator reports; the test is skipped where it is not installed."""
    package = Path(os.environ.get("FAST3DGS_GLTF_VALIDATOR", _VALIDATOR))
    if not package.exists() or not shutil.which("node"):
        pytest.skip("gltf-validator is not installed (tools/setup.sh with WITH_OTHERS=1)")
    command = ["node", "-e", _VALIDATE, str(package), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def gsply() -> ModuleType:
    """The package gsply; the test is skipped where it is not installed."""
    try:
        return import_module("gsply")
    except ImportError as error:
        pytest.skip(f"gsply cannot be imported: {error} (tools/setup.sh with WITH_OTHERS=1)")


def ray() -> ModuleType:
    """The package ray; the test is skipped where it is not installed."""
    try:
        return import_module("ray")
    except ImportError as error:
        pytest.skip(f"ray cannot be imported: {error} (tools/setup.sh with WITH_OTHERS=1)")


def assert_near(found: Splats, expected: Splats, bounds: dict[str, float]) -> None:
    """Compares the Gaussians, row by row, with the largest differences allowed: `xyz`,
    `features_dc`, `features_rest` and `scaling` in the units of Splats, `opacity` of 0 to 1,
    `rotation` in degrees between axes whose order and signs are the same."""
    assert found.count == expected.count
    assert found.sh_degree == expected.sh_degree
    for name in ("xyz", "features_dc", "features_rest", "scaling"):
        difference = np.abs(getattr(found, name) - getattr(expected, name).astype(np.float64))
        assert difference.max(initial=0) <= bounds[name], name
    difference = np.abs(alphas(found) - alphas(expected))
    assert difference.max(initial=0) <= bounds["opacity"], "opacity"
    assert angles(found, expected).max(initial=0) <= bounds["rotation"], "rotation"


def alphas(splats: Splats) -> np.ndarray:
    """(N, 1) opacities of 0 to 1."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-splats.opacity.astype(np.float64)))


def angles(one: Splats, other: Splats) -> np.ndarray:
    """(N,) degrees between the orientations."""
    units = [splats.rotation / np.linalg.norm(splats.rotation.astype(np.float64), axis=1)[:, None]
             for splats in (one, other)]  # fmt: skip
    # The chord is exact for small angles, unlike the cosine.
    chord = np.minimum(*(np.linalg.norm(units[0] + sign * units[1], axis=1) for sign in (1, -1)))
    return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1)))
