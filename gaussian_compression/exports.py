# SPDX-License-Identifier: Apache-2.0
"""The decoded model in files of other formats, beside the compressed file. No PyTorch."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from gaussian_compression.model_folder import FILE_NAME, Outputs
from gaussian_compression.report import UNMEASURED, CompressionReport, ExportFigures
from gaussian_compression.rounds import Quality
from splat_formats.f3dgs_file import F3DGS
from splat_formats.files import FORMATS
from splat_formats.losses import lines
from splat_formats.measured_file import write_measured
from splat_formats.scene import SplatScene
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, Splats
from utils.cli import os_error_text
from utils.errors import InputError

_STEM = Path(FILE_NAME).stem  # of the files' names
EXPORT_HELP = (
    "formats, with commas between them (spz,sog): write the decoded model in each, beside the "
    "compressed file, and compare their sizes and quality"
)


@dataclass(frozen=True, eq=False)
class Export:
    """One file, and the model that it decodes to."""

    data: bytes
    scene: SplatScene
    figures: ExportFigures


@dataclass(frozen=True, eq=False)
class Exports:
    """The files that could be made, and a sentence for each of the others."""

    files: tuple[Export, ...] = ()
    faults: tuple[str, ...] = ()

    def contents(self) -> dict[str, bytes]:
        """The files by name."""
        return {file.figures.file: file.data for file in self.files}


def export_names(formats: str | None) -> tuple[str, ...]:
    """The files' names for formats such as `spz,compressed.ply`, each once.

    InputError for a format that cannot be written, also if a package that it needs is missing.
    """
    if formats is None:
        return ()
    possible = [ending.removeprefix(".") for known in FORMATS for ending in known.endings
                if known.write and ending != F3DGS]  # fmt: skip
    given = [word.strip().lower().removeprefix(".") for word in formats.split(",")]
    for word in given:
        if word not in possible:
            raise InputError(
                f"--export {formats}: expected names of formats with commas between them, out of "
                f"{', '.join(possible)}, but got {word!r}"
            )
    names = tuple(f"{_STEM}.{word}" for word in dict.fromkeys(given))
    for name in names:
        _exported(_one_gaussian(), name)
    return names


def exports_of(decoded: SplatScene, names: tuple[str, ...]) -> Exports:
    """The model in a file of each name. A format that cannot hold it is a fault, no exception."""
    files, faults = [], []
    for name in names:
        try:
            files.append(_exported(decoded, name))
        except InputError as error:
            faults.append(f"{name} was not exported: {error}")
        except OSError as error:
            faults.append(f"{name} was not exported: {os_error_text(error)}")
    return Exports(tuple(files), tuple(faults))


def check_complete(exports: Exports) -> None:
    """Raises InputError if a file could not be made."""
    if exports.faults:
        raise InputError(f"everything else is complete, but {'; '.join(exports.faults)}")


def export_lines(report: CompressionReport) -> list[str]:
    """Sizes, and quality where it was measured, of all files, and what each lost, for the terminal.

    Nothing for a report without exports.
    """
    if not report.exports:
        return []
    return [*_table(report), *chain.from_iterable(map(_lost, report.exports))]


def _table(report: CompressionReport) -> list[str]:
    head = f"  {'file':<22}{'bytes':>14}{'Gaussians':>12}{'SH':>4}"
    ours = {"guard": report.compressed.guard, "test": report.compressed.test}
    views = [name for name, quality in ours.items() if quality != UNMEASURED]
    rows = [head + "".join(f"{name + ' PSNR':>12}" for name in views)]
    for entry in report.all_files():
        row = f"  {entry.file:<22}{entry.bytes:>14,}{entry.gaussians:>12,}{entry.sh_degree:>4}"
        rows.append(row + "".join(f"{_decibels(getattr(entry, name).psnr):>12}" for name in views))
    return rows


def _lost(figures: ExportFigures) -> list[str]:
    found = [] if figures.losses is None else lines(figures.losses)
    found += [f"  {notice}" for notice in figures.notices]
    return [f"{figures.file}:", *found] if found else []


def _decibels(psnr: float | None) -> str:
    return "-" if psnr is None else f"{psnr:.3f}"


def measured(
    exports: Exports, measure: Callable[[Splats, str], tuple[Quality, Quality]]
) -> Exports:
    """The exports with their quality on guard and test views. `measure` takes a model and the name
    of its file."""
    files = []
    for file in exports.files:
        guard, test = measure(file.scene.splats, file.figures.file)
        files.append(replace(file, figures=replace(file.figures, guard=guard, test=test)))
    return replace(exports, files=tuple(files))


def with_exports(outputs: Outputs, names: tuple[str, ...]) -> tuple[Outputs, Exports]:
    """The outputs with these files, whose quality is not measured."""
    made = exports_of(outputs.decoded, names)
    figures = tuple(file.figures for file in made.files)
    report = outputs.report
    report = replace(report, exports=figures, notices=(*report.notices, *made.faults))
    return replace(outputs, report=report, exports=made.contents()), made


def _exported(scene: SplatScene, name: str) -> Export:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        written = write_measured(path, scene)
        splats = written.scene.splats
        data = path.read_bytes()
    figures = ExportFigures(
        file=name,
        bytes=len(data),
        gaussians=splats.count,
        sh_degree=splats.sh_degree,
        losses=written.losses,
        notices=written.notices,
    )
    return Export(data, written.scene, figures)


def _one_gaussian() -> SplatScene:
    """The smallest scene that every writer has to handle in full."""
    rest = REST_COEFFICIENTS[MAX_SH_DEGREE]
    shapes = {"xyz": (1, 3), "features_dc": (1, 1, 3), "features_rest": (1, rest, 3),
              "opacity": (1, 1), "scaling": (1, 3)}  # fmt: skip
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return SplatScene(Splats(**zeros, rotation=np.array([[1, 0, 0, 0]], np.float32)))
