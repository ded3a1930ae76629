# SPDX-License-Identifier: Apache-2.0
"""The figures of the scenes: as rows, as a CSV file, and as a page for a browser."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.frame import page
from gaussian_compression.html_report.markup import (
    Html,
    element,
    joined,
    paragraph,
    section,
    table,
)
from gaussian_compression.report import UNMEASURED, page_path, read_report, report_path
from gaussian_compression.rounds import Quality
from many_scenes.records import DONE, Record, log_path, scene_folder
from utils.errors import InputError
from utils.files import write_text

CSV_NAME, PAGE_NAME = "fleet.csv", "fleet.html"


@dataclass(frozen=True)
class Row:
    """One scene; a line of the CSV file. None: not measured, or not done."""

    scene: str
    state: str
    tries: int
    training_minutes: float
    compressing_minutes: float
    start_bytes: int | None = None
    bytes: int | None = None
    ratio: float | None = None
    start_gaussians: int | None = None
    gaussians: int | None = None
    start_guard_psnr: float | None = None
    guard_psnr: float | None = None
    start_test_psnr: float | None = None
    test_psnr: float | None = None
    start_test_ssim: float | None = None
    test_ssim: float | None = None
    host: str = ""
    model: str = ""
    message: str = ""


def row_of(record: Record) -> Row:
    """The figures of a scene. InputError if its report cannot be read."""
    row: dict[str, Any] = {
        "scene": record.scene.name,
        "state": record.state,
        "tries": record.tries,
        "training_minutes": round(record.training_minutes, 3),
        "compressing_minutes": round(record.compressing_minutes, 3),
        "host": record.host,
        "model": record.scene.model,
        "message": record.message,
    }
    if record.state == DONE:
        row |= _measured(Path(record.scene.model))
    return Row(**row)


def _measured(model: Path) -> dict[str, object]:
    report = read_report(report_path(model))
    start, compressed = report.start, report.compressed
    return {
        "start_bytes": start.bytes,
        "bytes": compressed.bytes,
        "ratio": compressed.ratio,
        "start_gaussians": start.gaussians,
        "gaussians": compressed.gaussians,
        "start_guard_psnr": start.guard.psnr,
        "guard_psnr": compressed.guard.psnr,
        "start_test_psnr": start.test.psnr,
        "test_psnr": compressed.test.psnr,
        "start_test_ssim": start.test.ssim,
        "test_ssim": compressed.test.ssim,
    }


def write_figures(output: Path, records: Sequence[Record]) -> list[str]:
    """Writes the CSV file and the page. Returns a sentence for each report that is unreadable."""
    rows, faults = [], []
    for record in records:
        try:
            rows.append(row_of(record))
        except (InputError, OSError) as error:
            faults.append(f"{record.scene.name}: its report cannot be read: {error}")
            rows.append(Row(record.scene.name, record.state, record.tries, 0, 0,
                            model=record.scene.model, message=faults[-1]))  # fmt: skip
    write_text(output / CSV_NAME, csv_text(rows))
    write_text(output / PAGE_NAME, page_text(output, rows))
    return faults


def csv_text(rows: Sequence[Row]) -> str:
    """A line of titles and one for each scene; what is None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return text.getvalue()


_TITLES = (
    *("scene", "state", "original", "file", "times smaller", "Gaussians", "PSNR, test views"),
    *("SSIM, test views", "training", "compression", "tries"),
)


def page_text(output: Path, rows: Sequence[Row]) -> str:
    """The page; its links lead to the scenes' reports and logs."""
    done = [row for row in rows if row.state == DONE]
    failed = [row for row in rows if row.state != DONE]
    cards = [
        (f"{len(done)} of {len(rows)}", "scenes are compressed"),
        (figures.size(sum(row.start_bytes or 0 for row in done)), "originals"),
        (figures.size(sum(row.bytes or 0 for row in done)), "compressed files"),
        (figures.seconds(60 * sum(_minutes(row) for row in rows)), "of programs, added up"),
    ]
    items = [element("li", element("strong", a), element("span", b)) for a, b in cards]
    return page(
        f"Compression of {len(rows)} scenes",
        element("ul", *items, class_="cards"),
        _failures(output, failed) if failed else None,
        section("Scenes", table(_TITLES, [_cells(output, row) for row in rows])),
    )


def _failures(output: Path, rows: Sequence[Row]) -> Html:
    parts = [
        paragraph(f"{row.scene}: {row.message or row.state} ", _log(output, row), class_="warning")
        for row in rows
    ]
    return section("Not compressed", joined(parts))


def _cells(output: Path, row: Row) -> tuple[object, ...]:
    report = page_path(report_path(Path(row.model)))
    name: object = row.scene
    if row.state == DONE and report.is_file():
        name = element("a", row.scene, href=_link(output, report))
    before, after = row.start_test_psnr, row.test_psnr
    tested = UNMEASURED, UNMEASURED
    if row.test_ssim is not None:
        tested = Quality(before, row.start_test_ssim), Quality(after, row.test_ssim)
    return (
        name,
        joined([row.state, _log(output, row)], " "),
        *map(figures.size, (row.start_bytes, row.bytes)),
        figures.ratio(row.ratio),
        _change(*map(figures.count, (row.start_gaussians, row.gaussians))),
        _change(*map(figures.psnr, tested)),
        _change(*map(figures.ssim, tested)),
        figures.seconds(60 * row.training_minutes),
        figures.seconds(60 * row.compressing_minutes),
        row.tries,
    )


def _change(before: str, after: str) -> str:
    return before if before == after == figures.NOT_MEASURED else f"{before} → {after}"


def _log(output: Path, row: Row) -> Html | None:
    path = log_path(scene_folder(output, row.scene))
    return element("a", "log", href=_link(output, path)) if path.is_file() else None


def _link(output: Path, target: Path) -> str:
    """The address of a file, from the page's folder: both may be moved together."""
    try:
        relative = os.path.relpath(target, output)
    except ValueError:  # another drive of Windows
        return target.as_uri()
    return quote(relative.replace(os.sep, "/"))


def _minutes(row: Row) -> float:
    return row.training_minutes + row.compressing_minutes
