# SPDX-License-Identifier: Apache-2.0
"""What the file contains: bytes by attribute, distributions and errors of the attributes."""

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.markup import Html, element, paragraph, section, table
from gaussian_compression.html_report.plots import bars, histogram
from gaussian_compression.report import CompressionReport, Histogram

ATTRIBUTES = {
    "xyz": "positions",
    "x": "position x",
    "y": "position y",
    "z": "position z",
    "scaling": "sizes",
    "rotation": "rotations",
    "opacity": "opacities",
    "features_dc": "mean colours",
    "features_rest": "spherical harmonics",
    "precision": "precision classes",
    "other": "tables, header",
}
"""Readers' names of the attributes."""


def file_bytes(report: CompressionReport) -> Html:
    """Bytes by attribute and by section of the file."""
    compressed = report.compressed
    by_attribute = {
        ATTRIBUTES.get(name, name): size for name, size in compressed.bytes_per_attribute.items()
    }
    plots = [
        bars(title, [(name, size, _share(size, compressed.bytes)) for name, size in sizes.items()])
        for title, sizes in (
            ("Bytes by attribute", by_attribute),
            ("Bytes by section of the file (docs/format.md)", compressed.bytes_per_section),
        )
        if sizes
    ]
    content: list[Html] = [element("div", *plots, class_="plots")]
    if not compressed.bytes_per_attribute:
        content.append(paragraph("Bytes by attribute were not measured.", class_="weak"))
    if not compressed.bytes_per_section:
        content.append(paragraph("Bytes by section were not measured.", class_="weak"))
    return section("Bytes", *content)


def _share(size: int, total: int) -> str:
    part = f" ({100 * size / total:.1f} %)" if total else ""
    return f"{figures.size(size)}{part}"


def distributions(report: CompressionReport) -> Html:
    """A histogram for each attribute."""
    title = "Attributes before and after"
    if not report.histograms:
        return section(title, paragraph("The distributions were not measured.", class_="weak"))
    text = (
        "Grey areas: the original model, as far as images can show its Gaussians. Lines: the "
        "compressed model, decoded from its file. The axes contain at least 99.8 % of all values."
    )
    every = max(found.every for found in report.histograms.values())
    if every > 1:
        text += f" One in {every} Gaussians is counted."
    explanation = paragraph(text, class_="weak")
    plots = [_distribution(name, found) for name, found in report.histograms.items()]
    return section(title, explanation, element("div", *plots, class_="small"))


def _distribution(name: str, found: Histogram) -> Html:
    title = ATTRIBUTES.get(name, name)
    outside = found.start_outside, found.compressed_outside
    if any(outside):
        title += f" (not shown: {outside[0]:,} values before, {outside[1]:,} after)"
    return histogram(title, found.unit, (found.low, found.high), found.start, found.compressed)


def errors(report: CompressionReport) -> Html | None:
    """The errors of the attributes, where the models were compared."""
    if not report.errors:
        return None
    head = ("", "root mean square", "99 % are below", "greatest", "good up to", "unit")
    rows = [
        (
            ATTRIBUTES.get(name, name),
            figures.number(error.rms),
            figures.number(error.percentile_99),
            figures.number(error.max),
            "" if error.good is None else figures.number(error.good),
            error.unit or "of the attribute",
        )
        for name, error in report.errors.items()
    ]
    explanation = paragraph(
        "Of the decoded model against the original. An error is not visible in the images of an "
        "ordinary scene if its root mean square is at most the value in “good up to”.",
        class_="weak",
    )
    return section("Errors of the attributes", explanation, table(head, rows))
