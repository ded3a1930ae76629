# SPDX-License-Identifier: Apache-2.0
"""The table of the figures: one line for each scene and iteration, and means."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from full_evaluation.scenes import BenchmarkScene
from full_evaluation.steps import compressed_iteration, read_results
from utils.model_files import model_file
from utils.units import MEGABYTE

FIGURES = ("PSNR", "SSIM", "LPIPS", "MB")
_LONGEST_NAME = 30
_DECIMALS = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "MB": 2}


@dataclass(frozen=True)
class Line:
    """One model's figures; None: not measured."""

    data_set: str
    scene: str
    model: str
    """An iteration, or "compressed"."""
    figures: dict[str, float | None]


def lines_of(scenes: Sequence[BenchmarkScene]) -> list[Line]:
    """A line for each iteration in the results.json of each scene."""
    return [line for scene in scenes for line in _scene_lines(scene)]


def _scene_lines(scene: BenchmarkScene) -> Iterator[Line]:
    results = read_results(scene.model)
    if not results:
        return
    decoded = compressed_iteration(scene.model)
    found = [
        (int(name.removeprefix("ours_")), scores)
        for name, scores in results.items()
        if name.removeprefix("ours_").isdecimal() and len(name) < _LONGEST_NAME
    ]
    for iteration, scores in sorted(found, key=lambda item: item[0]):
        is_decoded = iteration == decoded
        file = model_file(scene.model, iteration)
        if is_decoded:
            file = scene.model / "compressed" / "model.f3dgs"
        figures = {name: scores.get(name) for name in FIGURES[:-1]} | {"MB": _megabytes(file)}
        yield Line(
            scene.data_set, scene.name, "compressed" if is_decoded else str(iteration), figures
        )


def _megabytes(path: Path) -> float | None:
    return path.stat().st_size / MEGABYTE if path.is_file() else None


def with_means(lines: Sequence[Line]) -> list[Line]:
    """The lines, and for each model the mean of each data set that has several scenes."""
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.data_set, line.model].append(line)
    means = [
        Line(data_set, f"mean of {len(group)}", model, _means(group))
        for (data_set, model), group in groups.items()
        if len(group) > 1
    ]
    return [*lines, *means]


def _means(lines: Sequence[Line]) -> dict[str, float | None]:
    """Means of the figures that all lines have."""
    means: dict[str, float | None] = {}
    for name in FIGURES:
        values = [line.figures[name] for line in lines]
        known = [value for value in values if value is not None]
        means[name] = fmean(known) if len(known) == len(values) else None
    return means


def table_text(lines: Sequence[Line]) -> str:
    """The lines as text in columns."""
    rows: list[Sequence[str]] = [("data set", "scene", "model", *FIGURES)]
    for line in lines:
        figures = [_shown(name, line.figures[name]) for name in FIGURES]
        rows.append((line.data_set, line.scene, line.model, *figures))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _shown(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{_DECIMALS[name]}f}"
