# SPDX-License-Identifier: Apache-2.0
"""The page that compares several reports: curves in one plot, figures and differences in tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.content_sections import ATTRIBUTES
from gaussian_compression.html_report.frame import page
from gaussian_compression.html_report.markup import (
    Html,
    element,
    joined,
    markup,
    paragraph,
    section,
    table,
)
from gaussian_compression.html_report.plots import Axis, Point, Series, line_plot
from gaussian_compression.html_report.quality_sections import (
    SETS,
    guard_points,
    quality_of,
    rated_views,
    round_files,
)
from gaussian_compression.html_report.run_sections import command, flat
from gaussian_compression.report import CompressionReport


@dataclass(frozen=True)
class Run:
    """A report and the name under which the page shows it."""

    name: str
    report: CompressionReport


def comparison_page(runs: Sequence[Run]) -> str:
    """The page, as HTML; differences are against the first run."""
    return page(
        f"Comparison of {len(runs)} compressions",
        _differences_of_origin(runs),
        _plots(runs),
        _figures(runs),
        _attribute_bytes(runs),
        _settings(runs),
        section("Commands", *(_command(run) for run in runs)),
    )


def _differences_of_origin(runs: Sequence[Run]) -> Html | None:
    """A warning where the runs do not measure the same. What a run lacks is not compared."""
    reports = [run.report for run in runs]
    compared: dict[str, list[object]] = {
        "start models": [(report.start.gaussians, report.start.bytes) for report in reports],
        "guard views": [report.guard.image_names for report in reports if report.guard],
        "test views": [names for report in reports if (names := _test_views(report))],
        "resolutions of the photographs": [
            str(report.identity["resolution"])
            for report in reports
            if "resolution" in report.identity
        ],
    }
    different = [name for name, values in compared.items() if len(set(values)) > 1]
    if not different:
        return None
    return paragraph(
        f"These runs have different {', '.join(different)}: their figures cannot be compared as "
        "those of one scene.",
        class_="warning",
    )


def _test_views(report: CompressionReport) -> tuple[str, ...]:
    return tuple(view.image_name for view in report.views if view.views == "test")


def _plots(runs: Sequence[Run]) -> Html:
    files = [_file_series(run) for run in runs]
    rounds = [Series(run.name, list(guard_points(run.report).values())) for run in runs]
    plots = []
    if any(one.points for one in files):
        rated = zip(runs, files, strict=True)
        sets = dict.fromkeys(SETS[rated_views(run.report)] for run, one in rated if one.points)
        title = (
            f"File size and PSNR on the {' and '.join(sets)}; the last point of each curve is the "
            "stored file, the others are rounds before the last fine-tuning"
        )
        plots.append(line_plot(title, Axis("bytes (log scale)", log=True), Axis("PSNR, dB"), files))
    if any(one.points for one in rounds):
        title = "PSNR on the guard views after each round"
        plots.append(line_plot(title, Axis("Gaussians"), Axis("PSNR, dB"), rounds))
    if not plots:
        plots = [paragraph("No run measured PSNR.", class_="weak")]
    return section("Rate and distortion", element("div", *plots, class_="plots"))


def _file_series(run: Run) -> Series:
    """The rounds whose files were measured, from large to small, and the stored file."""
    views = rated_views(run.report)
    points = round_files(run.report) if views == "test" else []
    _, quality = quality_of(run.report, views)
    stored = run.report.compressed.bytes
    if stored > 0 and quality.psnr is not None:
        text = f"stored file, {figures.size(stored)}, {figures.psnr(quality)}"
        points = [*points, Point(stored, quality.psnr, text)]
    return Series(run.name, points)


def _figures(runs: Sequence[Run]) -> Html:
    """The figures of each run, and below each the difference against the first run."""
    columns = [_figures_of(run.report) for run in runs]
    rows = [
        (title, *(_cell(columns[0][title], column[title]) for column in columns))
        for title in columns[0]
    ]
    return section(
        "Figures",
        table(("", *(run.name for run in runs)), rows),
        paragraph("Small figures: the difference against the first run.", class_="weak"),
    )


@dataclass(frozen=True)
class _Figure:
    """A figure as text, and its value, whose differences have `digits` after the point."""

    text: str
    value: float | None
    digits: int = 0


def _figures_of(report: CompressionReport) -> dict[str, _Figure]:
    """The figures of a report by their titles, which are the same for all reports."""
    start, after = report.start, report.compressed
    seconds = sum(stage.wall_seconds for stage in report.stages if stage.wall_seconds is not None)
    found = {
        "File": _Figure(figures.size(after.bytes), None),
        "Bytes": _Figure(figures.count(after.bytes), after.bytes),
        "Times smaller": _Figure(figures.ratio(after.ratio), after.ratio, 1),
        "Gaussians, original model": _Figure(figures.count(start.gaussians), start.gaussians),
        "Gaussians, compressed model": _Figure(figures.count(after.gaussians), after.gaussians),
        "Bytes per Gaussian": _Figure(
            figures.number(after.bytes_per_gaussian), after.bytes_per_gaussian, 2
        ),
    }
    for views, title in SETS.items():
        states = zip(("original", "compressed"), quality_of(report, views), strict=True)
        for state, quality in states:
            psnr, ssim = figures.psnr(quality), figures.ssim(quality)
            found[f"PSNR, {title}, {state} model"] = _Figure(psnr, quality.psnr, 3)
            found[f"SSIM, {title}, {state} model"] = _Figure(ssim, quality.ssim, 4)
    found["Wall time of all stages"] = _Figure(figures.seconds(seconds), seconds, 1)
    return found


def _cell(first: _Figure, figure: _Figure) -> Html:
    if figure is first:
        return markup(figure.text)
    change = figures.change(first.value, figure.value, figure.digits)
    return joined([figure.text, element("div", change, class_="weak") if change else None], "")


def _attribute_bytes(runs: Sequence[Run]) -> Html | None:
    names = dict.fromkeys(
        name for run in runs for name in run.report.compressed.bytes_per_attribute
    )
    if not names:
        return None
    rows = [
        (
            ATTRIBUTES.get(name, name),
            *(figures.count(run.report.compressed.bytes_per_attribute.get(name)) for run in runs),
        )
        for name in names
    ]
    return section("Bytes by attribute", table(("", *(run.name for run in runs)), rows))


def _settings(runs: Sequence[Run]) -> Html:
    """The settings in which the runs differ."""
    values = [dict(flat({"preset": run.report.preset, **run.report.settings})) for run in runs]
    names = dict.fromkeys(name for found in values for name in found)
    rows = [
        (name, *(found.get(name, "") for found in values))
        for name in names
        if len({found.get(name) for found in values}) > 1
    ]
    title = "Settings that differ"
    if not rows:
        return section(title, paragraph("None: all runs have the same settings."))
    return section(title, table(("setting", *(run.name for run in runs)), rows))


def _command(run: Run) -> Html:
    return joined([element("h3", run.name), command(run.report)])
