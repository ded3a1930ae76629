# SPDX-License-Identifier: Apache-2.0
"""The report's pages: valid, complete, without network, the report's figures and no others."""

import base64
import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import report as report_script
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
    pictures_folder,
    read_report,
    report_path,
    write_report,
)
from gaussian_compression.report_pictures import chosen_views, shown_view, view_pictures
from gaussian_compression.rounds import Measurement, Quality, Round, StageTime
from tests.test_report import OLD, OLD_TRAINING_FREE
from utils.errors import InputError

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


# The command


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models a and b, which is the current one."""
    for name in ("a", "b"):
        write_report(report_path(tmp_path / name), REPORT)
        folder = pictures_folder(report_path(tmp_path / name))
        folder.mkdir()
        for file, content in FILES.items():
            (folder / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])
    return tmp_path


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_command_as_typed(models: Path, command_line, capsys) -> None:
    for arguments in (["a"], ["a/"], ["a/compressed/report.json"], [models / "a"]):
        command_line(*arguments)
        report_script.main()
        page = page_of(models / "a/compressed/report.html")
        assert [tag for tag, _ in page.elements].count("figure") > 10
        assert "Report: " in capsys.readouterr().out
        (models / "a/compressed/report.html").unlink()
    assert sorted(path.name for path in (models / "a").iterdir()) == ["compressed"]
    command_line("a", "--out", "new/page.html")
    report_script.main()
    assert page_of(models / "new/page.html").row("Bytes")
    for arguments, name in (
        (["a", "b"], "comparison.html"),
        (["a", "b", "--out", "c.html"], "c.html"),
    ):
        command_line(*arguments)
        report_script.main()
        assert page_of(models / name).row("Bytes") == ["637,082", "637,082+0"]
    assert not (models / "a/compressed/report.html").exists()


def test_models_of_equal_names_are_told_apart() -> None:
    names = report_script.distinct_names
    assert names([Path("x/a"), Path("y/b/")]) == ["a", "b"]
    assert names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]
    assert names([Path("x/a"), Path("x/a")]) == ["1 x/a", "2 x/a"]
    assert report_script.run_name(Path()) == Path.cwd().name


def test_pictures_that_are_not_the_report_s_are_left_out(
    models: Path, command_line, capsys
) -> None:
    folder = pictures_folder(report_path(models / "a"))
    (folder / "worst_original.webp").write_bytes(FILES["median_original.webp"])
    for reason in ("is not the one that this report describes", "worst_original.webp is missing"):
        command_line("a")
        report_script.main()
        assert reason in capsys.readouterr().err
        assert reason in page_of(models / "a/compressed/report.html").text
        (folder / "worst_original.webp").unlink(missing_ok=True)
    # A name that leads out of the folder is none of its files.
    (models / "secret_x.webp").write_bytes(b"s")
    away = ShownView("../../../secret", "test", "t", {"x": hashlib.sha256(b"s").hexdigest()})
    write_report(report_path(models / "a"), replace(REPORT, shown_views=(away,)))
    report_script.main()
    assert "is missing" in capsys.readouterr().err


def test_faults_are_one_sentence(models: Path, command_line) -> None:
    (models / "empty").mkdir()
    (models / "later.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    good = report_path(models / "a").read_text()
    (models / "cut.json").write_text(good[:-20])
    (models / "typed.json").write_text(good.replace('"bytes": 637082', '"bytes": "many"'))
    (models / "deep.json").write_text("[" * 100_000)
    (models / "huge.json").write_text(good.replace('"bytes": 637082', f'"bytes": 1{"0" * 200}'))
    (models / "bins.json").write_text(good.replace('"high": 1.0', '"high": -1.0'))
    (models / "mine.html").write_text("<p>mine")
    faults = {
        ("gone",): "there is no such folder",
        ("empty",): "expected the report of a compression at",
        ("later.json",): f"expected at most {SCHEMA}",
        ("cut.json",): "cannot read it",
        ("typed.json",): "compressed.bytes: expected int, got 'many'",
        ("deep.json",): "cannot read it",
        ("huge.json",): "expected a number up to 1e",
        ("bins.json",): "expected a histogram",
        ("a", "--out", "a/compressed/report.json"): "ends in .html",
        ("a", "--out", "empty"): "ends in .html",
        ("mine.html", "--out", "mine.html"): "is the input",
        ("a", "empty"): "empty: expected the report",
    }
    for arguments, message in faults.items():
        command_line(*arguments)
        with pytest.raises(InputError, match=re.escape(message)):
            report_script.main()
    (models / "a/compressed/report.html").write_text("<p>mine")
    (models / "comparison.html").write_text("<p>mine")
    for arguments in (("a",), ("a", "b")):
        command_line(*arguments)
        with pytest.raises(InputError, match=r"report\.py did not write it"):
            report_script.main()


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each entry within JSON."""
    if not isinstance(value, dict | list):
        return
    for key in value if isinstance(value, dict) else range(len(value)):
        yield (*place, key)
        yield from places(value[key], (*place, key))


@pytest.mark.parametrize("value", [None, "x", -1e99, 10**90, []])
def test_a_damaged_report_is_an_error_or_a_page(tmp_path: Path, value: object) -> None:
    path = tmp_path / "report.json"
    write_report(path, REPORT)
    text, drawn = path.read_text(), 0
    for place in list(places(json.loads(text)))[::5]:
        damaged = entry = json.loads(text)
        for key in place[:-1]:
            entry = entry[key]
        entry[place[-1]] = value
        path.write_text(json.dumps(damaged))
        try:
            found = read_report(path)
        except InputError:
            continue
        Page(report_page("m", found, {}, "left out"))
        Page(comparison_page([Run("a", found), Run("b", REPORT)]))
        drawn += 1
    assert drawn > 5


def test_without_pytorch(models: Path) -> None:
    (models / "torch.py").write_text("raise ImportError('torch is not installed here')")
    command = [sys.executable, str(ROOT / "report.py"), "a", "b", "gone"]
    environment = {"PYTHONPATH": f"{models}:{ROOT}", "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: gone: there is no such folder\n")
    subprocess.run(command[:-1], env=environment, check=True, capture_output=True)
    assert (models / "comparison.html").exists()


def test_the_slider_in_a_browser(models: Path, command_line) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium, which is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    command_line("a")
    report_script.main()
    arguments = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    messages: list[str] = []
    requests: list[str] = []
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((models / "a/compressed/report.html").as_uri())
        right, slider = page.locator(".stage .right").first, page.locator("input").first
        slider.fill("20")
        assert right.evaluate("image => image.style.clipPath") == "inset(0px 0px 0px 20%)"
        assert right.evaluate("image => image.naturalWidth") == 16
        page.locator("select").nth(1).select_option("compressed_error")
        assert "Error of the compressed model" in right.get_attribute("alt")
        box = page.locator(".stage").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.up()
        assert abs(float(slider.input_value()) - 75) < 1
        browser.close()
    assert messages == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
