# SPDX-License-Identifier: Apache-2.0
"""Markdown tables from compression reports: `python benchmarks/report_tables.py MODEL [MODEL ...]`.

Each MODEL holds compressed/report.json. One row a model, then the curve of each run that measured
test views (`compress.py --measure_test_every N`). Megabytes are decimal, minutes are CPU time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gaussian_compression.report import CompressionReport, read_report, report_path
from gaussian_compression.rounds import psnr_of
from utils.cli import run

SUMMARY_HEAD = (
    "| model | Gaussians | MB | ratio | B/Gaussian | PSNR test | SSIM test | rounds | CPU min |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
CURVE_HEAD = (
    "| round | kept | MB | ratio | guard PSNR | guard drop | test PSNR | test drop | test SSIM |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("models", type=Path, nargs="+")
    models = parser.parse_args().models
    reports = {model.name: read_report(report_path(model)) for model in models}
    print(SUMMARY_HEAD)
    for name, report in reports.items():
        print(summary_row(name, report))
    for name, report in reports.items():
        if any(done.measurement for done in report.rounds):
            print(f"\n{name}\n\n{CURVE_HEAD}")
            print("\n".join(curve_rows(report)))


def summary_row(name: str, report: CompressionReport) -> str:
    before, after = report.start, report.compressed
    cpu_minutes = sum(stage.cpu_seconds for stage in report.stages) / 60
    start_bytes = before.bytes or 0
    cells = [
        name,
        f"{before.gaussians:,} → {after.gaussians:,}",
        f"{start_bytes / 1e6:.2f} → {after.bytes / 1e6:.3f}",
        f"{start_bytes / after.bytes:.1f}",
        f"{after.bytes_per_gaussian:.1f}",
        f"{number(before.test.psnr, 3)} → {number(after.test.psnr, 3)}",
        f"{number(before.test.ssim, 4)} → {number(after.test.ssim, 4)}",
        str(report.stopping.shipped_round) if report.stopping else "",
        f"{cpu_minutes:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def curve_rows(report: CompressionReport) -> list[str]:
    zero = report.rounds[0]
    rows = []
    for done in report.rounds:
        if done.measurement is None or zero.measurement is None:
            continue
        test, size = done.measurement.test, done.measurement.file_bytes
        guard_drop = psnr_of(zero.guard) - psnr_of(done.guard)
        cells = [
            str(done.number),
            f"{100 * done.gaussians / report.start.gaussians:.1f} %",
            f"{size / 1e6:.3f}",
            f"{(report.start.bytes or 0) / size:.1f}",
            f"{psnr_of(done.guard):.3f}",
            f"{guard_drop:+.3f}",
            f"{psnr_of(test):.3f}",
            f"{psnr_of(zero.measurement.test) - psnr_of(test):+.3f}",
            number(test.ssim, 4),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def number(value: float | None, digits: int) -> str:
    """The number, or a dash where it was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    run(main)
