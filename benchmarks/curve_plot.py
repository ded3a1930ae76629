# SPDX-License-Identifier: Apache-2.0
"""Rate-distortion curves as one SVG file, in the style of the report's page."""

from collections.abc import Iterator, Sequence

from benchmarks.curve_rows import Row
from benchmarks.curve_tables import MEASURES, Curves
from gaussian_compression.html_report.frame import style_sheet
from gaussian_compression.html_report.markup import Html, element, joined
from gaussian_compression.html_report.plots import (
    HEIGHT,
    WIDTH,
    Axis,
    Point,
    Series,
    line_drawing,
    marker,
)
from utils.errors import InputError

_TITLE, _LEGEND = 34.0, 20.0
_NAMES_IN_A_ROW = 3


def plot(curves: Curves, measure: str) -> str:
    """The SVG file: file size and the measure, a plot for each scene. InputError for no points."""
    panels: list[Html] = []
    top = 0.0
    for scene in curves.scenes():
        series = list(_series(curves, scene, measure))
        if series:
            panel, height = _panel(scene, series, curves.views_of(scene), measure)
            panels.append(element("svg", panel, y=top, width=WIDTH, height=height))
            top += height
    if not panels:
        raise InputError(f"expected points with {MEASURES[measure]} on {curves.views} views")
    content = [
        element("style", Html(style_sheet())),
        element("rect", width="100%", height="100%", style="fill: var(--page)"),
        *panels,
    ]
    whole = element("svg", joined(content), xmlns="http://www.w3.org/2000/svg", width=WIDTH,
                    height=top, viewBox=f"0 0 {WIDTH:g} {top:g}")  # fmt: skip
    return f"{whole}\n"


def _series(curves: Curves, scene: str, measure: str) -> Iterator[Series]:
    """The points of each curve of the scene, by rising size."""
    for variant in curves.variants():
        for seed in curves.seeds(scene, variant):
            rows = sorted(curves.of(scene, variant, seed), key=lambda row: row.bytes)
            pairs = [(row, curves.quality(row, measure)) for row in rows]
            points = [Point(row.bytes, y, _text(row, y)) for row, y in pairs if y is not None]
            if points:
                yield Series(f"{variant}, seed {seed}", points)


def _text(row: Row, value: float) -> str:
    return f"{row.point}, {row.bytes:,} bytes, {row.gaussians:,} Gaussians, {value:.4f}"


def _panel(scene: str, series: Sequence[Series], views: str, measure: str) -> tuple[Html, float]:
    """Title, plot and names of one scene, and their height."""
    label = {"psnr": "PSNR, dB", "flip": "1 - FLIP"}.get(measure, MEASURES[measure])
    title = f"{scene}: {MEASURES[measure]} on the {views} views"
    drawing = line_drawing(title, Axis("bytes (log scale)", log=True), Axis(label), series)
    names = [
        element("g", marker(index), element("text", one.name, x=20.0, y=12.0),
                transform=f"translate({_name_x(index):g} {_name_y(index):g})")
        for index, one in enumerate(series)
    ]  # fmt: skip
    parts = [
        element("text", title, x=WIDTH / 2, y=22.0, text_anchor="middle"),
        element("svg", drawing, y=_TITLE, width=WIDTH, height=HEIGHT),
        *names,
    ]
    return joined(parts), _name_y(len(series) - 1) + 2 * _LEGEND


def _name_x(index: int) -> float:
    return 40 + index % _NAMES_IN_A_ROW * (WIDTH - 60) / _NAMES_IN_A_ROW


def _name_y(index: int) -> float:
    return _TITLE + HEIGHT + index // _NAMES_IN_A_ROW * _LEGEND
