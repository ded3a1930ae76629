# SPDX-License-Identifier: Apache-2.0
"""The metadata of a file, and decompress.py --info."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaussian_compression.file_metadata import changed_settings, up_axis
from gaussian_compression.settings import CompressionSettings, GridSettings, StoppingRule
from splat_codec.model_file import bytes_per_section

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


def info(file: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "decompress.py", file, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "version", "degree"), [("good_v1_sh3", 1, 3), ("good_v2_sh2", 2, 2)]
)
def test_info_describes_the_content(name: str, version: int, degree: int) -> None:
    file = GOLDEN / f"{name}.f3dgs"
    done = info(file, "--info")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["version"], found["sh_degree"]) == (version, degree)
    assert found["bytes"] == sum(found["bytes_per_section"].values()) == file.stat().st_size
    assert found["metadata"] == ({"generator": "golden"} if version == 2 else {})
    if version == 2:
        assert found["gaussians_up_to_layer"][-1] == found["gaussians"] == 120


def test_info_of_the_first_layer_of_a_file_cut_behind_it(tmp_path: Path) -> None:
    data = (GOLDEN / "good_v2_sh2.f3dgs").read_bytes()
    sizes = bytes_per_section(data)
    first = sizes["container"] + sizes["model"] + sizes["tables"] + sizes["rans0"] + sizes["bits0"]
    cut = tmp_path / "cut.f3dgs"
    cut.write_bytes(data[: first + sizes.get("far0", 0) + 5])
    done = info(cut, "--info", "--layers", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["gaussians_up_to_layer"] == [14]
    assert found["bytes_per_section"] == sizes
    assert found["bytes"] == len(data)
    assert info(cut, "--info").returncode == 1


def test_neither_ply_nor_info_is_refused() -> None:
    done = info(GOLDEN / "good_v2_sh0.f3dgs")
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected a file to write")
    damaged = info(GOLDEN / "bad_cut_short.f3dgs", "--info")
    assert damaged.returncode == 1
    assert damaged.stdout == ""


def test_settings_are_listed_where_they_differ() -> None:
    preset = CompressionSettings(grids=GridSettings())
    assert changed_settings(preset.to_json(), preset.to_json()) == {}
    settings = replace(
        preset,
        stopping=StoppingRule(max_rounds=12),
        grids=GridSettings(noise=0.05),
        keep_rounds=True,
    )
    changed = changed_settings(settings.to_json(), preset.to_json())
    assert changed == {
        "stopping": {"max_rounds": 12},
        "grids": {"noise": 0.05},
        "keep_rounds": True,
    }


def looking(forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def test_up_is_what_cameras_around_an_object_agree_on() -> None:
    generator = np.random.default_rng(0)
    up = np.array([0.6, 0.0, 0.8])
    forwards = generator.normal(size=(40, 3))
    forwards -= (forwards @ up * 0.9)[:, None] * up
    forwards /= np.linalg.norm(forwards, axis=1, keepdims=True)
    found = up_axis([looking(forward, up) for forward in forwards])
    assert found is not None
    assert np.degrees(np.arccos(min(1.0, float(np.array(found) @ up)))) < 3
    assert up_axis([]) is None
    around = [np.linalg.qr(generator.normal(size=(3, 3)))[0] for _ in range(500)]
    assert up_axis(around) is None
