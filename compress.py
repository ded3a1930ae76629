# SPDX-License-Identifier: Apache-2.0
"""Compress a trained Gaussian model: `python compress.py -s SCENE -m MODEL`.

Prunes by gradients, fine-tunes as stored, and writes MODEL/compressed/model.f3dgs, its report, and
the decoded model as the next iteration of MODEL/point_cloud, for render.py and metrics.py.
Killed at any moment, the same command goes on from the last finished round.
"""

import logging
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "--training_free" in sys.argv[1:]:
    # Done in seconds, and so before the imports below.
    from gaussian_compression import training_free
    from utils.cli import run

    run(training_free.main)
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
from gaussian_compression.file_metadata import changed_settings, up_axis
from gaussian_compression.model_folder import (
    MEGABYTE,
    Outputs,
    StartModel,
    file_path,
    free_iteration,
    iteration_folder,
    prepare_outputs,
    rounds_folder,
    start_from_folder,
    start_from_ply,
    write_outputs,
)
from gaussian_compression.pipeline import CompressionJob, compress
from gaussian_compression.report import CompressionReport
from gaussian_compression.run_report import TEST_GUARD_WARNING, build_report
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
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.rasterizer import default_device
from scene import VIEWER_FILES, Scene, write_model_folder
from scene.dataset_readers import readSceneInfo
from scene.gaussian_model import GaussianModel
from splat_formats.file_description import describe, from_entries, to_entries
from splat_formats.scene import Origin, SplatMetadata, SplatScene
from utils.cli import check_ranges, run, show_messages
from utils.console_progress import ConsoleProgress
from utils.errors import InputError
from utils.folder_lock import locked
from utils.system_utils import announce_data_device

logger = logging.getLogger("gaussian_compression")

PRESETS = {
    "compact": CompressionSettings(TrajectorySettings(quantization=None), grids=GridSettings()),
    "fast3dgs": CompressionSettings(),
}
"""Named settings; each is the default of every flag that is not given."""


def main() -> None:
    """Reads the command line, compresses, writes, prints what came out."""
    show_messages()
    parser, loading, pipeline = build_parser()
    args = parse(parser)
    settings = settings_of(args)
    check_settings(settings)
    options, pipe = loading.extract(args), pipeline.extract(args)
    check_ranges(options, pipe)
    with locked(Path(args.model_path)):
        compress_folder(args, options, pipe, settings)


def compress_folder(
    args: Namespace, options: ModelOptions, pipe: PipelineOptions, settings: CompressionSettings
) -> None:
    """From the model to its outputs in the model folder."""
    model_path = Path(args.model_path)
    start = find_start(args, model_path)
    prepare_outputs(model_path, start.path)
    options = check_options(options, start, args.sh_degree)
    if settings.trajectory.guard == "test":
        logger.warning("--guard test: %s", TEST_GUARD_WARNING)
    job = build_job(options, pipe, start, settings)
    job = with_metadata(job, args.preset, start.metadata.origin)
    if args.restart:
        clear_rounds(job.rounds_folder)
    result = compress(job, ConsoleProgress())
    record_options(model_path, options)
    iteration = free_iteration(model_path, start.iteration + max(1, result.iterations))
    report = build_report(start, iteration, job, result)
    decoded = SplatScene(result.decoded, from_entries(job.metadata))
    write_outputs(model_path, start, Outputs(result.data, decoded, report))
    write_viewer_files(model_path, options)
    if not settings.keep_rounds:
        clear_rounds(job.rounds_folder)
    print_result(model_path, report)


