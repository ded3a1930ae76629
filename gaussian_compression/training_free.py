# SPDX-License-Identifier: Apache-2.0
"""Compress a model in seconds, without photographs: only quantise and encode.

`python compress.py --training_free -m MODEL [--start_ply scene.ply] [--quality high]`; imports no
PyTorch.
"""

import os
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np

from arguments import CFG_ARGS_NAME, ModelOptions
from gaussian_compression.attribute_histograms import attribute_histograms
from gaussian_compression.cfg_record import options_of, record_options
from gaussian_compression.exports import (
    EXPORT_HELP,
    Exports,
    check_complete,
    export_lines,
    export_names,
    with_exports,
)
from gaussian_compression.free_settings import FreeSettings
from gaussian_compression.model_folder import (
    Outputs,
    StartModel,
    file_path,
    free_iteration,
    highest_ply,
    iteration_folder,
    prepare_outputs,
    start_from_file,
    write_outputs,
)
from gaussian_compression.report import (
    CompressionReport,
    FileFigures,
    StartFigures,
    page_path,
    report_path,
)
from gaussian_compression.rounds import StageTime
from gaussian_compression.training_free_blocks import (
    BlockedStart,
    compress_in_blocks,
    require_memory,
)
from gaussian_compression.visible_errors import lines, visible_errors
from splat_codec.block_file import MAX_BLOCKS
from splat_codec.model_file import ModelFile, bytes_per_section, encode
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.edits import cut_to_degree
from splat_formats.file_description import describe, from_entries, to_entries
from splat_formats.files import bytes_of_model, log_notices
from splat_formats.row_source import RowSource, SceneRows, rows_of_ply
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.spatial_blocks import BLOCK_GAUSSIANS, LEAST_WITH_BLOCKS, number_of_blocks
from splat_formats.splats import MAX_SH_DEGREE, Splats
from splat_formats.visible import visible_gaussians
from utils.cli import command_line, show_messages
from utils.errors import InputError
from utils.folder_lock import locked
from utils.units import MEGABYTE

WANTED_ITERATION = 1  # of the decoded model, in a folder without others


def main() -> None:
    """Reads the command line and the model; writes file, decoded PLY and report."""
    show_messages()
    args = build_parser().parse_args()
    model_path = args.model_path
    exports = export_names(args.export)
    settings = FreeSettings(args.quality, args.sh_degree, args.position_bits)
    if args.blocks is not None and not 1 <= args.blocks <= MAX_BLOCKS:
        raise InputError(f"--blocks {args.blocks}: expected 1 to {MAX_BLOCKS:,}")
    with locked(model_path):
        start = _start(args)
        prepare_outputs(model_path, start.path, exports)
        if isinstance(start, BlockedStart):
            report, options = _in_blocks(args, start, settings)
            faults = Exports()
        else:
            options = _options(args, start.path, start.splats.sh_degree, start.metadata)
            start = with_render_mode(start, options.antialiasing)
            iteration = free_iteration(model_path, start.iteration + WANTED_ITERATION)
            outputs = compress_without_training(start, iteration, settings, command_line())
            outputs, faults = with_exports(outputs, exports)
            write_outputs(model_path, start, outputs)
            report = outputs.report
        record_options(model_path, options)
    print_result(model_path, report)
    check_complete(faults)


def _start(args: Namespace) -> StartModel | BlockedStart:
    """The model; one that is big enough for blocks, or has to get some, is not read as a whole."""
    iteration, path = 0, args.start_ply
    if path is None:
        iteration, path = highest_ply(args.model_path)
    least = LEAST_WITH_BLOCKS if args.blocks is None else args.blocks
    rows: RowSource | None = None
    if args.blocks != 1 and path.exists():
        rows = rows_of_ply(path, max(2, least))
    if rows is None:
        start = start_from_file(path, iteration)
        if number_of_blocks(start.splats.count, args.blocks) < 2:
            return start
        rows = SceneRows(start.scene)
    else:
        log_notices(path, rows.metadata.notices)
    return BlockedStart(path, iteration, rows, bytes_of_model(path))


def _in_blocks(
    args: Namespace, start: BlockedStart, settings: FreeSettings
) -> tuple[CompressionReport, ModelOptions]:
    """Writes the outputs of a model in blocks; the report, and the options for cfg_args."""
    if args.export:
        raise InputError(
            f"--export {args.export}: a model of {start.rows.count:,} Gaussians is compressed in "
            "blocks, and not exported: give --blocks 1, or convert the file with convert_splats.py"
        )
    options = _options(args, start.path, start.rows.sh_degree, start.rows.metadata)
    blocks = number_of_blocks(start.rows.count, args.blocks)
    print(require_memory(start.rows, blocks), flush=True)
    iteration = free_iteration(args.model_path, start.iteration + WANTED_ITERATION)
    report = compress_in_blocks(
        args.model_path,
        start,
        iteration,
        replace(settings, blocks=blocks),
        antialiasing=options.antialiasing,
        command=command_line(),
    )
    return report, options


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--training_free", action="store_true", help="this mode")
    add("-m", "--model_path", type=Path, required=True, help="folder to write to")
    add("--start_ply", type=Path, help="the model to compress, of any format (default: the "
        "highest trained iteration in the folder to write to)")  # fmt: skip
    add("--export", metavar="FORMATS", help=EXPORT_HELP)
    add("-s", "--source_path", default="", help="the data set, only to record it for render.py")
    add("--quality", choices=sorted(QUALITIES), default="high", help="default: high; the others "
        "give a smaller file")  # fmt: skip
    add("--position_bits", type=int, choices=range(12, 21), help="bits of a position on each axis "
        "of the finest grid (default: what the finest Gaussians need)")  # fmt: skip
    add("--sh_degree", type=int, choices=range(MAX_SH_DEGREE + 1),
        help="highest degree of spherical harmonics to keep")  # fmt: skip
    add(
        "--blocks",
        type=int,
        metavar="N",
        help="compress the model in N parts, one after "
        f"the other, so that it need not fit into memory (default: from {LEAST_WITH_BLOCKS:,} "
        f"Gaussians on as many as are needed for {BLOCK_GAUSSIANS:,} in each; 1: as a whole)",
    )
    add("--antialiasing", action="store_true", help="the model was trained with --antialiasing: "
        "record it (where its PLY or cfg_args does not)")  # fmt: skip
    return parser


