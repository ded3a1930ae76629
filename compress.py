# SPDX-License-Identifier: Apache-2.0
"""Compress a trained Gaussian model: `python compress.py -s SCENE -m MODEL`.

Prunes by gradients, fine-tunes with the quantisation of the file, and writes
MODEL/compressed/model.f3dgs, its report, and the decoded model as the next iteration of
MODEL/point_cloud, for render.py and metrics.py. After a kill at any moment, the same command
continues from the last finished round.
"""

import logging
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "--training_free" in sys.argv[1:]:
    # Takes seconds: does not wait for the imports below.
    from gaussian_compression import training_free
    from utils.cli import run
    from utils.launched_ranks import rank_and_count

    def main_of_first() -> None:
        """The other processes of torchrun have nothing to do."""
        if rank_and_count()[0] == 0:
            training_free.main()

    run(main_of_first)
    sys.exit()

import torch

from arguments import (
    CFG_ARGS_NAME,
    ModelOptions,
    ModelParams,
    PipelineOptions,
    PipelineParams,
    read_cfg_args,
)
from gaussian_compression.cfg_record import record_options
from gaussian_compression.checkpoints import clear_rounds
from gaussian_compression.exports import (
    EXPORT_HELP,
    check_complete,
    export_lines,
    export_names,
)
from gaussian_compression.file_metadata import changed_settings, up_axis
from gaussian_compression.final_model import target_lines
from gaussian_compression.ladder import clear_steps, ladder_lines, ladder_parts, step_name
from gaussian_compression.lod import existing_files, lod_of
from gaussian_compression.model_folder import (
    Outputs,
    StartModel,
    file_path,
    free_iteration,
    iteration_folder,
    model_folder_of,
    prepare_outputs,
    rounds_folder,
    start_from_file,
    start_from_folder,
    write_outputs,
)
from gaussian_compression.pipeline import CompressionJob, compress
from gaussian_compression.presets import (
    DEFAULT_PRESET,
    OTHER_NAMES,
    PRESET_HELP,
    PRESETS,
    preset_name,
)
from gaussian_compression.report import CompressionReport, page_path, report_path
from gaussian_compression.run_report import TEST_GUARD_WARNING, Invocation, build_report
from gaussian_compression.settings import (
    NO_RESTART,
    PUBLISHED_PATIENCE,
    PUBLISHED_WARMUP,
    CompressionSettings,
    FinetuneSettings,
    GridSettings,
    QuantizationSettings,
    StoppingRule,
    TrajectorySettings,
    check_settings,
)
from gaussian_compression.timing import planned
from gaussian_renderer.backend import RenderOptions
from scene import VIEWER_FILES, Scene, write_model_folder
from scene.dataset_readers import readSceneInfo
from scene.device import device_for
from scene.exposure import EXPOSURE_NAME, attach_exposures, read_exposures, score_right_halves
from scene.gaussian_model import GaussianModel
from scene.run_memory import TRAINED_BYTES
from splat_formats.file_description import describe, from_entries, to_entries
from splat_formats.scene import Origin, SplatMetadata, SplatScene
from utils.cli import check_ranges, command_line, run, show_messages
from utils.console_progress import ConsoleProgress
from utils.errors import InputError
from utils.files import write_bytes
from utils.folder_lock import locked
from utils.ranks import check_device, keep, shared
from utils.system_utils import announce_data_device
from utils.units import MEGABYTE

logger = logging.getLogger("gaussian_compression")


def main() -> None:
    """Reads the command line, compresses the model, writes the outputs and prints a summary."""
    began = time.monotonic()
    show_messages()
    parser, loading, pipeline = build_parser()
    args = parse(parser)
    exports = export_names(args.export)
    settings = replace(settings_of(args), ladder=ladder_parts(args.ladder))
    check_settings(settings)
    if args.lod and not settings.ladder:
        raise InputError("--lod: expected --ladder too, which makes the levels of detail")
    options, pipe = loading.extract(args), pipeline.extract(args)
    check_ranges(options, pipe)
    with locked(Path(args.model_path)):
        compress_folder(args, options, pipe, settings, exports, began)