def build_parser() -> tuple[ArgumentParser, ModelParams, PipelineParams]:
    """The command line, and the option groups that it shares with train.py and render.py."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    loading = ModelParams(parser, sentinel=True)
    pipeline = PipelineParams(parser)
    start = parser.add_argument_group("Start model (default: the highest iteration in MODEL)")
    start.add_argument("--pretrained_dir", help="another model folder to start from")
    start.add_argument("--start_ply", help="a bare PLY, of any trainer, to start from")
    start.add_argument("--training_free", action="store_true", help="quantise and encode "
        "only, in seconds, without photographs; see --training_free --help")  # fmt: skip
    group = parser.add_argument_group("Compression (defaults: the preset's)")
    group.add_argument("--preset", choices=sorted(PRESETS), default="compact", help="compact"
        " (default): the published rounds, then grids fitted to the scene and entropy coding; "
        "fast3dgs: the published method to the end, 8-bit SH, half floats and LZMA")  # fmt: skip
    add = group.add_argument
    add("--prune_fraction", type=float, help="part of the remaining Gaussians a round removes")
    add("--warmup_iterations", type=int, help="fine-tuning of the unpruned model, without guard")
    add("--finetune_iterations", type=int, help="fine-tuning in each round")
    add("--final_iterations", type=int, help="fine-tuning at the end, with all training views")
    add("--max_psnr_drop", type=float, help="dB that the guard views may lose")
    add("--max_rounds", type=int, help="at most so many rounds")
    add("--patience", type=int, help="so many rounds in a row must lose more for the rounds to end")
    add("--guard", choices=("train", "test"), help="views that stop the rounds: held out of the "
        "training views, or the test views as published")  # fmt: skip
    add("--noise", type=float, help="what rounding may add to the squared error of unseen views, "
        "as a part of it: more for a smaller file (preset compact)")  # fmt: skip
    add("--sparsity", type=float, help="weight of the coded SH's magnitude in the final "
        "fine-tuning: more for a smaller file (preset compact)")  # fmt: skip
    add("--position_bits", type=int, help="bits of positions an axis. compact: 12 to 20 of the "
        "finest grid (default: what the finest Gaussians need); fast3dgs: 32 (float32), or 8 to 24 "
        "over the bounding box")  # fmt: skip
    add("--sh_sparsity", type=float, help="weight of mean |f_rest| in the loss")
    add("--seed", type=int, help="of every random choice")
    add("--keep_rounds", action="store_true", help="keep all checkpoints in compressed/rounds")
    add("--measure_test_every", type=int, help="report test views and bytes every so many rounds")
    add("--restart", action="store_true", help="discard the rounds of an earlier run")
    return parser, loading, pipeline


def parse(parser: ArgumentParser) -> Namespace:
    """The command line, completed from the `cfg_args` of the model folder, where there is one."""
    args = parser.parse_args()
    if not args.model_path:
        parser.error("-m/--model_path is required: the folder of the model")
    if args.pretrained_dir and args.start_ply:
        parser.error("--pretrained_dir and --start_ply exclude each other")
    announce_data_device(args.data_device, default_device())
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
    """The preset with the flags that were given."""
    preset = PRESETS[args.preset]
    _check_flags_of_preset(args, preset)
    given = {name: value for name, value in vars(args).items() if value is not None}

    def chosen(values: Any) -> dict[str, Any]:
        return {name: given.get(name, value) for name, value in vars(values).items()}

    trajectory = chosen(preset.trajectory)
    if args.guard == "test":
        # Views that were never trained on need not be forgotten: the published first stage.
        trajectory["warmup_restart"] = NO_RESTART
        trajectory["warmup_iterations"] = given.get("warmup_iterations", PUBLISHED_WARMUP)
        given.setdefault("patience", PUBLISHED_PATIENCE)
    trajectory["finetune"] = FinetuneSettings(**chosen(preset.trajectory.finetune))
    if preset.grids is None:  # else --position_bits is the grids'
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
            raise InputError(f"--{name} has no meaning with --preset {args.preset}")


def find_start(args: Namespace, model_path: Path) -> StartModel:
    """The model to start from, by the flags."""
    if args.start_ply:
        return start_from_ply(Path(args.start_ply))
    return start_from_folder(Path(args.pretrained_dir) if args.pretrained_dir else model_path)


def check_options(options: ModelOptions, start: StartModel, sh_degree: int | None) -> ModelOptions:
    """The loading options with the start model's SH degree and render mode; InputError for what
    cannot be used."""
    if not start.splats.count:
        raise InputError(f"{start.path} holds no Gaussians: nothing to compress")
    if sh_degree is not None and sh_degree != start.splats.sh_degree:
        raise InputError(
            f"{start.path} has SH degree {start.splats.sh_degree}, but --sh_degree or cfg_args "
            f"say {sh_degree}"
        )
    if options.train_test_exp or options.depths:
        raise InputError("--train_test_exp and --depths are not supported in compression")
    antialiasing = options.antialiasing or start.metadata.antialiasing
    return replace(options, sh_degree=start.splats.sh_degree, antialiasing=antialiasing)


def build_job(
    options: ModelOptions,
    pipeline: PipelineOptions,
    start: StartModel,
    settings: CompressionSettings,
) -> CompressionJob:
    """Loads the scene and ties everything together."""
    device = default_device()
    gaussians = GaussianModel.from_splats(start.splats, device=device)
    gaussians.metadata = start.metadata
    scene = Scene(options, gaussians, shuffle=False)
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


def with_metadata(job: CompressionJob, preset: str, origin: Origin) -> CompressionJob:
    """The job whose file says where it comes from and how it is meant to be looked at."""
    # What only watches the run must not change the file.
    settings = replace(job.settings, keep_rounds=False, measure_test_every=0)
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


def write_viewer_files(model_path: Path, options: ModelOptions) -> None:
    """What training would have left there for viewers, where it did not."""
    if not all((model_path / name).exists() for name in VIEWER_FILES):
        write_model_folder(model_path, readSceneInfo(options, with_points=True), replace=False)


def print_result(model_path: Path, report: CompressionReport) -> None:
    """What came out, in a few lines."""
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
    print(f"Decoded model: {iteration_folder(model_path, compressed.iteration)}")


if __name__ == "__main__":
    run(main)
