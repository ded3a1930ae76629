# SPDX-License-Identifier: Apache-2.0
"""Markdown tables from compression reports: `python benchmarks/report_tables.py MODEL [MODEL ...]`.

Each MODEL holds compressed/report.json. One row a model, then the curve of each run that measured
test views (`compress.py --measure_test_every N`). Megabytes are decimal, minutes are CPU time.
"""

import argparse
import json
from pathlib import Path
from typing import Any

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
    reports = {m.name: json.loads((m / "compressed/report.json").read_text()) for m in models}
    print(SUMMARY_HEAD)
    for name, report in reports.items():
        print(summary_row(name, report))
    for name, report in reports.items():
        if any(done["measurement"] for done in report["rounds"]):
            print(f"\n{name}\n\n{CURVE_HEAD}")
            print("\n".join(curve_rows(report)))


def summary_row(name: str, report: dict[str, Any]) -> str:
    before, after = report["start"], report["compressed"]
    cpu_minutes = sum(stage["cpu_seconds"] for stage in report["stages"]) / 60
    cells = [
        name,
        f"{before['gaussians']:,} → {after['gaussians']:,}",
        f"{before['bytes'] / 1e6:.2f} → {after['bytes'] / 1e6:.3f}",
        f"{after['ratio']:.1f}",
        f"{after['bytes_per_gaussian']:.1f}",
        f"{before['test']['psnr']:.3f} → {after['test']['psnr']:.3f}",
        f"{before['test']['ssim']:.4f} → {after['test']['ssim']:.4f}",
        str(report["stopping"]["shipped_round"]),
        f"{cpu_minutes:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def curve_rows(report: dict[str, Any]) -> list[str]:
    rounds, start = report["rounds"], report["start"]
    zero = rounds[0]
    rows = []
    for done in rounds:
        if done["measurement"] is None:
            continue
        test, zero_test = done["measurement"]["test"], zero["measurement"]["test"]
        size = done["measurement"]["file_bytes"]
        cells = [
            str(done["number"]),
            f"{100 * done['gaussians'] / start['gaussians']:.1f} %",
            f"{size / 1e6:.3f}",
            f"{start['bytes'] / size:.1f}",
            f"{done['guard']['psnr']:.3f}",
            f"{zero['guard']['psnr'] - done['guard']['psnr']:+.3f}",
            f"{test['psnr']:.3f}",
            f"{zero_test['psnr'] - test['psnr']:+.3f}",
            f"{test['ssim']:.4f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    main()
