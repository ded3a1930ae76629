# SPDX-License-Identifier: Apache-2.0
"""The report's pages: valid, complete, without network, the report's figures and no others."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaussian_compression.html_report.comparison_page import Run, comparison_page
from gaussian_compression.html_report.report_page import report_page
from gaussian_compression.html_report.scales import Scale, scale_of
from gaussian_compression.report import (
    SCHEMA,
    CompressionReport,
    ErrorFigures,
    FileFigures,
    GuardFigures,
    Histogram,
    PromiseFigures,
    ShownView,
    StartFigures,
    StoppingFigures,
    ViewFigures,
    as_read,
    picture_name,
    read_report,
    write_report,
)
from gaussian_compression.report_pictures import chosen_views, shown_view, view_pictures
from gaussian_compression.rounds import Measurement, Quality, Round, StageTime
from tests.test_report import OLD, OLD_TRAINING_FREE

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>\"'&"
VOID = {"meta", "link", "img", "input"}


def views() -> tuple[ViewFigures, ...]:
    kinds = [(kind, i) for kind in ("guard", "test") for i in range(3)]
    return tuple(
        ViewFigures(kind, f"{kind}{i}.png", Quality(30.0 + i, 0.9), Quality(29.0 + i * i, 0.8))
        for kind, i in kinds
    )


def files_of(figures: tuple[ViewFigures, ...]) -> tuple[tuple[ShownView, ...], dict[str, bytes]]:
    random, shown, files = np.random.default_rng(0), [], {}
    for role, view in chosen_views(figures).items():
        images = random.integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
        pictures = view_pictures(*images)
        shown.append(shown_view(role, view, pictures))
        files |= {picture_name(role, kind): content for kind, content in pictures.items()}
    return tuple(shown), files


SHOWN, FILES = files_of(views())
REPORT = CompressionReport(
    start=StartFigures("m.ply", 7000, 115_016, 3, 28_525_499, Quality(31.5494, 0.94761),
                       Quality(28.248, 0.916)),
    compressed=FileFigures(7100, 68_868, 3, 637_082, 44.8, 9.25, {"xyz": 400_000, "other": 237_082},
                           {"meta": 343}, Quality(31.657, 0.9506), Quality(29.559, 0.9326)),
    settings={"stopping": {"max_psnr_drop": 0.1}, "grids": None, "keep_rounds": False},
    environments=({"from_round": 0, "torch": "2", "numpy_instruction_sets": ["AVX2", "FMA3"]},
                  {"from_round": 2, "torch": "3"}),
    stopping=StoppingFigures(1, "all rounds were made"),
    guard=GuardFigures("train", ("guard0.png",), None),
    promise=PromiseFigures(0.1, 0.05, True, True),
    rounds=(
        Round(0, 115_016, 5, Quality(31.6, 0.9), 10.0, 20.0,
              Measurement(Quality(29.1, 0.9), 900_000)),
        Round(1, 68_868, 9, Quality(31.4, 0.9), 10.0, 20.0, None),
    ),
    stages=(StageTime("rounds", 20.0, 40.0), StageTime("encode", 3700.0, 8000.0)),
    seed=3,
    identity={"source_path": "/home/somebody/secret", "resolution": 4},
    notices=("one Gaussian was dropped",),
    command=("compress.py", "-s", "my scene", "-m", "out"),
    preset="compact",
    changed_settings={"stopping": {"patience": 7}},
    views=views(),
    shown_views=SHOWN,
    histograms={"opacity": Histogram("0 to 1", 0.0, 1.0, (5, 900), (0, 7), 0, 2)},
)  # fmt: skip
FREE = CompressionReport(
    start=StartFigures("m.ply", 0, 10, 1, 5000),
    compressed=FileFigures(1, 9, 1, 500, 10.0, 55.6, {}, {"meta": 9}),
    settings={"quality": "high", "training_free": True},
    environments=({"from_round": 0, "numpy": "2"},),
    errors={"xyz": ErrorFigures("%", 1.25, 2.5, 3.75, 16)},
)


class Page(HTMLParser):
    """The elements of a page, its text, and the texts of its table rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, title: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0] == title)


