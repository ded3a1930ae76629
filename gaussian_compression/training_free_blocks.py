# SPDX-License-Identifier: Apache-2.0
"""Compression without photographs of a model that need not fit into memory, block by block.

Each block is read, put on its own grids and encoded alone, and the file and the decoded PLY are
written as the blocks come. Steps are chosen by what the whole model is like. No PyTorch.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussian_compression.attribute_histograms import MOST_GAUSSIANS, attribute_histograms
from gaussian_compression.decoded_mark import PLY_NAME, write_mark
from gaussian_compression.free_settings import FreeSettings
from gaussian_compression.model_folder import (
    FILE_NAME,
    iteration_folder,
    replaced_outputs,
    write_report_and_page,
)
from gaussian_compression.report import (
    CompressionReport,
    FileFigures,
    Histogram,
    StartFigures,
)
from gaussian_compression.rounds import StageTime
from gaussian_compression.visible_errors import VisibleErrors, least_size
from splat_codec.block_file import BlockIndex, BlockWriter
from splat_codec.model_file import ModelFile, encode
from splat_formats.block_coding import MOST_AT_ONCE, box_of, in_order, index_of
from splat_formats.decoded import to_splats
from splat_formats.design_grids import Surroundings, quantize_splats, surroundings
from splat_formats.edits import cut_to_degree
from splat_formats.file_description import describe_source, from_entries, to_entries
from splat_formats.files import log_notices
from splat_formats.outliers import Adjustments
from splat_formats.ply import PlyWriter, origin_notices, ply_parts, zeros_notices
from splat_formats.repairs import Repairs, zero_rows
from splat_formats.row_source import RowSource
from splat_formats.spatial_blocks import spatial_blocks
from splat_formats.splats import REST_COEFFICIENTS, Splats, joined
from splat_formats.visible import Visible, visible_part
from utils.errors import InputError
from utils.memory import available_memory
from utils.units import MEGABYTE

_ERROR_SAMPLE = 500_000  # Gaussians whose errors are measured, or up to twice as many
_BYTES_PER_GAUSSIAN = 32  # of the whole model: centres, places on the curve, rows
_BYTES_PER_VALUE = 16  # of a block in work: as read, in integers, decoded, and temporary copies
_OTHER_BYTES = 300 * MEGABYTE

_Rows = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class BlockedStart:
    """The trained model that a compression in blocks starts from."""

    path: Path
    iteration: int
    """0 for a file without a model folder."""
    rows: RowSource
    bytes: int
    """Of its file."""


@dataclass(frozen=True, eq=False)
class _Coded:
    """One block, and what the report has to state about it."""

    data: bytes
    """Empty where no image can show a Gaussian of the block."""
    decoded: Splats
    sampled: Splats
    """Some of the Gaussians before."""
    repairs: Repairs
    adjustments: Adjustments
    zeros: int
    """Gaussians with nothing but zeros."""


@dataclass
class _Totals:
    """What is collected of all blocks."""

    repairs: Repairs
    adjustments: Adjustments
    zeros: int
    sampled: list[tuple[Splats, Splats]]
    """Some Gaussians before and after."""

    def add(self, coded: _Coded, every: int) -> None:
        self.repairs = self.repairs.plus(coded.repairs)
        self.adjustments = self.adjustments.plus(coded.adjustments)
        self.zeros += coded.zeros
        self.sampled.append((coded.sampled, _every(coded.decoded, every)))


class _Coder:
    """Compresses blocks of a model; `code` may run in several threads."""

    def __init__(self, start: BlockedStart, settings: FreeSettings) -> None:
        self._rows, self._steps = start.rows, settings.steps()
        own = start.rows.sh_degree
        self.sh_degree = own if settings.sh_degree is None else settings.sh_degree
        if self.sh_degree > own:
            raise InputError(f"SH degree {self.sh_degree}: expected at most {own}, the model's")
        self._around, least = self._surroundings()
        self.errors = VisibleErrors(least)
        self.errors_of = max(1, start.rows.count // _ERROR_SAMPLE)
        """Every n-th Gaussian is compared."""
        self.every = max(1, start.rows.count // MOST_GAUSSIANS)

    def _surroundings(self) -> tuple[Surroundings | None, float | None]:
        """What the model is like, and the size in which errors of smaller Gaussians are measured.

        None where a sample has no Gaussians that an image can show: blocks have their own.
        """
        shown = visible_part(self._rows.sample()).splats
        if not shown.count:
            return None, None
        return surroundings(shown, self._steps), least_size(shown)

    def code(self, rows: _Rows) -> _Coded:
        """The block of these rows."""
        visible, zeros = self._read(rows)
        kept = visible.splats
        sampled = _every(kept, self.every)
        cut = cut_to_degree(kept, self.sh_degree)
        if not kept.count:
            return _Coded(b"", cut, sampled, visible.repairs, visible.adjustments, zeros)
        quantized = quantize_splats(cut, self._steps, around=self._around)
        data = encode(ModelFile(quantized.splats))
        decoded = to_splats(quantized.splats)
        compared = quantized.order[:: self.errors_of]
        self.errors.add(kept, _every(decoded, self.errors_of), compared)
        exact = len(np.unique(quantized.splats.exact.rows))
        adjustments = replace(visible.adjustments, stored_exactly=exact)
        return _Coded(data, decoded, sampled, visible.repairs, adjustments, zeros)

    def _read(self, rows: _Rows) -> tuple[Visible, int]:
        """The Gaussians that images can show, and how many have nothing but zeros."""
        given = self._rows.splats(rows)
        return visible_part(given), zero_rows(given)


def _every(splats: Splats, step: int) -> Splats:
    """A copy of every n-th Gaussian, so that the others need not stay in memory."""
    return splats.rows(np.arange(0, splats.count, step))


def compress_in_blocks(
    model_path: Path,
    start: BlockedStart,
    iteration: int,
    settings: FreeSettings,
    antialiasing: bool = False,
    command: tuple[str, ...] = (),
) -> CompressionReport:
    """Writes the outputs, whose decoded model is `iteration`, and returns their report.

    `settings.blocks` is the number of blocks, `antialiasing` the render mode. InputError if no
    Gaussian is left.
    """
    wall, cpu = time.monotonic(), time.process_time()
    coder = _Coder(start, settings)
    blocks, most = _planned(start.rows, settings.blocks or 1)
    metadata = replace(start.rows.metadata, antialiasing=antialiasing)
    description = describe_source(
        start.rows.count, start.rows.sh_degree, settings.recorded(), **to_entries(metadata)
    )
    decoded_metadata = from_entries(description)
    coefficients = REST_COEFFICIENTS[coder.sh_degree]
    totals = _Totals(Repairs(), Adjustments(), 0, [])
    with replaced_outputs(model_path, iteration) as places:
        with (
            places.file.open("wb") as file,
            ply_parts(
                places.decoded / PLY_NAME, most, coefficients, decoded_metadata, is_hashed=True
            ) as ply,
        ):
            writer = BlockWriter(file, len(blocks), coder.sh_degree, description)
            for coded in in_order(coder.code, _used_up(blocks)):
                _write(coded, writer, ply)
                totals.add(coded, coder.every)
            writer.finish()
        index = index_of(places.file)
        if not index.count:
            raise InputError(f"{start.path}: expected Gaussians that an image can show, found none")
        write_mark(places.decoded, FILE_NAME, start.iteration, places.file, {}, ply.sha256)
        took = StageTime(
            "quantise, encode and decode",
            round(time.monotonic() - wall, 2),
            round(time.process_time() - cpu, 2),
        )
        report = CompressionReport(
            start=_start_figures(start, index),
            compressed=_file_figures(index, places.file.stat().st_size, start, iteration),
            settings=settings.recorded(),
            environments=({"from_round": 0, "numpy": np.__version__},),
            stages=(took,),
            errors=coder.errors.figures(),
            notices=_notices(start, totals, coder.errors_of),
            command=command,
            histograms=_histograms(totals, coder.every),
        )
        write_report_and_page(model_path, places, report, {})
    place = iteration_folder(model_path, iteration) / PLY_NAME
    log_notices(place, origin_notices(metadata.origin))
    return report


def memory_needed(rows: RowSource, blocks: int) -> int:
    """An estimate of the memory in bytes that `compress_in_blocks` needs beside `rows`."""
    values = 14 + 3 * REST_COEFFICIENTS[rows.sh_degree]
    at_once = min(blocks, MOST_AT_ONCE + 1) * -(-rows.count // blocks)
    return _OTHER_BYTES + _BYTES_PER_GAUSSIAN * rows.count + _BYTES_PER_VALUE * values * at_once


def require_memory(rows: RowSource, blocks: int) -> str:
    """What `compress_in_blocks` will need, as a sentence. InputError if there is less memory."""
    needed, available = memory_needed(rows, blocks), available_memory()
    amount = f"{needed / 1e9:.1f} GB of memory"
    text = f"{rows.count:,} Gaussians in {blocks:,} blocks need about {amount}"
    if available is not None and needed > available:
        raise InputError(
            f"{text}, but {available / 1e9:.1f} GB are available: give a greater number with "
            "--blocks"
        )
    return text


def _planned(rows: RowSource, number: int) -> tuple[list[_Rows], int]:
    """The rows of each block, and how many Gaussians of all blocks are shown at most."""
    outline = rows.outline()
    return spatial_blocks(outline.xyz, number), outline.visible


def _used_up(blocks: list[_Rows]) -> Iterator[_Rows]:
    """The blocks; those that are done are forgotten."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()


