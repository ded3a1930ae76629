# SPDX-License-Identifier: Apache-2.0
"""Compression without photographs, as a command and as a function."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaussian_compression.model_folder import Outputs, StartModel
from gaussian_compression.report import read_report
from gaussian_compression.training_free import FreeSettings, compress_without_training
from gaussian_compression.visible_errors import SCALES, lines, visible_errors
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import decode
from splat_formats.decoded import to_splats
from splat_formats.files import read_splats, write_splats
from splat_formats.ply import read_ply, write_ply
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats
from utils.errors import InputError

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def visible_splats(count: int, sh_degree: int) -> Splats:
    """Gaussians that images can show, all of them."""
    splats = random_splats(count, sh_degree)
    return replace(splats, opacity=np.clip(splats.opacity, -5, None))


def compressed(splats: Splats, **settings: object) -> Outputs:
    start = StartModel(Path("start.ply"), 0, SplatScene(splats), 10_000)
    return compress_without_training(start, 1, FreeSettings(**settings))


def test_from_ply_to_file_and_back(tmp_path: Path) -> None:
    ply, out = tmp_path / "scene.ply", tmp_path / "out"
    write_ply(ply, random_splats(400, 2))
    done = run("compress.py", "--training_free", "--start_ply", ply, "-m", out, "--sh_degree", "1")
    assert done.returncode == 0, done.stderr
    assert "good up to an rms of" in done.stdout
    report = read_report(out / "compressed" / "report.json")
    file = out / "compressed" / "model.f3dgs"
    assert report.compressed.bytes == file.stat().st_size
    assert report.compressed.sh_degree == 1
    assert report.errors["opacity"].max < 2
    decoded = read_ply(out / "point_cloud" / "iteration_1" / "point_cloud.ply")
    assert decoded.count == report.compressed.gaussians == 400 - report.start.dropped
    for layers, count in (("2", decoded.count), ("1", int(0.12 * decoded.count))):
        again = tmp_path / f"{layers}.ply"
        done = run("decompress.py", file, again, "--layers", layers)
        assert done.returncode == 0, done.stderr
        assert read_ply(again).count == count
    np.testing.assert_array_equal(read_ply(tmp_path / "2.ply").xyz, decoded.xyz)


def test_position_bits_are_those_of_the_settings() -> None:
    splats, errors = random_splats(2000, 0), []
    for bits in (12, 16, 20):
        result = compressed(splats, position_bits=bits)
        model = decode(result.data)
        assert isinstance(model.splats, GridSplats)
        assert model.splats.grids.position.bits == bits
        assert model.metadata["settings"]["position_bits"] == bits
        errors.append(result.report.errors["xyz"].rms)
    assert errors[0] > errors[1] > 0


def test_what_cannot_be_compressed_is_refused(tmp_path: Path) -> None:
    done = run("compress.py", "--training_free", "--start_ply", tmp_path / "no.ply", "-m", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no file at")
    with pytest.raises(InputError, match="expected at most 1, the model"):
        compressed(random_splats(5, 1), sh_degree=3)
    with pytest.raises(InputError, match="found none among 0"):
        compressed(random_splats(0, 0))


def test_qualities_are_in_order_and_non_finite_gaussians_dropped() -> None:
    splats = visible_splats(3000, 3)
    splats.opacity[7] = np.nan
    results = [compressed(splats, quality=quality) for quality in ("high", "medium", "low")]
    sizes = [len(result.data) for result in results]
    assert sizes == sorted(sizes, reverse=True)
    for result in results:
        assert result.report.start.gaussians == 3000
        assert result.report.start.dropped == 1
        assert any("dropped 1 Gaussian" in notice for notice in result.report.notices)
        np.testing.assert_array_equal(
            to_splats(decode(result.data).splats).features_rest, result.decoded.splats.features_rest
        )


def test_errors_are_in_units_that_can_be_seen() -> None:
    start = random_splats(50, 1)
    start.scaling[:] = np.log([4.0, 1.0, 1e-6])
    start.opacity[:] = 0
    start.rotation[:] = [1, 0, 0, 0]
    half, angle = np.float32(0.5), np.deg2rad(20) / 2
    decoded = replace(
        start,
        xyz=start.xyz + np.array([1, 0, 0], np.float32),  # half of the size, which is 2
        scaling=start.scaling + np.log(np.float32(1.1)),
        rotation=np.tile(np.float32([np.cos(angle), np.sin(angle), 0, 0]), (50, 1)),
        opacity=start.opacity + np.float32(np.log(0.6 / 0.4)),
        features_dc=start.features_dc + np.float32(8 / 255 / 0.28209479),  # at half opacity
        features_rest=start.features_rest + half,
    )
    found = visible_errors(start, decoded, np.arange(50))
    expected = {"xyz": 50, "scaling": 10, "rotation": 20, "opacity": 10, "features_dc": 4,
                "features_rest": 255 * 0.5 * np.sqrt(3 * 0.25 / (4 * np.pi))}  # fmt: skip
    for name, value in expected.items():
        assert found[name].rms == pytest.approx(value, rel=1e-3), name
        assert found[name].max == pytest.approx(value, rel=1e-2), name
    assert all("exceeded" in line for line in lines(found)[1:])
    same = visible_errors(start, start, np.arange(50))
    assert not any("exceeded" in line for line in lines(same))
    assert same.keys() == SCALES.keys()


def test_errors_include_dropped_harmonics() -> None:
    splats = visible_splats(300, 3)
    whole, cut = compressed(splats), compressed(splats, sh_degree=0)
    assert cut.decoded.splats.sh_degree == 0
    alpha = 1 / (1 + np.exp(-splats.opacity.astype(np.float64)))
    energy = np.square(splats.features_rest.astype(np.float64)).sum(axis=1) / (4 * np.pi)
    lost = 255 * np.sqrt(np.mean(energy * alpha**2))
    assert cut.report.errors["features_rest"].rms == pytest.approx(lost, rel=1e-3)
    assert whole.report.errors["features_rest"].rms < lost / 2


def test_render_mode_and_origin_are_kept(tmp_path: Path) -> None:
    metadata = SplatMetadata(antialiasing=True, origin=(5e5, 4e6, 100.0))
    write_splats(tmp_path / "a.ply", SplatScene(random_splats(100, 0), metadata))
    command = ("--training_free", "--start_ply", tmp_path / "a.ply", "-m", tmp_path / "out")
    assert run("compress.py", *command).returncode == 0
    assert "antialiasing=True" in (tmp_path / "out" / "cfg_args").read_text()
    ply = tmp_path / "out" / "point_cloud" / "iteration_1" / "point_cloud.ply"
    for path in (tmp_path / "out" / "compressed" / "model.f3dgs", ply):
        found = read_splats(path).metadata
        assert found.antialiasing
        np.testing.assert_allclose(found.origin, metadata.origin, atol=10)