def drawn(report: CompressionReport, files: dict[str, bytes] | None = None) -> Page:
    return Page(report_page("model", as_read(report), FILES if files is None else files))


def test_figures_are_those_of_the_report() -> None:
    page = drawn(REPORT)
    assert page.row("Bytes") == ["28,525,499", "637,082", "−27,888,417"]
    assert page.row("Gaussians") == ["115,016", "68,868", "−46,148"]
    assert page.row("PSNR, test views") == ["28.248 dB", "29.559 dB", "+1.311 dB"]
    assert page.row("SSIM, guard views") == ["0.9476", "0.9506", "+0.0030"]
    assert page.row("test2.png")[1:3] == ["32.000 dB", "33.000 dB"]
    assert page.row("stopping.patience") == ["7"]
    assert page.row("encode") == ["1 h 01 min", "2 h 13 min"]
    assert page.row("numpy_instruction_sets") == ["AVX2, FMA3"]
    for text in ("From round 2 on", "one Gaussian was dropped", "400 kB (62.8 %)", "44.8 ×",
                 "python compress.py -s 'my scene' -m out", "round 1, as all rounds were made",
                 "not shown: 0 values before, 2 after", "The worst view: test0.png",
                 "The median view: test1.png", "too good"):  # fmt: skip
        assert text in page.text
    assert "secret" not in page.text
    titles = {attributes["aria-label"] for tag, attributes in page.elements
              if tag == "svg" and attributes.get("role")}  # fmt: skip
    assert {"PSNR on the guard views after each round", "Bytes by attribute"} <= titles


def test_nothing_is_loaded_and_only_this_script_runs() -> None:
    html = report_page("model", as_read(REPORT), FILES)
    page = Page(html)
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in html.replace("url(#errors)", "") and "@import" not in html
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def hostile(value: Any) -> Any:
    """The same JSON with other text in every string and name that a file may contain."""
    if isinstance(value, dict):
        return {name: hostile(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [hostile(entry) for entry in value]
    return HOSTILE if isinstance(value, str) else value


def test_every_string_is_escaped(tmp_path: Path) -> None:
    write_report(tmp_path / "a.json", replace(REPORT, shown_views=()))
    found = hostile(json.loads((tmp_path / "a.json").read_text()))
    for field in ("settings", "changed_settings", "histograms", "errors"):
        found[field] = {HOSTILE + name: value for name, value in found[field].items()}
    found["environments"] = [{HOSTILE: HOSTILE}]
    found["compressed"]["bytes_per_attribute"] = {HOSTILE: 1}
    (tmp_path / "a.json").write_text(json.dumps(found))
    report = read_report(tmp_path / "a.json")
    pages = (report_page(HOSTILE, report, {}), comparison_page([Run(HOSTILE, report)] * 2))
    for html in pages:
        page = Page(html)
        assert [tag for tag, _ in page.elements].count("script") == 1
        assert page.text.count(HOSTILE) >= 3
    view = ShownView(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ""})
    name = picture_name(HOSTILE, HOSTILE)
    html = report_page("m", replace(REPORT, shown_views=(view,)), {name: b"x"})
    assert [tag for tag, _ in Page(html).elements].count("script") == 1


def test_what_was_not_measured_is_not_zero() -> None:
    page = drawn(FREE, {})
    assert page.row("PSNR, test views") == ["not measured", "not measured", ""]
    assert page.row("positions") == ["1.25", "2.5", "3.75", "16", "%"]
    for text in (
        *("used no photographs", "Bytes by attribute were not measured", "No preset"),
        *("The distributions were not measured", "The command was not recorded"),
    ):
        assert text in page.text
    assert "Rate and distortion" not in page.text
    infinite = replace(REPORT.compressed, test=Quality(float("inf"), 1.0))
    page = drawn(replace(REPORT, compressed=infinite))
    assert page.row("PSNR, test views") == ["28.248 dB", "infinite", ""]


@pytest.mark.parametrize("old", [OLD, OLD_TRAINING_FREE])
def test_pages_of_old_reports(tmp_path: Path, old: dict[str, Any]) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(old))
    page = Page(report_page("old", read_report(path), {}))
    assert page.row("Bytes")[1] == "500"
    assert "The command was not recorded" in page.text
    schema_2 = {"schema": 2, **json.loads(json.dumps(OLD)), "environments": [], "promise": None}
    schema_2["start"] = {**schema_2["start"], "dropped": 1}
    path.write_text(json.dumps(schema_2))
    assert read_report(path).schema == SCHEMA


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("value", [0.0, 1e99, -3.0])
def test_extreme_figures_are_drawn(kept: int, value: float) -> None:
    quality = Quality(value, value)
    rounds = tuple(replace(done, guard=quality, gaussians=1) for done in REPORT.rounds)[:kept]
    report = replace(
        REPORT,
        start=replace(REPORT.start, gaussians=kept, bytes=kept, test=quality),
        compressed=replace(REPORT.compressed, gaussians=kept, bytes=kept, test=quality),
        rounds=rounds,
        views=(ViewFigures("test", "a", quality, quality),)[:kept],
        stages=(),
    )
    runs = [Run("a", report), Run("b", FREE)]
    for html in (report_page("m", report, FILES), comparison_page(runs)):
        Page(html)
        assert not re.search(r"[ML \"](nan|inf)\b", html)


