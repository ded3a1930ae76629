# SPDX-License-Identifier: Apache-2.0
"""The decoded model in files of other formats: sizes, quality and what each lost."""

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.markup import (
    Html,
    details,
    element,
    joined,
    paragraph,
    section,
    table,
)
from gaussian_compression.report import CompressionReport, ExportFigures
from splat_formats.losses import Losses


def exports(report: CompressionReport) -> Html | None:
    """All files side by side, where others than the compressed file were written."""
    if not report.exports:
        return None
    explanation = paragraph(
        "The decoded model in other formats. Its quality is measured as decoded from each file.",
        class_="weak",
    )
    head = ("file", "size", "Gaussians", "SH degree", "PSNR, guard views", "PSNR, test views",
            "SSIM, test views")  # fmt: skip
    files = table(head, [_row(entry) for entry in report.all_files()])
    return section("Other formats", explanation, files, joined(map(_lost, report.exports)))


def _row(entry: ExportFigures) -> tuple[object, ...]:
    return (
        entry.file,
        figures.size(entry.bytes),
        figures.count(entry.gaussians),
        entry.sh_degree,
        figures.psnr(entry.guard),
        figures.psnr(entry.test),
        figures.ssim(entry.test),
    )


def _lost(entry: ExportFigures) -> Html | None:
    """What a file lost, on demand; None for a file that lost nothing."""
    parts = [] if entry.losses is None else [_errors(entry.losses)]
    if entry.notices:
        parts.append(element("ul", *(element("li", notice) for notice in entry.notices)))
    return details(f"What {entry.file} lost", *parts) if parts else None


def _errors(losses: Losses) -> Html:
    rows = [
        (name, figures.number(error.mean), figures.number(error.largest), error.unit)
        for name, error in losses.errors.items()
    ]
    return table(("", "mean error", "largest", "unit"), rows)
