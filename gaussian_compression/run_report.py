# SPDX-License-Identifier: Apache-2.0
"""Builds the report of a run of the pipeline."""

from dataclasses import dataclass
from typing import Any

from gaussian_compression.attribute_histograms import attribute_histograms
from gaussian_compression.model_folder import StartModel
from gaussian_compression.pipeline import CompressionJob, CompressionResult
from gaussian_compression.report import (
    CompressionReport,
    FileFigures,
    GuardFigures,
    StartFigures,
    StoppingFigures,
)
from splat_codec.attribute_sizes import bytes_by_attribute
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import SECTION_NAMES, bytes_per_section
from splat_formats.repairs import showable

TEST_GUARD_WARNING = (
    "the stopping rule uses the test views, as in the published method: their figures do not "
    "measure the quality on unseen views"
)


@dataclass(frozen=True)
class Invocation:
    """How the program was started."""

    command: tuple[str, ...]
    """The script's name and its arguments as given."""
    preset: str
    changed_settings: dict[str, Any]
    """Those that differ from the preset's."""


def build_report(
    start: StartModel,
    iteration: int,
    job: CompressionJob,
    result: CompressionResult,
    invocation: Invocation,
) -> CompressionReport:
    """The report of a compression; its decoded model is `iteration` in the model folder."""
    guard = job.settings.trajectory.guard
    return CompressionReport(
        start=StartFigures(
            ply=str(start.path),
            iteration=start.iteration,
            gaussians=start.splats.count,
            dropped=result.dropped_non_finite,
            bytes=start.ply_bytes,
            guard=result.start_guard,
            test=result.start_test,
        ),
        compressed=_file_figures(start, iteration, result),
        stopping=StoppingFigures(result.shipped_round, result.stop_reason),
        guard=GuardFigures(
            views_from=guard,
            image_names=tuple(result.guard_views),
            warning=TEST_GUARD_WARNING if guard == "test" else None,
        ),
        promise=result.promise,
        target=result.target,
        rounds=tuple(result.rounds),
        stages=tuple(result.stage_times),
        settings=job.settings.to_json(),
        seed=job.settings.trajectory.seed,
        identity=job.identity,
        environments=tuple(result.environments),
        notices=(*start.metadata.notices, *result.warnings),
        command=invocation.command,
        preset=invocation.preset,
        changed_settings=invocation.changed_settings,
        views=result.views,
        shown_views=result.pictures.views,
        ladder=tuple(step.figures for step in result.ladder),
        exports=tuple(file.figures for file in result.exports.files),
        histograms=attribute_histograms(showable(start.splats).splats, result.decoded),
    )


def _file_figures(start: StartModel, iteration: int, result: CompressionResult) -> FileFigures:
    return FileFigures(
        iteration=iteration,
        gaussians=result.decoded.count,
        sh_degree=result.decoded.sh_degree,
        bytes=len(result.data),
        ratio=round(start.ply_bytes / len(result.data), 2),
        bytes_per_gaussian=round(len(result.data) / result.decoded.count, 2),
        bytes_per_attribute=_attribute_bytes(result),
        bytes_per_section=bytes_per_section(result.data),
        guard=result.final_guard,
        test=result.final_test,
    )


def _attribute_bytes(result: CompressionResult) -> dict[str, int]:
    """The file's bytes by attribute, and `other` for the rest: the sum is the size of the file."""
    if isinstance(result.stored, GridSplats):
        sizes = {name: round(size) for name, size in bytes_by_attribute(result.stored).items()}
    else:
        sections = bytes_per_section(result.data)
        sizes = {name: sections[section] for name, section in SECTION_NAMES.items()}
    return {**sizes, "other": len(result.data) - sum(sizes.values())}