def compress_folder(
    args: Namespace,
    options: ModelOptions,
    pipe: PipelineOptions,
    settings: CompressionSettings,
    exports: tuple[str, ...],
    began: float,
) -> None:
    """Compresses the model and writes the outputs into the model folder.

    `began`: the time.monotonic() at which the program began.
    """
    model_path = Path(args.model_path)
    start = find_start(args, model_path)
    steps = tuple(step_name(part) for part in settings.ladder)
    old_lod = existing_files(file_path(model_path).parent) if args.lod else ()
    prepare_outputs(model_path, start.path, (*exports, *steps, *old_lod))
    options = check_options(options, start, args.sh_degree)
    if settings.trajectory.guard == "test":
        logger.warning("--guard test: %s", TEST_GUARD_WARNING)
    if options.train_test_exp:
        check_exposures(start, options)
    progress = ConsoleProgress()
    if args.restart:
        clear_run(rounds_folder(model_path))
    job = planned(build_job(options, pipe, start, settings), began, progress.note)
    job = replace(with_metadata(job, args.preset, start.metadata.origin), exports=exports)
    result = compress(job, progress)
    record_options(model_path, options)
    if options.train_test_exp:
        write_exposures_of(start, options)
    iteration = free_iteration(model_path, start.iteration + max(1, result.iterations))
    changed = changed_settings(job.settings.to_json(), PRESETS[args.preset].to_json())
    invocation = Invocation(command_line(), args.preset, changed)
    report = build_report(start, iteration, job, result, invocation)
    decoded = SplatScene(result.decoded, from_entries(job.metadata))
    exported = result.exports.contents()
    exported |= {step.figures.file: step.data for step in result.ladder}
    if args.lod:
        lod = lod_of(result.ladder, from_entries(job.metadata))
        exported |= lod.files
        report = replace(report, lod=lod.figures, notices=(*report.notices, *lod.notices))
    outputs = Outputs(result.data, decoded, report, result.pictures.files, exported)
    write_outputs(model_path, start, outputs)
    write_viewer_files(model_path, options)
    if not settings.keep_rounds:
        clear_run(job.rounds_folder)
    print_result(model_path, report)
    check_complete(result.exports)


