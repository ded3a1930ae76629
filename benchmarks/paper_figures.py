# SPDX-License-Identifier: Apache-2.0
"""The published figures of Fast-3DGS, and tables of measured ones beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

COLUMNS = ("PSNR", "SSIM", "LPIPS", "Gaussians", "FPS", "MB", "minutes")
_DECIMALS = (2, 3, 3, 0, 0, 2, 1)

Figures = tuple[float | None, ...]
"""In the order of COLUMNS; None: not known."""

# From the method's page (COGS'25 workshop, ICCV 2025), with the original rasteriser. Its page gives
# no minutes.
PUBLISHED: dict[str, Figures] = {
    "bicycle": (25.22, 0.755, 0.248, 579283, 171, 21.66, None),
    "bonsai": (32.14, 0.939, 0.215, 296058, 205, 10.56, None),
    "counter": (28.98, 0.902, 0.220, 203121, 175, 8.04, None),
    "flowers": (21.55, 0.596, 0.368, 491931, 234, 20.21, None),
    "garden": (27.37, 0.861, 0.125, 1130273, 143, 44.51, None),
    "kitchen": (30.93, 0.919, 0.150, 263772, 185, 10.39, None),
    "room": (31.42, 0.913, 0.244, 166795, 195, 5.62, None),
    "stump": (26.66, 0.767, 0.260, 327342, 262, 13.05, None),
    "treehill": (22.27, 0.590, 0.457, 94202, 304, 3.44, None),
    "drjohnson": (28.99, 0.897, 0.276, 165140, 325, 6.17, None),
    "playroom": (30.22, 0.910, 0.252, 381647, 251, 13.93, None),
    "train": (21.79, 0.764, 0.296, 87527, 415, 3.38, None),
    "truck": (25.04, 0.872, 0.165, 361868, 243, 12.64, None),
}


@dataclass(frozen=True)
class Measured:
    """One scene, compressed in one way."""

    data_set: str
    scene: str
    preset: str
    figures: Figures


def table_text(measured: Sequence[Measured]) -> str:
    """Three rows for each: the published figures, the measured ones, the difference.

    Then the means of each data set and of all scenes, of the scenes that are there.
    """
    rows: list[Sequence[str]] = [("scene", "", *COLUMNS)]
    for one in measured:
        rows += _rows(one.scene, one.preset, PUBLISHED[one.scene], one.figures)
    for name, preset, group in _groups(measured):
        published = mean_figures(PUBLISHED[one.scene] for one in group)
        found = mean_figures(one.figures for one in group)
        rows += _rows(f"{name}, mean of {len(group)}", preset, published, found)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _groups(measured: Sequence[Measured]) -> list[tuple[str, str, list[Measured]]]:
    """Name, preset and members of each mean: data sets first, in the order of the table."""
    presets = list(dict.fromkeys(one.preset for one in measured))
    names = list(dict.fromkeys(one.data_set for one in measured))
    groups = [(name, preset, [one for one in measured if one.data_set == name])
              for name in names for preset in presets]  # fmt: skip
    if len(names) > 1:
        groups += [("all", preset, list(measured)) for preset in presets]
    chosen = [(name, preset, [one for one in group if one.preset == preset])
              for name, preset, group in groups]  # fmt: skip
    return [item for item in chosen if item[2]]


def mean_figures(figures: Iterable[Figures]) -> Figures:
    """Means of the columns; None where one value is not known."""
    columns = zip(*figures, strict=True)
    return tuple(
        fmean(known) if len(known := [v for v in column if v is not None]) == len(column) else None
        for column in columns
    )


def _rows(scene: str, preset: str, published: Figures, found: Figures) -> list[Sequence[str]]:
    differences = [
        None if ours is None or theirs is None else ours - theirs
        for ours, theirs in zip(found, published, strict=True)
    ]
    return [
        (scene, "published", *_cells(published)),
        ("", preset, *_cells(found)),
        ("", "difference", *_cells(differences, signed=True)),
    ]


def _cells(values: Sequence[float | None], signed: bool = False) -> list[str]:
    sign = "+" if signed else ""
    return [
        "-" if value is None else f"{value:{sign},.{decimals}f}"
        for value, decimals in zip(values, _DECIMALS, strict=True)
    ]
