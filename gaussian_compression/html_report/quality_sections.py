# SPDX-License-Identifier: Apache-2.0
"""Sizes and quality: of the whole, of the rounds and of single views."""

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
from gaussian_compression.html_report.plots import Axis, Point, Series, line_plot
from gaussian_compression.html_report.target_section import ladder_series
from gaussian_compression.report import CompressionReport, PromiseFigures, ViewFigures
from gaussian_compression.rounds import UNITS, Quality, Round
from gaussian_compression.stopping import in_words

SETS = {"test": "test views", "guard": "guard views"}
"""The sets of views and their names. Test views come first: nothing was chosen by them."""


def headline(report: CompressionReport) -> Html:
    """The most important figures, in large type."""
    start, compressed = report.start, report.compressed
    cards = [
        (figures.size(compressed.bytes), f"file; original {figures.size(start.bytes)}"),
        (f"{figures.ratio(compressed.ratio)} ×", "smaller"),
        (figures.count(compressed.gaussians), f"Gaussians of {figures.count(start.gaussians)}"),
    ]
    if compressed.ratio is None:
        cards.pop(1)
    for name, title in SETS.items():
        before, after = quality_of(report, name)
        if after != Quality(None, None):
            cards.append((figures.psnr(after), f"PSNR, {title}; original {figures.psnr(before)}"))
            cards.append((figures.ssim(after), f"SSIM, {title}; original {figures.ssim(before)}"))
    entries = [element("li", element("strong", text), element("span", of)) for text, of in cards]
    return element("ul", *entries, class_="cards")


def quality_of(report: CompressionReport, views: str) -> tuple[Quality, Quality]:
    """The quality before and after, on a set of views."""
    if views == "test":
        return report.start.test, report.compressed.test
    return report.start.guard, report.compressed.guard


def sizes_and_quality(report: CompressionReport) -> Html:
    """Before, after and the difference of each figure."""
    start, after = report.start, report.compressed
    before_each = start.bytes / start.gaussians if start.bytes and start.gaussians else None
    after_each = after.bytes_per_gaussian
    rows = [
        ("File", figures.size(start.bytes), figures.size(after.bytes),
         "" if after.ratio is None else f"{figures.ratio(after.ratio)} times smaller"),
        ("Bytes", figures.count(start.bytes), figures.count(after.bytes),
         figures.change(start.bytes, after.bytes, 0)),
        ("Gaussians", figures.count(start.gaussians), figures.count(after.gaussians),
         figures.change(start.gaussians, after.gaussians, 0)),
        ("Bytes per Gaussian", figures.number(before_each), figures.number(after_each),
         figures.change(before_each, after_each, 2)),
    ]  # fmt: skip
    for name, title in SETS.items():
        first, second = quality_of(report, name)
        rows += [
            (f"PSNR, {title}", figures.psnr(first), figures.psnr(second),
             figures.change(first.psnr, second.psnr, 3, " dB")),
            (f"SSIM, {title}", figures.ssim(first), figures.ssim(second),
             figures.change(first.ssim, second.ssim, 4)),
        ]  # fmt: skip
    content = [table(("", "original", "compressed", "difference"), rows)]
    if report.settings.get("training_free"):
        content.append(paragraph(
            "This run used no photographs, so that PSNR and SSIM were not measured. The section "
            "“Errors of the attributes” compares the models themselves."
        ))  # fmt: skip
    if report.promise is not None and report.target is None:
        content.append(paragraph(_promise(report.promise)))
    return section("Sizes and quality", *content)


def _promise(promise: PromiseFigures) -> str:
    most = _losses(promise.allowed_drop, promise.allowed_ssim_drop, promise.allowed_ms_ssim_drop)
    views = "the guard views" if promise.allowed_on_guard is None else "unseen views"
    allowed = f"The stopping rule allows a loss of {most} on {views}"
    if promise.drop is None or promise.kept is None:
        return f"{allowed}; the loss of the file was not measured."
    verb = "loses" if promise.drop >= 0 else "gains"
    kept = "keeps to the rule" if promise.kept else "does not keep to the rule"
    text = (
        f"{allowed} against round 0, the model fine-tuned without pruning.{_on_guard(promise)} "
        f"The file {verb} {abs(promise.drop):.3f} dB{_changes(promise)}: it {kept}."
    )
    if promise.guard_was_trained_on:
        text += " The last fine-tuning trains on the guard views too: their figures are too good."
    return text


