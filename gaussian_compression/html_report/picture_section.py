# SPDX-License-Identifier: Apache-2.0
"""The pictures of single views, two at a time under a slider."""

import base64
from collections.abc import Mapping

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.markup import Html, element, joined, paragraph, section
from gaussian_compression.html_report.quality_sections import SETS
from gaussian_compression.report import CompressionReport, ShownView, picture_name
from gaussian_compression.report_pictures import ERROR_COLOURS, KINDS, MOST_ERROR

_LEFT, _RIGHT = "original", "compressed"
"""The pictures that are shown first."""


def pictures(
    report: CompressionReport, files: Mapping[str, bytes], missing: str | None = None
) -> Html:
    """The views with their pictures, of which `files` has all; or the reason why there are none."""
    title = "The worst and the median view"
    if not report.shown_views or missing:
        return section(title, paragraph(_reason(report, missing), class_="weak"))
    views = [_view(report, view, files) for view in report.shown_views]
    return section(title, *views, _error_scale())


def _reason(report: CompressionReport, missing: str | None) -> str:
    if missing:
        return f"No pictures: {missing}."
    if report.settings.get("training_free"):
        return "No pictures: this run used no photographs and rendered no views."
    return "No pictures: the run made none."


def _view(report: CompressionReport, view: ShownView, files: Mapping[str, bytes]) -> Html:
    found = [
        element(
            "figure",
            element(
                "img",
                src=_data(files[picture_name(view.role, kind)]),
                alt=f"{KINDS.get(kind, kind)}, view {view.image_name}",
                data_kind=kind,
            ),
            element("figcaption", KINDS.get(kind, kind)),
        )
        for kind in view.pictures
    ]
    return element(
        "div",
        element("h3", f"The {view.role} view: {view.image_name}"),
        paragraph(_quality(report, view), class_="weak"),
        _comparison(view),
        element("div", *found, class_="pictures"),
        class_="view",
    )


def _quality(report: CompressionReport, view: ShownView) -> str:
    """What the view's role means, and its figures."""
    of_set = [found for found in report.views if found.views == view.views]
    role = f"By PSNR of the compressed model, of {len(of_set)} {SETS.get(view.views, view.views)}."
    for found in of_set:
        if found.image_name == view.image_name:
            before, after = found.start, found.compressed
            role += (
                f" PSNR {figures.psnr(before)} → {figures.psnr(after)}, "
                f"SSIM {figures.ssim(before)} → {figures.ssim(after)}."
            )
    return role


def _comparison(view: ShownView) -> Html:
    """Two of the pictures in one place; hidden until the script has filled it."""
    stage = element(
        "div",
        element("img", class_="left", alt=""),
        element("img", class_="right", alt=""),
        element("div", class_="boundary"),
        class_="stage",
    )
    slider = element("input", type="range", min=0, max=100, step=0.1, value=50,
                     aria_label="Boundary between the pictures, from the left")  # fmt: skip
    controls = element(
        "div",
        element("label", "Left: ", _choice(view, _LEFT)),
        slider,
        element("label", "Right: ", _choice(view, _RIGHT)),
        class_="controls",
    )
    return element("div", stage, controls, class_="comparison", hidden="")


def _choice(view: ShownView, chosen: str) -> Html:
    options = [
        element("option", KINDS.get(kind, kind), value=kind,
                selected="" if kind == chosen else None)
        for kind in view.pictures
    ]  # fmt: skip
    return element("select", joined(options))


def _error_scale() -> Html:
    """The colours of the error maps with their meaning."""
    last = len(ERROR_COLOURS) - 1
    stops = [
        element("stop", offset=f"{100 * index / last:.0f}%", stop_color="#" + bytes(colour).hex())
        for index, colour in enumerate(ERROR_COLOURS)
    ]
    gradient = element("defs", element("linearGradient", *stops, id="errors"))
    bar = element("rect", x=20, y=4, width=400, height=16, fill="url(#errors)", stroke="gray")
    half = MOST_ERROR // 2
    texts = [
        element("text", text, x=20 + 400 * level / MOST_ERROR, y=36, text_anchor="middle")
        for level, text in ((0, "0"), (half, f"{half}"), (MOST_ERROR, f"{MOST_ERROR} or more"))
    ]
    title = "Error maps: mean absolute difference from the photograph, in levels of 8-bit colour"
    plot = element("svg", gradient, bar, *texts, viewBox="0 0 460 42", role="img", aria_label=title)
    return element("figure", plot, element("figcaption", title))


def _data(picture: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture).decode()
