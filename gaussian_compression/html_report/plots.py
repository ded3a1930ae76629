# SPDX-License-Identifier: Apache-2.0
"""Plots as inline SVG. Colours come from classes in page.css; figures are also in <title>."""

from collections.abc import Sequence
from dataclasses import dataclass

from gaussian_compression.html_report.markup import Html, element, joined
from gaussian_compression.html_report.scales import Scale, scale_of, tick_text

WIDTH, HEIGHT = 640.0, 360.0
"""Of a plot."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 76.0, 14.0, 12.0, 48.0
_SHAPES = 4
COLOURS = 8
"""Series with a colour of their own; later ones start again."""


@dataclass(frozen=True)
class Point:
    """A measured pair, and the text that is shown when it is pointed at."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Series:
    """Points under one name, connected in their order if `line`."""

    name: str
    points: Sequence[Point]
    line: bool = True


@dataclass(frozen=True)
class Axis:
    """An axis with its label, which contains the unit."""

    label: str
    log: bool = False


@dataclass(frozen=True)
class Frame:
    """The area of a plot and its two scales."""

    x: Scale
    y: Scale
    width: float
    height: float


def line_plot(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    limit: tuple[float, str] | None = None,
) -> Html:
    """All series in one plot, and their names; `limit`: a horizontal line and its meaning.

    On logarithmic axes values are positive.
    """
    plot = line_drawing(title, x, y, series, limit=limit)
    names = [(index, one.name) for index, one in enumerate(series) if one.points]
    return element("figure", plot, _legend(names), element("figcaption", title))


def line_drawing(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    limit: tuple[float, str] | None = None,
) -> Html:
    """The plot of `line_plot` alone: an SVG element without the names of the series."""
    points = [point for one in series for point in one.points]
    ys = [point.y for point in points] + ([limit[0]] if limit else [])
    frame = Frame(
        scale_of((point.x for point in points), _LEFT, WIDTH - _RIGHT, log=x.log),
        scale_of(ys, HEIGHT - _BOTTOM, _TOP, log=y.log),
        WIDTH,
        HEIGHT,
    )
    drawn = [_series(frame, index, one) for index, one in enumerate(series)]
    line = _limit(frame, *limit) if limit else None
    return _svg(title, frame, _axes(frame, x.label, y.label), line, *drawn)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> Html:
    """Horizontal bars: name, value from 0 on, and the value as text."""
    left, height, most = 170.0, 24.0, max([value for _, value, _ in rows] + [0]) or 1
    length = WIDTH - left - 170
    drawn = []
    for index, (name, value, text) in enumerate(rows):
        top = index * height + 4
        bar = max(value, 0) / most * length
        drawn += [
            element("text", name, x=left - 8, y=top + 13, text_anchor="end"),
            element("rect", element("title", f"{name}: {text}"), x=left, y=top, width=bar,
                    height=height - 6, class_="fill c0"),
            element("text", text, x=left + bar + 6, y=top + 13),
        ]  # fmt: skip
    plot = element("svg", *drawn, viewBox=f"0 0 {WIDTH:g} {height * len(rows) + 4:g}", role="img",
                   aria_label=title)  # fmt: skip
    return element("figure", plot, element("figcaption", title))


def histogram(
    title: str, label: str, limits: tuple[float, float], before: Sequence[int], after: Sequence[int]
) -> Html:
    """Two distributions over the same bins, of equal width between the limits.

    Where one bin has most of the values, the axis of the counts is logarithmic.
    """
    width, height = 420.0, 240.0
    most = max(*before, *after, 1)
    log = most > max(sum(before), sum(after)) / 4 and most > 100
    top = 12.0
    counts = Scale(0.5, most * 1.5, height - _BOTTOM, top, log=True) if log else Scale(
        0, most * 1.05, height - _BOTTOM, top)  # fmt: skip
    frame = Frame(Scale(*limits, _LEFT, width - _RIGHT), counts, width, height)
    axes = _axes(frame, label, "values (log scale)" if log else "values")
    shapes = [
        element("path", d=_steps(frame, before, close=True), class_="before"),
        element("path", d=_steps(frame, after, close=False), class_="line c0"),
        *_bins(frame, before, after),
    ]
    return element("figure", _svg(title, frame, axes, *shapes), element("figcaption", title))