def test_axes_have_round_ticks() -> None:
    assert Scale(0.0, 1.0, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Scale(30.4, 31.1, 0, 100).ticks() == pytest.approx([30.4, 30.6, 30.8, 31.0])
    assert Scale(1e3, 1e6, 0, 1, log=True).ticks() == pytest.approx([1e3, 1e4, 1e5, 1e6])
    assert len(Scale(5e5, 8e5, 0, 1, log=True).ticks()) > 2
    for values in ([], [3.0], [0.0, 0.0], [-1e-300, 1e-300], [1e15, 1e15 + 1]):
        scale = scale_of(values, 0, 100)
        assert all(0 <= scale.pixel(value) <= 100 for value in values)
        assert len(scale.ticks()) < 20


def test_a_comparison_has_all_curves_and_differences() -> None:
    smaller = replace(REPORT.compressed, bytes=500_000, test=Quality(29.0, 0.9))
    other = replace(REPORT, compressed=smaller, settings={"stopping": {"max_psnr_drop": 0.3}})
    page = Page(comparison_page([Run("first", REPORT), Run("second", other), Run("free", FREE)]))
    assert page.row("Bytes") == ["637,082", "500,000−137,082", "500−636,582"]
    assert page.row("PSNR, test views, compressed model")[1] == "29.000 dB−0.559"
    assert page.row("PSNR, test views, compressed model")[2] == "not measured"
    assert page.row("stopping.max_psnr_drop") == ["0.1", "0.3", ""]
    assert "These runs have different start models: " in page.text
    for name in ("first", "second"):
        assert f"{name}: stored file" in page.text and f"{name}: round 1" in page.text
    assert "free: " not in page.text


def test_the_worst_and_the_median_view() -> None:
    def names(*psnrs: float | None, kind: str = "test") -> list[str]:
        figures = [
            ViewFigures(kind, str(i), Quality(1, 1), Quality(p, 1)) for i, p in enumerate(psnrs)
        ]
        return [view.image_name for view in chosen_views(figures).values()]  # fmt: skip

    assert names() == []
    assert names(3) == names(3, kind="guard") == ["0"]
    assert names(3, 2) == ["1", "0"]
    assert names(float("inf"), 30, 20, None, 25) == ["2", "1"]
    assert chosen_views(views())["worst"].views == "test"


def test_error_maps_show_the_mean_difference() -> None:
    from io import BytesIO

    from PIL import Image

    black = np.zeros((900, 2400, 3), np.uint8)
    left = black.copy()
    left[:, :1200] = [128, 64, 0]  # 64 in the mean: the last colour, white
    pictures = view_pictures(black, left, black)
    images = {kind: np.asarray(Image.open(BytesIO(found))) for kind, found in pictures.items()}
    assert {image.shape for image in images.values()} == {(450, 1200, 3)}
    assert images["original_error"][200, 300].min() > 245
    assert images["original_error"][200, 900].max() < 8
    assert images["compressed_error"].max() < 8