def build_parser() -> tuple[ArgumentParser, ModelParams, PipelineParams]:
    """The command line, and the option groups that it shares with train.py and render.py."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    loading = ModelParams(parser, sentinel=True)
    pipeline = PipelineParams(parser)
    start = parser.add_argument_group("Start model (default: the highest iteration in MODEL)")
    start.add_argument("--pretrained_dir", help="another model folder to start from")
    start.add_argument("--start_ply", help="a file without a model folder, of any format and "
        "trainer, to start from")  # fmt: skip
    start.add_argument("--training_free", action="store_true", help="quantise and encode "
        "only, in seconds, without photographs; see --training_free --help")  # fmt: skip
    parser.add_argument("--export", metavar="FORMATS", help=EXPORT_HELP)
    group = parser.add_argument_group("Compression (defaults: the preset's)")
    group.add_argument("--preset", choices=(*PRESETS, *OTHER_NAMES), default=DEFAULT_PRESET,
        type=preset_name, help=PRESET_HELP)  # fmt: skip
    add = group.add_argument
    add("--prune_fraction", type=float, help="part of the remaining Gaussians that a round removes")
    add("--warmup_iterations", type=int, help="iterations of fine-tuning before the first pruning")
    add("--finetune_iterations", type=int, help="iterations of fine-tuning in each round")
    add("--final_iterations", type=int, help="iterations of fine-tuning on all training views, at "
        "the end")  # fmt: skip
    add("--target_gaussians", type=int, help="number of Gaussians to store: the rounds go on until "
        "it is reached, whatever they lose")  # fmt: skip
    add("--target_mb", type=float, help="size of the file in MB (a million bytes): the rounds go "
        "on until it is reached within 3 %%, whatever they lose")  # fmt: skip
    add("--ladder", metavar="PARTS", help="per cent of the start model's Gaussians with commas "
        "between them, such as 50,25,12: a file compressed/ladder/PART.f3dgs for each")  # fmt: skip
    add("--lod", action="store_true", help="also write the files of --ladder as levels of detail "
        "of one streamed SOG, compressed/lod/lod-meta.json")  # fmt: skip
    add("--budget_minutes", type=float, help="time that the run may take on this machine: chooses "
        "smaller numbers of iterations and rounds")  # fmt: skip
    add("--max_psnr_drop", type=float, help="dB that unseen views may lose, as guard views and "
        "training views predict it")  # fmt: skip
    add("--max_ssim_drop", type=float, help="SSIM that they may lose (no limit, by default, where "
        "--max_psnr_drop is given)")  # fmt: skip
    add("--max_ms_ssim_drop", type=float, help="multi-scale SSIM that they may lose (default: no "
        "limit)")  # fmt: skip
    add("--guard_memory", type=float, help="how much of the training views' advantage over unseen "
        "views the guard views still have, below 1; 0: their own loss counts")  # fmt: skip
    add("--max_rounds", type=int, help="highest number of rounds")
    add("--patience", type=int, help="the rounds end when this number in a row lose more")
    add("--guard", choices=("train", "test"), help="views that decide when the rounds end: "
        "some training views, held out, or the test views, as in the published method")  # fmt: skip
    add("--noise", type=float, help="how much rounding may increase the squared error of unseen "
        "views, as a fraction: higher gives a smaller file (not with preset fast3dgs)")  # fmt: skip
    add("--sparsity", type=float, help="weight of the coded SH's magnitude in the final "
        "fine-tuning: higher gives a smaller file (not with preset fast3dgs)")  # fmt: skip
    add("--position_bits", type=int, help="bits of a position on each axis: 12 to 20, of the "
        "finest grid (default: what the finest Gaussians need); preset fast3dgs: 32 (float32), or "
        "8 to 24 over the bounding box")  # fmt: skip
    add("--sh_sparsity", type=float, help="weight of mean |f_rest| in the loss")
    add("--seed", type=int, help="seed of all random numbers")
    add("--keep_rounds", action="store_true", help="keep all checkpoints in compressed/rounds")
    add("--measure_test_every", type=int, help="report test quality and file size every N rounds")
    add("--restart", action="store_true", help="discard the rounds of an earlier run")
    return parser, loading, pipeline


def parse(parser: ArgumentParser) -> Namespace:
    """The command line; options that are not given come from the model folder's `cfg_args`."""
    args = parser.parse_args()
    if not args.model_path:
        parser.error("-m/--model_path is required: the folder of the model")
    if args.pretrained_dir and args.start_ply:
        parser.error("expected one of --pretrained_dir and --start_ply, got both")
    announce_data_device(args.data_device, device_for(args.rasterizer))
    for name, value in _recorded_options(parser, args).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _recorded_options(parser: ArgumentParser, args: Namespace) -> dict[str, Any]:
    for folder in filter(None, (args.model_path, args.pretrained_dir)):
        if (Path(folder) / CFG_ARGS_NAME).exists():
            try:
                return read_cfg_args(folder)
            except ValueError as error:
                parser.error(str(error))
    return {}


