# SPDX-License-Identifier: Apache-2.0
"""What compress.py makes of fox_model in so many rounds, with each of its presets."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gaussian_compression.report import CompressionReport, read_report, report_path

ROOT = Path(__file__).parents[1]
PRESETS = ("fast3dgs", "compact")


def run_rounds(data: Path, rounds: int, work: Path, flags: list[str]) -> dict[str, Path]:
    """The folder in `work` of each preset's model; `flags` are more of compress.py's.

    The presets differ in what comes after the rounds only, which are thus shared. Killed and called
    again with the same arguments, it goes on.
    """
    folders = {preset: (work / preset).resolve() for preset in PRESETS}
    before: Path | None = None
    for preset, folder in folders.items():
        checkpoints = folder / "compressed" / "rounds"
        if before is not None and before.exists():
            checkpoints.parent.mkdir(parents=True, exist_ok=True)
            before.rename(checkpoints)
        if not report_path(folder).exists():
            command: list[str | Path] = [
                *(sys.executable, "compress.py", "-s", data.resolve() / "fox", "-m", folder),
                *("--pretrained_dir", data.resolve() / "fox_model", "--preset", preset),
                *("--max_psnr_drop", "100", "--max_rounds", str(rounds), "--keep_rounds", *flags),
            ]
            subprocess.run(command, cwd=ROOT, check=True)
        before = checkpoints
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return folders


def read_rounds(folders: dict[str, Path]) -> dict[str, Any]:
    """Figures of both presets, from their folders' reports; ValueError if these do not match."""
    figures = {
        preset: _figures(read_report(report_path(folder))) for preset, folder in folders.items()
    }
    for name in ("rounds", "start_gaussians", "gaussians"):
        found = {preset: row[name] for preset, row in figures.items()}
        if len(set(found.values())) > 1:
            raise ValueError(f"the reports are of different runs: {name} {found}")
    for preset, row in figures.items():
        print(f"{preset}, {row['rounds']} rounds: {row['gaussians']:,} Gaussians, "
              f"{row['bytes'] / row['gaussians']:.2f} bytes each, test {row['psnr']:.3f} dB, "
              f"SSIM {row['ssim']:.4f}; {row['cpu_minutes']:.0f} minutes of CPU")  # fmt: skip
    return figures


def _figures(report: CompressionReport) -> dict[str, Any]:
    compressed = report.compressed
    return {
        "rounds": report.stopping.shipped_round if report.stopping else None,
        "start_gaussians": report.start.gaussians,
        "gaussians": compressed.gaussians,
        "bytes": compressed.bytes,
        "psnr": compressed.test.psnr,
        "ssim": compressed.test.ssim,
        "cpu_minutes": sum(stage.cpu_seconds for stage in report.stages) / 60,
    }
