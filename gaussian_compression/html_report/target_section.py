# SPDX-License-Identifier: Apache-2.0
"""What a target reached, and the files of a ladder."""

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.markup import Html, paragraph, section, table
from gaussian_compression.html_report.plots import Point, Series
from gaussian_compression.report import CompressionReport, PromiseFigures, TargetFigures


def ladder_series(report: CompressionReport, views: str) -> list[Series]:
    """The sizes of the ladder's files and their PSNR on these views, as one line."""
    points = [
        Point(
            step.bytes,
            quality.psnr,
            f"{step.part:g} %, {figures.size(step.bytes)}, {figures.psnr(quality)}",
        )
        for step in report.ladder
        if (quality := getattr(step, views)).psnr is not None and step.bytes > 0
    ]
    return [Series("ladder", points)] if points else []


def target_and_ladder(report: CompressionReport) -> Html | None:
    """None without both."""
    content = []
    if report.target is not None:
        content.append(paragraph(_target(report.target) + _loss(report.promise)))
    if report.ladder:
        head = ("file", "Gaussians", "bytes", "made of round", "PSNR, guard views",
                "SSIM, guard views", "PSNR, test views", "SSIM, test views")  # fmt: skip
        rows = [
            (
                step.file,
                figures.count(step.gaussians),
                figures.count(step.bytes),
                step.base_round,
                figures.psnr(step.guard),
                figures.ssim(step.guard),
                figures.psnr(step.test),
                figures.ssim(step.test),
            )
            for step in report.ladder
        ]
        content.append(table(head, rows))
    return section("Target and ladder", *content) if content else None


def _loss(promise: PromiseFigures | None) -> str:
    if promise is None or promise.drop is None or promise.ssim_drop is None:
        return ""
    return (
        " Against round 0, the model fine-tuned without pruning, PSNR on the guard views changes "
        f"by {-promise.drop:+.3f} dB and SSIM by {-promise.ssim_drop:+.4f}."
    )


def _target(target: TargetFigures) -> str:
    reached = (
        f"{figures.count(target.reached_gaussians)} Gaussians and "
        f"{figures.count(target.reached_bytes)} bytes"
    )
    if target.bytes is not None:
        off = 100 * (target.reached_bytes / target.bytes - 1)
        wanted = f"{figures.count(target.bytes)} bytes"
        reached = f"{reached}, {off:+.1f} %"
    else:
        wanted = f"{figures.count(target.gaussians)} Gaussians"
    verb = "was reached" if target.reached else "was not reached"
    return f"The target of {wanted} {verb}: the file has {reached}."
