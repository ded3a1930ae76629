# SPDX-License-Identifier: Apache-2.0
"""The page of one report."""

from collections.abc import Mapping

from gaussian_compression.html_report import content_sections, quality_sections, run_sections
from gaussian_compression.html_report.export_section import exports
from gaussian_compression.html_report.frame import page
from gaussian_compression.html_report.markup import paragraph
from gaussian_compression.html_report.picture_section import pictures
from gaussian_compression.html_report.target_section import target_and_ladder
from gaussian_compression.report import CompressionReport


def report_page(
    name: str,
    report: CompressionReport,
    files: Mapping[str, bytes],
    missing: str | None = None,
) -> str:
    """The page, as HTML. `name`: the model's.

    `files` has the pictures of all shown views by file name, or `missing` the reason why not.
    """
    introduction = (
        f"A trained 3D Gaussian Splatting model of {report.start.gaussians:,} Gaussians, iteration "
        f"{report.start.iteration:,}, compressed by Fast-3DGS."
    )
    return page(
        f"Compression report: {name}",
        paragraph(introduction, class_="weak"),
        quality_sections.headline(report),
        quality_sections.notices(report),
        pictures(report, files, missing),
        quality_sections.sizes_and_quality(report),
        target_and_ladder(report),
        quality_sections.rounds(report),
        quality_sections.single_views(report),
        content_sections.file_bytes(report),
        exports(report),
        content_sections.errors(report),
        content_sections.distributions(report),
        run_sections.command_and_settings(report),
        run_sections.stages(report),
        run_sections.machine(report),
    )