def settings_of(args: Namespace) -> CompressionSettings:
    """The settings of the preset, changed by the flags that were given."""
    preset = PRESETS[args.preset]
    _check_flags_of_preset(args, preset)
    given = {name: value for name, value in vars(args).items() if value is not None}

    def chosen(values: Any) -> dict[str, Any]:
        return {name: given.get(name, value) for name, value in vars(values).items()}

    trajectory = chosen(preset.trajectory)
    if args.guard == "test":
        # The model was not trained on the test views: the published first stage is enough.
        trajectory["warmup_restart"] = NO_RESTART
        trajectory["warmup_iterations"] = given.get("warmup_iterations", PUBLISHED_WARMUP)
        given.setdefault("patience", PUBLISHED_PATIENCE)
        given.setdefault("guard_memory", 0.0)
    if "max_psnr_drop" in given:  # who allows more than usual does not expect another limit
        given.setdefault("max_ssim_drop", None)
    trajectory["finetune"] = FinetuneSettings(**chosen(preset.trajectory.finetune))
    if preset.grids is None:  # with grids, --position_bits belongs to GridSettings
        trajectory["quantization"] = QuantizationSettings(**chosen(preset.trajectory.quantization))
    whole = chosen(preset)
    whole["trajectory"] = TrajectorySettings(**trajectory)
    whole["stopping"] = StoppingRule(**chosen(preset.stopping))
    if preset.grids is not None:
        whole["grids"] = GridSettings(**chosen(preset.grids))
    return CompressionSettings(**whole)


def _check_flags_of_preset(args: Namespace, preset: CompressionSettings) -> None:
    for name in ("noise", "sparsity") if preset.grids is None else ():
        if getattr(args, name) is not None:
            raise InputError(f"--{name}: expected a preset with grids, but got {args.preset}")


def find_start(args: Namespace, model_path: Path) -> StartModel:
    """The model to start from, as the flags choose it."""
    if args.start_ply:
        return start_from_file(Path(args.start_ply))
    return start_from_folder(Path(args.pretrained_dir) if args.pretrained_dir else model_path)


def check_options(options: ModelOptions, start: StartModel, sh_degree: int | None) -> ModelOptions:
    """The loading options with the start model's SH degree and render mode.

    InputError where the model or an option cannot be compressed.
    """
    if not start.splats.count:
        raise InputError(f"{start.path} holds no Gaussians: there is nothing to compress")
    if sh_degree is not None and sh_degree != start.splats.sh_degree:
        raise InputError(
            f"expected SH degree {start.splats.sh_degree}, that of {start.path}, but --sh_degree "
            f"or cfg_args gives {sh_degree}"
        )
    antialiasing = options.antialiasing or start.metadata.antialiasing
    return replace(options, sh_degree=start.splats.sh_degree, antialiasing=antialiasing)


def build_job(
    options: ModelOptions,
    pipeline: PipelineOptions,
    start: StartModel,
    settings: CompressionSettings,
) -> CompressionJob:
    """Loads the scene and collects all inputs of the compression.

    Test views never train here, also if they have trained their exposures.
    """
    device = device_for(pipeline.rasterizer)
    check_device(device)
    gaussians = GaussianModel.from_splats(start.splats, device=device)
    gaussians.metadata = start.metadata
    if options.train_test_exp:
        gaussians.pretrained_exposures = read_exposures(exposures_of(start, options), device)
    if options.depths:
        logger.info("%s: depth maps are for training only, and not used", options.depths)
    loaded = replace(options, train_test_exp=False, depths="")
    scene = Scene(loaded, gaussians, shuffle=False, gaussian_bytes=TRAINED_BYTES)
    if options.train_test_exp:
        cameras = [*scene.getTrainCameras(), *scene.getTestCameras()]
        attach_exposures(cameras, gaussians.get_exposure_from_name)
        score_right_halves(scene.getTestCameras())
    keep([*scene.getTrainCameras(), *scene.getTestCameras()])
    background = torch.full((3,), float(options.white_background), device=device)
    return CompressionJob(
        start=start.splats,
        training_views=scene.getTrainCameras(),
        test_views=scene.getTestCameras(),
        extent=scene.cameras_extent,
        background=background,
        render_options=RenderOptions(**{**asdict(pipeline), "antialiasing": options.antialiasing}),
        settings=settings,
        rounds_folder=rounds_folder(Path(options.model_path)),
        identity={
            "source_path": options.source_path,
            "images": options.images,
            "resolution": options.resolution,
            "eval": options.eval,
            **to_entries(SplatMetadata(origin=start.metadata.origin)),
        },
    )


