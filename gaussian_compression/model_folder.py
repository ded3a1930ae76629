# SPDX-License-Identifier: Apache-2.0
"""Where a compression starts from and where it puts its results, in Inria's model folder.

MODEL/compressed/model.f3dgs                       the file
MODEL/compressed/report.json                       how it came about
MODEL/compressed/rounds/                           checkpoints while the work goes on
MODEL/point_cloud/iteration_K/point_cloud.ply      the decoded model, for every other tool
MODEL/point_cloud/iteration_K/decoded_from.json    marks it as no start for another compression
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussian_compression.pipeline import CompressionJob, CompressionResult
from splat_codec.attribute_sizes import bytes_by_attribute
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import SECTION_NAMES, bytes_per_section
from splat_formats.files import log_notices, read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.files import atomic_path, write_text

MARK = "decoded_from.json"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class StartModel:
    """The trained model that a compression begins with."""

    path: Path
    iteration: int
    """0 for a bare PLY."""
    splats: Splats
    ply_bytes: int
    metadata: SplatMetadata = field(default_factory=SplatMetadata)


def start_from_ply(path: Path, iteration: int = 0) -> StartModel:
    """The model in one PLY file."""
    if not path.is_file():
        raise InputError(f"no PLY at {path}")
    scene = read_splats(path)
    log_notices(path, scene.metadata.notices)
    return StartModel(path, iteration, scene.splats, path.stat().st_size, scene.metadata)


def start_from_folder(model_path: Path) -> StartModel:
    """The highest iteration of a model folder that is not itself a decoded, compressed model."""
    folder = model_path / "point_cloud"
    iterations = {
        int(number): entry
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if (number := entry.name.removeprefix("iteration_")).isdecimal()
        and not (entry / MARK).exists()
    }
    if not iterations:
        raise InputError(
            f"no trained model in {folder}: expected iteration_<N>/point_cloud.ply; train one "
            "with train.py, or give --pretrained_dir or --start_ply"
        )
    highest = max(iterations)
    return start_from_ply(iterations[highest] / "point_cloud.ply", highest)


def file_path(model_path: Path) -> Path:
    """The compressed file of a model folder."""
    return model_path / "compressed" / "model.f3dgs"


def rounds_folder(model_path: Path) -> Path:
    """The checkpoints of a model folder's running compression."""
    return model_path / "compressed" / "rounds"


def write_outputs(
    model_path: Path, start: StartModel, job: CompressionJob, result: CompressionResult
) -> tuple[int, dict[str, Any]]:
    """Writes file, decoded PLY, mark and report; the decoded model's iteration and the report."""
    iteration = start.iteration + max(1, result.iterations)
    with atomic_path(file_path(model_path)) as path:
        path.write_bytes(result.data)
    decoded_folder = model_path / "point_cloud" / f"iteration_{iteration}"
    mark = {"file": "compressed/model.f3dgs", "start_iteration": start.iteration}
    write_text(decoded_folder / MARK, json.dumps(mark, indent=1))
    metadata = SplatMetadata(job.render_options.antialiasing, start.metadata.origin)
    ply = decoded_folder / "point_cloud.ply"
    log_notices(ply, write_splats(ply, SplatScene(result.decoded, metadata)))
    report = build_report(start, iteration, job, result)
    write_text(model_path / "compressed" / "report.json", json.dumps(report, indent=1))
    return iteration, report


def build_report(
    start: StartModel, iteration: int, job: CompressionJob, result: CompressionResult
) -> dict[str, Any]:
    """Everything worth knowing about a compression, as JSON values. Sizes in bytes, times in s."""
    return {
        "start": {
            "ply": str(start.path),
            "iteration": start.iteration,
            "gaussians": start.splats.count,
            "dropped_non_finite": result.dropped_non_finite,
            "bytes": start.ply_bytes,
            "guard": asdict(result.start_guard),
            "test": asdict(result.start_test),
        },
        "compressed": {
            "iteration": iteration,
            "gaussians": result.decoded.count,
            "sh_degree": result.decoded.sh_degree,
            "bytes": len(result.data),
            "ratio": round(start.ply_bytes / len(result.data), 2),
            "bytes_per_gaussian": round(len(result.data) / result.decoded.count, 2),
            "bytes_per_attribute": _attribute_bytes(result),
            "guard": asdict(result.final_guard),
            "test": asdict(result.final_test),
        },
        "stopping": {"shipped_round": result.shipped_round, "reason": result.stop_reason},
        "guard": {
            "views_from": job.settings.trajectory.guard,
            "image_names": result.guard_views,
            "warning": TEST_GUARD_WARNING if job.settings.trajectory.guard == "test" else None,
        },
        "rounds": [asdict(done) for done in result.rounds],
        "stages": [asdict(stage) for stage in result.stage_times],
        "settings": job.settings.to_json(),
        "seed": job.settings.trajectory.seed,
        "identity": job.identity,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def _attribute_bytes(result: CompressionResult) -> dict[str, int]:
    """The file's bytes by attribute, and `other`: they add up to it."""
    if isinstance(result.stored, GridSplats):
        sizes = {name: round(size) for name, size in bytes_by_attribute(result.stored).items()}
    else:
        sections = bytes_per_section(result.data)
        sizes = {name: sections[section] for name, section in SECTION_NAMES.items()}
    return {**sizes, "other": len(result.data) - sum(sizes.values())}


TEST_GUARD_WARNING = (
    "the stopping rule looked at the test views, as the published method does: their figures are "
    "no measure of quality on unseen views"
)
