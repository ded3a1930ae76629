# SPDX-License-Identifier: Apache-2.0
"""report.py as typed: its pages, faults as one sentence, and the page in a browser."""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import report as report_script
from gaussian_compression.html_report.comparison_page import Run, comparison_page
from gaussian_compression.html_report.report_page import report_page
from gaussian_compression.report import (
    SCHEMA,
    ShownView,
    pictures_folder,
    read_report,
    report_path,
    write_report,
)
from gaussian_compression.report_pictures import fault_of_pillow, view_pictures
from tests.test_html_report import FILES, REPORT, Page
from utils.errors import InputError

ROOT = Path(__file__).parents[1]


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


def test_the_page_needs_neither_pillow_nor_pytorch(models: Path) -> None:
    absent = "import sys; sys.modules.update(PIL=None, torch=None, tqdm=None); "
    program = f"{absent}sys.path.insert(0, {str(ROOT)!r}); import report; report.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "a"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    page = page_of(models / "a/compressed/report.html")
    assert [tag for tag, _ in page.elements].count("figure") > 10


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of_pillow() is None
    for module in ("PIL", "PIL.Image", "PIL.features"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "Pillow cannot be imported: pip install pillow" in (fault_of_pillow() or "")
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=r"a picture of the report needs the package PIL, "):
        view_pictures(image, image, image)


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
    (models / "nothing.json").write_text('{"start": {}}')
    (models / "deep.json").write_text("[" * 100_000)
    (models / "huge.json").write_text(good.replace('"bytes": 637082', f'"bytes": 1{"0" * 200}'))
    (models / "bins.json").write_text(good.replace('"high": 1.0', '"high": -1.0'))
    (models / "mine.html").write_text("<p>mine")
    faults = {
        ("gone",): "there is no such folder",
        ("empty",): "expected the report of a compression at",
        ("later.json",): f"expected at most {SCHEMA}",
        ("cut.json",): "cannot read it (no JSON: ",
        ("nothing.json",): "cannot read it (dropped_non_finite is missing)",
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
    for place in list(places(json.loads(text)))[::3]:
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