def _write(coded: _Coded, writer: BlockWriter, ply: PlyWriter) -> None:
    low, high = box_of(coded.decoded.xyz)
    writer.add(coded.data, coded.decoded.count, low, high)
    ply.add(coded.decoded)


def _start_figures(start: BlockedStart, index: BlockIndex) -> StartFigures:
    return StartFigures(
        ply=str(start.path),
        iteration=start.iteration,
        gaussians=start.rows.count,
        dropped=start.rows.count - index.count,
        bytes=start.bytes,
    )


def _file_figures(index: BlockIndex, size: int, start: BlockedStart, iteration: int) -> FileFigures:
    return FileFigures(
        iteration=iteration,
        gaussians=index.count,
        sh_degree=index.sh_degree,
        bytes=size,
        ratio=round(start.bytes / size, 2),
        bytes_per_gaussian=round(size / index.count, 3),
        bytes_per_attribute={},
        bytes_per_section=dict(index.bytes_per_section),
    )


def _notices(start: BlockedStart, totals: _Totals, errors_of: int) -> tuple[str, ...]:
    """What was changed in all blocks together, logged too, and how errors were measured."""
    repairs = totals.repairs.notices
    log_notices(start.path, repairs)
    totals.adjustments.log()
    known = start.rows.metadata.notices  # logged when the model was read
    zeros = tuple(notice for notice in zeros_notices(totals.zeros) if notice not in known)
    log_notices(start.path, zeros)
    sampled = f"the errors are those of one in {errors_of} Gaussians" if errors_of > 1 else ""
    done = filter(None, [str(totals.adjustments), sampled])
    return (*known, *zeros, *repairs, *done)


def _histograms(totals: _Totals, every: int) -> dict[str, Histogram]:
    before = joined([start for start, _ in totals.sampled])
    after = joined([decoded for _, decoded in totals.sampled])
    found = attribute_histograms(before, after)
    return {name: replace(histogram, every=every) for name, histogram in found.items()}
