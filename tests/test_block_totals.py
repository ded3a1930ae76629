# SPDX-License-Identifier: Apache-2.0
"""What a compression in blocks states of the whole model: notices, errors; and what it reads."""

from pathlib import Path

import numpy as np
import pytest

from gaussian_compression.free_settings import FreeSettings
from gaussian_compression.report import CompressionReport
from gaussian_compression.training_free_blocks import BlockedStart, compress_in_blocks
from gaussian_compression.visible_errors import visible_errors
from splat_formats.block_coding import decoded_blocks, index_of
from splat_formats.ply import write_ply
from splat_formats.ply_table import MappedPly
from splat_formats.repairs import Repairs, clamp_limits, showable
from splat_formats.row_source import RowSource, SceneRows, rows_of_ply
from splat_formats.scene import SplatScene
from splat_formats.spatial_blocks import spatial_blocks
from splat_formats.splats import joined
from tests.test_training_free import visible_splats


def blocked(folder: Path, rows: RowSource, **settings: object) -> CompressionReport:
    """The report of a model in two blocks."""
    start = BlockedStart(Path("start.ply"), 0, rows, 10_000)
    return compress_in_blocks(folder, start, 1, FreeSettings(blocks=2, **settings))


def test_gaussians_that_blocks_drop_are_named_together(tmp_path: Path) -> None:
    """Although the reasons differ from block to block."""
    splats = visible_splats(400, 0)
    first, second = spatial_blocks(splats.xyz, 2)
    splats.opacity[[*first[:2], second[0]]] = -np.inf
    splats.scaling[[first[3], *second[1:3]], 1] = np.inf
    splats.rotation[second[4], 0] = np.nan
    splats.opacity[[first[5], second[5]]] = np.inf
    report = blocked(tmp_path, SceneRows(SplatScene(splats)))
    assert [notice for notice in report.notices if "that no image can show" in notice] == [
        "dropped 7 Gaussians that no image can show: 3 with opacity -inf, 3 with an infinite size, "
        "1 with an opacity, size, rotation or colour that is not finite"
    ]
    assert report.notices.count("2 Gaussians with opacity +inf: fully opaque") == 1
    assert report.start.dropped == 7


def test_repairs_of_parts_are_those_of_the_whole() -> None:
    splats = visible_splats(60, 1)
    splats.opacity[[1, 40]] = np.inf
    splats.opacity[[2, 41, 42]] = -np.inf
    splats.xyz[43] = np.nan
    splats.scaling[44, 2] = -np.inf
    whole = showable(splats)
    parts = [showable(splats.rows(np.arange(*part))) for part in ((0, 30), (30, 60))]
    together = parts[0].repairs.plus(parts[1].repairs)
    assert together.notices == whole.notices and len(whole.notices) == 3
    assert sum(part.dropped for part in parts) == whole.dropped == 4
    assert Repairs().plus(whole.repairs) == whole.repairs
    assert Repairs().notices == ()
    assert clamp_limits(splats).notices == whole.notices[:2]


def test_errors_of_small_gaussians_are_measured_in_a_size_of_the_model(tmp_path: Path) -> None:
    """Not of the block: 8 tiny ones are less than 1 % of the model, and more of their block."""
    splats = visible_splats(1000, 0)
    splats.scaling[spatial_blocks(splats.xyz, 2)[0][:8]] -= 4
    report = blocked(tmp_path, SceneRows(SplatScene(splats)), position_bits=12)
    file = tmp_path / "compressed" / "model.f3dgs"
    whole = joined(list(decoded_blocks(file, index_of(file))))
    distance = np.linalg.norm(whole.xyz[:, None] - splats.xyz[None], axis=2)
    expected = visible_errors(splats, whole, distance.argmin(axis=1))
    for name in ("percentile_99", "max", "rms"):
        found = getattr(report.errors["xyz"], name)
        assert found == pytest.approx(getattr(expected["xyz"], name), rel=0.1)


def test_the_sample_of_a_big_model_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splat_formats.row_source._SAMPLE", 50)
    write_ply(tmp_path / "a.ply", visible_splats(200, 0))
    read: list[list[int]] = []
    whole = MappedPly.table
    monkeypatch.setattr(
        MappedPly,
        "table",
        lambda self, rows: (read.append(np.arange(self.count)[rows].tolist()), whole(self, rows))[
            1
        ],
    )
    rows = rows_of_ply(tmp_path / "a.ply")
    assert rows is not None
    blocked(tmp_path / "out", rows)
    assert read.count(list(range(0, 200, 4))) == 1