def _losses(psnr: float, ssim: float | None, ms_ssim: float | None) -> str:
    pairs = zip((psnr, ssim, ms_ssim), UNITS.values(), strict=True)
    texts = [f"{figures.number(lost)} {unit}" for lost, unit in pairs if lost is not None]
    return in_words(texts, "and")


def _on_guard(promise: PromiseFigures) -> str:
    """The losses of the guard views that predict the limits, where a prediction is used."""
    if promise.allowed_on_guard is None:
        return ""
    lost = _losses(
        promise.allowed_on_guard,
        promise.allowed_ssim_on_guard,
        promise.allowed_ms_ssim_on_guard,
    )
    return f" They are predicted to lose this much where the guard views lose {lost}."


def _changes(promise: PromiseFigures) -> str:
    """The changes of SSIM and MS-SSIM, where they have a limit."""
    found = (
        ("SSIM", promise.allowed_ssim_drop, promise.ssim_drop),
        ("MS-SSIM", promise.allowed_ms_ssim_drop, promise.ms_ssim_drop),
    )
    return "".join(
        f", and its {name} changes by {-lost:+.4f}"
        for name, limit, lost in found
        if limit is not None and lost is not None
    )


def rounds(report: CompressionReport) -> Html | None:
    """Quality against the number of Gaussians and against bytes; every round in a table."""
    if not report.rounds:
        return None
    plots = [plot for plot in (_by_gaussians(report), _by_bytes(report)) if plot is not None]
    content: list[Html | None] = [element("div", *plots, class_="plots")]
    if report.stopping is not None:
        content.append(paragraph(
            f"Stored: round {report.stopping.shipped_round}, as {report.stopping.reason}."
        ))  # fmt: skip
    if not any(done.measurement for done in report.rounds):
        content.append(paragraph(
            "Test quality and file size of single rounds were not measured: "
            "--measure_test_every N measures them in every N-th round.", class_="weak"
        ))  # fmt: skip
    head = ("round", "Gaussians", "iterations", "PSNR, guard views", "SSIM, guard views",
            "PSNR, training views", "PSNR, test views", "bytes", "wall time",
            "CPU time")  # fmt: skip
    content.append(details("All rounds", table(head, [_round_row(done) for done in report.rounds])))
    return section("Rate and distortion by round", *content)


def _round_row(done: Round) -> tuple[object, ...]:
    measured = done.measurement
    return (
        done.number,
        figures.count(done.gaussians),
        figures.count(done.iterations),
        figures.psnr(done.guard),
        figures.ssim(done.guard),
        figures.psnr(done.training) if done.training else figures.NOT_MEASURED,
        figures.psnr(measured.test) if measured else figures.NOT_MEASURED,
        figures.count(measured.file_bytes) if measured else figures.NOT_MEASURED,
        figures.seconds(done.wall_seconds),
        figures.seconds(done.cpu_seconds),
    )


def _by_gaussians(report: CompressionReport) -> Html | None:
    points = guard_points(report)
    if not points:
        return None
    series = [Series("rounds", list(points.values()))]
    if report.stopping is not None and report.stopping.shipped_round in points:
        series.append(Series("stored round", [points[report.stopping.shipped_round]]))
    zero, limit = report.rounds[0].guard.psnr, None
    if report.promise is not None and zero is not None and report.target is None:
        promise = report.promise
        most: float | None = promise.allowed_drop
        whose = ""
        if promise.allowed_on_guard is not None:
            most, whose = promise.allowed_on_guard, " of the stored round"
        if most is not None:  # a report has null for infinite figures
            limit = (zero - most, f"least allowed{whose}: {zero - most:.2f} dB")
    return line_plot(
        "PSNR on the guard views after each round",
        Axis("Gaussians"), Axis("PSNR, dB"), series, limit=limit,
    )  # fmt: skip