def _bins(frame: Frame, before: Sequence[int], after: Sequence[int]) -> list[Html]:
    """Areas without colour, which show the figures of a bin when it is pointed at."""
    width = (frame.x.high - frame.x.low) / len(before)
    areas = []
    for index, (first, second) in enumerate(zip(before, after, strict=True)):
        low = frame.x.low + index * width
        text = f"{low:.4g} to {low + width:.4g}: {first:,} before, {second:,} after"
        left, right = frame.x.pixel(low), frame.x.pixel(low + width)
        areas.append(
            element("rect", element("title", text), x=left, y=frame.y.end, width=right - left,
                    height=frame.y.start - frame.y.end, class_="area")
        )  # fmt: skip
    return areas


def _steps(frame: Frame, counts: Sequence[int], *, close: bool) -> str:
    """The outline of the bins from the axis up."""
    width = (frame.x.end - frame.x.start) / len(counts)
    bottom = frame.y.start
    path = [f"M{frame.x.start:.1f} {bottom:.1f}"]
    for index, found in enumerate(counts):
        height = frame.y.pixel(found) if found else bottom
        right = frame.x.start + (index + 1) * width
        path.append(f"V{height:.1f}H{right:.1f}")
    path.append(f"V{bottom:.1f}" + ("Z" if close else ""))
    return "".join(path)


def _svg(title: str, frame: Frame, *content: object) -> Html:
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return element("svg", joined(content), viewBox=box, role="img", aria_label=title)


def _axes(frame: Frame, x_label: str, y_label: str) -> Html:
    """Both axes with ticks, numbers and labels, and lines across the plot at the y ticks."""
    left, right, bottom, top = frame.x.start, frame.x.end, frame.y.start, frame.y.end
    parts = []
    for tick in frame.x.ticks():
        at = frame.x.pixel(tick)
        parts += [
            element("line", x1=at, x2=at, y1=bottom, y2=bottom + 5, class_="axis"),
            element("text", tick_text(tick), x=at, y=bottom + 18, text_anchor="middle"),
        ]
    for tick in frame.y.ticks():
        at = frame.y.pixel(tick)
        parts += [
            element("line", x1=left, x2=right, y1=at, y2=at, class_="grid"),
            element("text", tick_text(tick), x=left - 7, y=at + 4, text_anchor="end"),
        ]
    middle, centre = (left + right) / 2, (top + bottom) / 2
    turned = f"rotate(-90 14 {centre:g})"
    parts += [
        element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        element("text", x_label, x=middle, y=bottom + 38, text_anchor="middle"),
        element("text", y_label, x=14.0, y=centre, text_anchor="middle", transform=turned),
    ]
    return joined(parts)


def _series(frame: Frame, index: int, series: Series) -> Html:
    places = [(frame.x.pixel(point.x), frame.y.pixel(point.y)) for point in series.points]
    colour = f"c{index % COLOURS}"
    parts = []
    if series.line and len(places) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(element("path", d=path, class_=f"line {colour}"))
    for (x, y), point in zip(places, series.points, strict=True):
        text = element("title", f"{series.name}: {point.text}")
        parts.append(_marker(index, x, y, text, class_=f"fill {colour}"))
    return joined(parts)


def _marker(index: int, x: float, y: float, *content: object, class_: str) -> Html:
    """A circle, square, diamond or triangle: series differ without their colours too."""
    paths = {
        1: f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        2: f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        3: f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
    }
    shape = index % _SHAPES
    if shape == 0:
        return element("circle", *content, cx=x, cy=y, r=4.5, class_=class_)
    return element("path", *content, d=paths[shape], class_=class_)


def marker(index: int) -> Html:
    """The marker of the series with this index, in a square of 14 pixels."""
    return _marker(index, 7.0, 7.0, class_=f"fill c{index % COLOURS}")


def _limit(frame: Frame, value: float, text: str) -> Html:
    at = frame.y.pixel(value)
    return joined([
        element("line", x1=frame.x.start, x2=frame.x.end, y1=at, y2=at, class_="limit"),
        element("text", text, x=frame.x.end - 4, y=at - 5, text_anchor="end"),
    ])  # fmt: skip


def _legend(names: Sequence[tuple[int, str]]) -> Html | None:
    """The marker and the name of each series, by its index, if there are several."""
    if len(names) < 2:
        return None
    entries = []
    for index, name in names:
        sign = element("svg", marker(index), viewBox="0 0 14 14", aria_hidden="true")
        entries.append(element("li", sign, " ", name))
    return element("ul", *entries, class_="legend")