def exposures_of(start: StartModel, options: ModelOptions) -> Path:
    """The exposure.json of the start model: of its model folder, or else of the one given."""
    of_start = model_folder_of(start.path) or Path(options.model_path)
    return of_start / EXPOSURE_NAME


def write_exposures_of(start: StartModel, options: ModelOptions) -> None:
    """Copies the start model's exposures into the model folder, for render.py."""
    source, target = exposures_of(start, options), Path(options.model_path) / EXPOSURE_NAME
    if not target.exists():
        write_bytes(target, source.read_bytes())


def check_exposures(start: StartModel, options: ModelOptions) -> None:
    """InputError where the model folder has other exposures than those of the start model."""
    source, target = exposures_of(start, options), Path(options.model_path) / EXPOSURE_NAME
    if not source.is_file():
        read_exposures(source)
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise InputError(
            f"{target} holds other exposures than {source}: move it away, or give another folder "
            "with -m"
        )


def with_metadata(job: CompressionJob, preset: str, origin: Origin) -> CompressionJob:
    """The job with the file's metadata: origin, settings, and how to render the model."""
    # These settings only concern the run: they must not change the file.
    settings = replace(job.settings, keep_rounds=False, measure_test_every=0, ladder=())
    changed = changed_settings(settings.to_json(), PRESETS[preset].to_json())
    metadata = describe(
        job.start,
        {"preset": preset, **changed},
        white_background=bool(job.background.any()),
        **to_entries(SplatMetadata(origin=origin)),
        antialiasing=job.render_options.antialiasing,
        up=up_axis([view.R for view in job.training_views]),
    )
    return replace(job, metadata=metadata)


def clear_run(folder: Path) -> None:
    """Removes the rounds in `folder`, and what a run keeps beside them."""
    clear_steps(folder)
    clear_rounds(folder)


def write_viewer_files(model_path: Path, options: ModelOptions) -> None:
    """Writes the files that viewers need, where training did not write them."""
    if not all((model_path / name).exists() for name in VIEWER_FILES):
        write_model_folder(model_path, readSceneInfo(options, with_points=True), replace=False)


def print_result(model_path: Path, report: CompressionReport) -> None:
    """Prints sizes, quality and paths in a few lines."""
    start, compressed = report.start, report.compressed
    print(f"{file_path(model_path)}: {compressed.bytes / MEGABYTE:.3g} MB, "
          f"{compressed.ratio:.1f} times smaller")  # fmt: skip
    print(f"Gaussians: {start.gaussians:,} -> {compressed.gaussians:,}")
    for views, before, after in (
        ("guard", start.guard.psnr, compressed.guard.psnr),
        ("test", start.test.psnr, compressed.test.psnr),
    ):
        if before is not None and after is not None:
            print(f"PSNR on {views} views: {before:.3f} -> {after:.3f} dB")
    print("".join(f"{line}\n" for line in ladder_lines(report.ladder)), end="")
    if report.lod is not None:
        index = file_path(model_path).parent / report.lod.file
        print(f"{index}: {report.lod.bytes / MEGABYTE:.3g} MB, all levels")
    if report.target is not None:
        print("\n".join(target_lines(report.target, report.promise)))
    print("".join(f"{line}\n" for line in export_lines(report)), end="")
    print(f"Decoded model: {iteration_folder(model_path, compressed.iteration)}")
    print(f"Report: {page_path(report_path(model_path))}")


if __name__ == "__main__":
    run(shared(main))