def guard_points(report: CompressionReport) -> dict[int, Point]:
    """Gaussians and PSNR on the guard views after each round, by its number."""
    return {
        done.number: Point(
            done.gaussians,
            done.guard.psnr,
            f"round {done.number}, {done.gaussians:,} Gaussians, {figures.psnr(done.guard)}",
        )
        for done in report.rounds
        if done.guard.psnr is not None
    }


def _by_bytes(report: CompressionReport) -> Html | None:
    views = rated_views(report)
    before, after = quality_of(report, views)
    series = []
    measured = round_files(report) if views == "test" else []
    if measured:
        series.append(Series("rounds, stored before the last fine-tuning", measured))
    ends = [("compressed", report.compressed.bytes, after)]
    if report.start.bytes is not None:
        ends.append(("original", report.start.bytes, before))
    ends += [(other.file, other.bytes, getattr(other, views)) for other in report.exports]
    series += ladder_series(report, views)
    for name, size, quality in ends:
        if size > 0 and quality.psnr is not None:
            text = f"{figures.size(size)}, {figures.psnr(quality)}"
            series.append(Series(name, [Point(size, quality.psnr, text)]))
    if not series:
        return None
    return line_plot(
        f"File size and PSNR on the {SETS[views]}",
        Axis("bytes (log scale)", log=True), Axis("PSNR, dB"), series,
    )  # fmt: skip


def rated_views(report: CompressionReport) -> str:
    """The set of views to rate files by: test views, where they were measured."""
    return "guard" if report.compressed.test.psnr is None else "test"


def round_files(report: CompressionReport) -> list[Point]:
    """File size and PSNR on the test views of the rounds of which they were measured."""
    measured = ((done.number, done.measurement) for done in report.rounds if done.measurement)
    return [
        Point(
            found.file_bytes,
            found.test.psnr,
            f"round {number}, {figures.size(found.file_bytes)}, {figures.psnr(found.test)}",
        )
        for number, found in measured
        if found.file_bytes > 0 and found.test.psnr is not None
    ]


def single_views(report: CompressionReport) -> Html | None:
    """The change of PSNR on each view, as a plot and a table."""
    if not report.views:
        return None
    series = []
    for name, title in SETS.items():
        points = [point for view in report.views if view.views == name and (point := _point(view))]
        if points:
            series.append(Series(title, points, line=False))
    plot = line_plot(
        "Change of PSNR on each view",
        Axis("PSNR of the original model, dB"), Axis("change by compression, dB"),
        series, limit=(0.0, "no change"),
    )  # fmt: skip
    head = ("view", "set", "PSNR, original", "PSNR, compressed", "change",
            "SSIM, original", "SSIM, compressed")  # fmt: skip
    rows = [_view_row(view) for view in report.views]
    return section("Quality of each view", plot, details("All views", table(head, rows)))


def _point(view: ViewFigures) -> Point | None:
    before, after = view.start.psnr, view.compressed.psnr
    if before is None or after is None:
        return None
    text = f"{view.image_name}, {before:.2f} → {after:.2f} dB"
    return Point(before, after - before, text)


def _view_row(view: ViewFigures) -> tuple[object, ...]:
    return (
        view.image_name,
        SETS.get(view.views, view.views),
        figures.psnr(view.start),
        figures.psnr(view.compressed),
        figures.change(view.start.psnr, view.compressed.psnr, 3, " dB"),
        figures.ssim(view.start),
        figures.ssim(view.compressed),
    )


def notices(report: CompressionReport) -> Html | None:
    """Warnings, and what was repaired or dropped."""
    sentences = list(report.notices)
    if report.guard is not None and report.guard.warning:
        sentences.insert(0, report.guard.warning)
    if not sentences:
        return None
    return joined(paragraph(sentence, class_="warning") for sentence in sentences)