def compress_without_training(
    start: StartModel, iteration: int, settings: FreeSettings, command: tuple[str, ...] = ()
) -> Outputs:
    """The outputs, whose decoded model is `iteration`; `command`, if there is one, for the report.

    InputError if no Gaussian is left.
    """
    wall, cpu = time.monotonic(), time.process_time()
    visible = visible_gaussians(start.splats, start.path)
    kept, repairs = visible.splats, visible.repairs.notices
    degree = kept.sh_degree if settings.sh_degree is None else settings.sh_degree
    quantized = quantize_splats(cut_to_degree(kept, degree), settings.steps())
    exact = len(np.unique(quantized.splats.exact.rows))
    adjustments = replace(visible.adjustments, stored_exactly=exact)
    log_notices(start.path, repairs)
    adjustments.log()
    description = describe(start.splats, settings.recorded(), **to_entries(start.metadata))
    data = encode(ModelFile(quantized.splats, description))
    decoded = to_splats(quantized.splats)
    took = StageTime(
        "quantise, encode and decode",
        round(time.monotonic() - wall, 2),
        round(time.process_time() - cpu, 2),
    )
    report = CompressionReport(
        start=StartFigures(
            ply=str(start.path),
            iteration=start.iteration,
            gaussians=start.splats.count,
            dropped=start.splats.count - kept.count,
            bytes=start.ply_bytes,
        ),
        compressed=_file_figures(data, decoded, start, iteration),
        settings=settings.recorded(),
        environments=({"from_round": 0, "numpy": np.__version__},),
        stages=(took,),
        # Against the start model with all its spherical harmonics.
        errors=visible_errors(kept, decoded, quantized.order),
        layer_ends=tuple(quantized.splats.layer_ends),
        notices=(*start.metadata.notices, *repairs, *filter(None, [str(adjustments)])),
        command=command,
        histograms=attribute_histograms(kept, decoded),
    )
    return Outputs(data, SplatScene(decoded, from_entries(description)), report)


def _file_figures(data: bytes, decoded: Splats, start: StartModel, iteration: int) -> FileFigures:
    return FileFigures(
        iteration=iteration,
        gaussians=decoded.count,
        sh_degree=decoded.sh_degree,
        bytes=len(data),
        ratio=round(start.ply_bytes / len(data), 2),
        bytes_per_gaussian=round(len(data) / decoded.count, 3),
        bytes_per_attribute={},
        bytes_per_section=bytes_per_section(data),
    )


def with_render_mode(start: StartModel, antialiasing: bool) -> StartModel:
    """The start model with the render mode in its metadata."""
    metadata = replace(start.metadata, antialiasing=antialiasing)
    return replace(start, scene=replace(start.scene, metadata=metadata))


def _options(args: Namespace, path: Path, sh_degree: int, metadata: SplatMetadata) -> ModelOptions:
    """The options for cfg_args: those of the model folder, or else of the PLY's model folder."""
    folder, clouds = args.model_path, path.absolute().parent.parent
    if not (folder / CFG_ARGS_NAME).exists() and clouds.name == "point_cloud":
        folder = clouds.parent
    recorded = options_of(folder)
    modes = (args.antialiasing, recorded.antialiasing, metadata.antialiasing)
    given = args.source_path and os.path.abspath(args.source_path)  # noqa: PTH100, keeps symlinks
    return replace(
        recorded,
        source_path=given or recorded.source_path,
        sh_degree=sh_degree if args.sh_degree is None else args.sh_degree,
        antialiasing=any(modes),
    )


def print_result(model_path: Path, report: CompressionReport) -> None:
    """Prints sizes, errors and paths in a few lines."""
    compressed, seconds = report.compressed, report.stages[0].wall_seconds
    print(f"{file_path(model_path)}: {compressed.bytes / MEGABYTE:.3g} MB, "
          f"{compressed.ratio:.1f} times smaller, {seconds:.1f} s")  # fmt: skip
    print(f"Gaussians: {report.start.gaussians:,} -> {compressed.gaussians:,}")
    print("\n".join(lines(report.errors)))
    print("".join(f"{line}\n" for line in export_lines(report)), end="")
    print(f"Decoded model: {iteration_folder(model_path, compressed.iteration)}")
    print(f"Report: {page_path(report_path(model_path))}")
