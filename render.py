# SPDX-License-Identifier: Apache-2.0
"""Renders a trained model's views to PNG files, with the photographs at the same size.

It also prints how fast it drew them, and writes that to rendering.json beside the images.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import (
    ModelParams,
    PipelineOptions,
    PipelineParams,
    get_combined_args,
)
from gaussian_renderer import GaussianModel, render
from gaussian_renderer.evaluation import scored_part
from gaussian_renderer.speed import FrameClock, RenderingFigures, device_name, write_figures
from scene import LATEST, Scene, find_iteration, model_ply
from scene.cameras import Camera
from scene.device import device_for
from scene.exposure import EXPOSURE_NAME, read_exposures
from utils import cli
from utils.errors import InputError
from utils.general_utils import safe_state
from utils.image_utils import save_png
from utils.system_utils import announce_data_device

SPLITS = ("train", "test")


@dataclass(frozen=True)
class RenderSet:
    """One split of a model to be rendered."""

    model_path: Path
    name: str
    """"train" or "test"."""
    iteration: int
    cameras: Sequence[Camera]


@torch.no_grad()
def render_set(
    views: RenderSet,
    gaussians: GaussianModel,
    pipe: PipelineOptions,
    background: Tensor,
    quiet: bool = False,
) -> None:
    """Write <model>/<name>/ours_<iteration>/{renders,gt}/00000.png and so on; rendering.json.

    Of a model with exposures the right halves, to which none was fitted.
    """
    if not views.cameras:
        return
    folder = views.model_path / views.name / f"ours_{views.iteration}"
    cameras: Iterable[Camera] = tqdm(
        views.cameras, desc=f"Rendering {views.name}", unit="view", disable=quiet
    )
    exposed = gaussians.pretrained_exposures is not None
    clock = FrameClock(gaussians.device)
    if clock.needs_warm_up:
        render(views.cameras[0], gaussians, pipe, background)
    for index, camera in enumerate(cameras):
        with clock.frame():
            image = render(camera, gaussians, pipe, background, use_trained_exp=exposed)["render"]
        for kind, shown in (("renders", image), ("gt", camera.image_u8)):
            save_png(folder / kind / f"{index:05d}.png", scored_part(shown, camera))
    figures = RenderingFigures(
        gaussians=len(gaussians.get_xyz),
        ply_bytes=model_ply(views.model_path, views.iteration).stat().st_size,
        views=clock.frames,
        fps=clock.fps(),
        device=device_name(gaussians.device),
    )
    write_figures(folder, figures)
    if not quiet:
        print(f"{views.name}: {figures.text()}")


def build_parser() -> tuple[ArgumentParser, ModelParams, PipelineParams]:
    """The command line and its two option groups."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    model = ModelParams(parser, sentinel=True)
    pipeline = PipelineParams(parser)
    parser.add_argument("--iteration", type=int, default=LATEST, help="-1: the highest there is")
    parser.add_argument("--skip_train", action="store_true", help="leave the training views out")
    parser.add_argument("--skip_test", action="store_true", help="leave the test views out")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser, model, pipeline


def main() -> None:
    """Parse the command line and render."""
    parser, model_group, pipeline_group = build_parser()
    given = parser.parse_args()
    cli.show_messages(given.quiet)
    args = combined_arguments(parser)
    options, pipe = model_group.extract(args), pipeline_group.extract(args)
    cli.check_ranges(options, pipe)
    if not args.quiet:
        print(f"Rendering {args.model_path}")
    safe_state(args.quiet)
    iteration = find_iteration(args.model_path, args.iteration)
    device = device_for(pipe.rasterizer)
    gaussians = load_model(model_ply(args.model_path, iteration), given.sh_degree, device)
    if options.train_test_exp:
        exposures = read_exposures(Path(args.model_path) / EXPOSURE_NAME, device)
        gaussians.pretrained_exposures = exposures
    announce_data_device(given.data_device, gaussians.device)
    splits = [name for name in SPLITS if not getattr(args, f"skip_{name}")]
    scene = Scene(replace(options, depths=""), gaussians, shuffle=False, splits=splits)
    pipe = replace(pipe, antialiasing=pipe.antialiasing or gaussians.metadata.antialiasing)
    background = torch.full((3,), float(options.white_background), device=gaussians.device)
    cameras = {"train": scene.getTrainCameras(), "test": scene.getTestCameras()}
    if not any(cameras.values()):
        raise InputError(_nothing_to_render(splits))
    for name in splits:
        views = RenderSet(Path(scene.model_path), name, iteration, cameras[name])
        if views.cameras:
            render_set(views, gaussians, pipe, background, args.quiet)


def _nothing_to_render(splits: Sequence[str]) -> str:
    if not splits:
        return "no views to render: --skip_train and --skip_test leave out all of them"
    advice = ": --eval holds test views out of training" if list(splits) == ["test"] else ""
    return f"no views to render in {' and '.join(splits)}{advice}"


def combined_arguments(parser: ArgumentParser) -> Namespace:
    """The command line, completed from the model folder's `cfg_args`."""
    model_path = parser.parse_args().model_path
    if not model_path:
        parser.error("-m/--model_path is required: the folder that train.py wrote")
    if not Path(model_path).is_dir():
        raise InputError(f"{model_path}: there is no such folder")
    try:
        return get_combined_args(parser)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} not found: give the folder of the dataset with -s/--source_path"
        ) from error


def load_model(path: Path, sh_degree: int | None, device: torch.device) -> GaussianModel:
    """The Gaussians in the PLY. InputError if an SH degree is given that is not theirs."""
    gaussians = GaussianModel.from_ply(path, device)
    if sh_degree not in (None, gaussians.max_sh_degree):
        raise InputError(
            f"--sh_degree {sh_degree}: {path} holds Gaussians of degree {gaussians.max_sh_degree}"
        )
    if gaussians.get_xyz.numel() == 0:
        raise InputError(f"{path} holds no Gaussians: there is nothing to render")
    return gaussians


if __name__ == "__main__":
    cli.run(main)
