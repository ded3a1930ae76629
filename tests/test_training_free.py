# SPDX-License-Identifier: Apache-2.0
"""Compression without photographs, as a command and as a function."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaussian_compression.training_free import compress_without_training
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import decode
from splat_formats.decoded import to_splats
from splat_formats.ply import read_ply, write_ply
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats
from utils.errors import InputError

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_ply_to_file_and_back(tmp_path: Path) -> None:
    ply, out = tmp_path / "scene.ply", tmp_path / "out"
    write_ply(ply, random_splats(400, 2))
    done = run("compress.py", "--training_free", "--start_ply", ply, "-m", out, "--sh_degree", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "compressed" / "report.json").read_text())
    file = out / "compressed" / "model.f3dgs"
    assert report["bytes"] == file.stat().st_size
    assert report["sh_degree"] == 1
    assert report["errors"]["opacity"]["max"] < 0.1
    decoded = read_ply(out / "point_cloud" / "iteration_1" / "point_cloud.ply")
    invisible = report["adjustments"]["invisible_dropped"]
    assert decoded.count == report["gaussians"] == 400 - invisible
    for layers, count in (("2", decoded.count), ("1", int(0.12 * decoded.count))):
        again = tmp_path / f"{layers}.ply"
        done = run("decompress.py", file, again, "--layers", layers)
        assert done.returncode == 0, done.stderr
        assert read_ply(again).count == count
    np.testing.assert_array_equal(read_ply(tmp_path / "2.ply").xyz, decoded.xyz)


def test_position_bits_are_those_asked_for() -> None:
    splats, errors = random_splats(2000, 0), []
    for bits in (12, 16, 20):
        result = compress_without_training(splats, position_bits=bits)
        model = decode(result.data)
        assert isinstance(model.splats, GridSplats)
        assert model.splats.grids.position.bits == bits
        assert model.metadata["settings"]["position_bits"] == bits
        errors.append(result.report["errors"]["xyz"]["rms"])
    assert errors[0] > errors[1] > 0


def test_what_cannot_be_compressed_is_refused(tmp_path: Path) -> None:
    done = run("compress.py", "--training_free", "--start_ply", tmp_path / "no.ply", "-m", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no PLY at")
    with pytest.raises(InputError, match="only degree 1"):
        compress_without_training(random_splats(5, 1), sh_degree=3)
    with pytest.raises(InputError, match="no Gaussians"):
        compress_without_training(random_splats(0, 0))


def test_qualities_are_in_order_and_non_finite_gaussians_dropped() -> None:
    splats = random_splats(3000, 3)
    opacity = splats.opacity.copy()
    opacity[7] = np.nan
    broken = Splats(splats.xyz, splats.features_dc, splats.features_rest, opacity, splats.scaling,
                    splats.rotation)  # fmt: skip
    results = [compress_without_training(broken, quality) for quality in ("high", "medium", "low")]
    sizes = [len(result.data) for result in results]
    assert sizes == sorted(sizes, reverse=True)
    for result in results:
        assert result.report["dropped_non_finite"] == 1
        np.testing.assert_array_equal(
            to_splats(decode(result.data).splats).features_rest, result.decoded.features_rest
        )
