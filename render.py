# SPDX-License-Identifier: Apache-2.0
"""Renders a trained model's views to PNGs, beside the photographs at the same size."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import ModelParams, PipelineOptions, PipelineParams, get_combined_args
from gaussian_renderer import GaussianModel, render
from scene import LATEST, Scene
from scene.cameras import Camera
from utils import cli
from utils.errors import InputError
from utils.general_utils import safe_state
from utils.image_utils import save_png


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
    views: RenderSet, gaussians: GaussianModel, pipe: PipelineOptions, background: Tensor
) -> None:
    """Write <model>/<name>/ours_<iteration>/{renders,gt}/00000.png and so on."""
    folder = views.model_path / views.name / f"ours_{views.iteration}"
    cameras: Iterable[Camera] = tqdm(views.cameras, desc=f"Rendering {views.name}", unit="view")
    for index, camera in enumerate(cameras):
        image = render(camera, gaussians, pipe, background)["render"]
        save_png(folder / "renders" / f"{index:05d}.png", image)
        save_png(folder / "gt" / f"{index:05d}.png", camera.image_u8)


def build_parser() -> tuple[ArgumentParser, ModelParams, PipelineParams]:
    """The command line and its two option groups."""
    parser = ArgumentParser(allow_abbrev=False, description="Testing script parameters")
    model = ModelParams(parser, sentinel=True)
    pipeline = PipelineParams(parser)
    parser.add_argument("--iteration", type=int, default=LATEST, help="-1: the highest there is")
    parser.add_argument("--skip_train", action="store_true", help="leave the training views out")
    parser.add_argument("--skip_test", action="store_true", help="leave the test views out")
    parser.add_argument("--quiet", action="store_true", help="print nothing on stdout")
    return parser, model, pipeline


def main() -> None:
    """Parse the command line and render."""
    cli.show_messages()
    parser, model_group, pipeline_group = build_parser()
    if not parser.parse_args().model_path:
        parser.error("-m/--model_path is required: the folder that train.py wrote")
    args = get_combined_args(parser)
    print(f"Rendering {args.model_path}")
    safe_state(args.quiet)
    options, pipe = model_group.extract(args), pipeline_group.extract(args)
    if options.train_test_exp:
        raise InputError("exposure compensation (--train_test_exp) is not yet supported")
    gaussians = GaussianModel(options.sh_degree)
    wanted = {"train": not args.skip_train, "test": not args.skip_test}
    splits = [name for name, is_wanted in wanted.items() if is_wanted]
    scene = Scene(options, gaussians, args.iteration, shuffle=False, splits=splits)
    pipe = replace(pipe, antialiasing=pipe.antialiasing or gaussians.metadata.antialiasing)
    background = torch.full((3,), float(options.white_background), device=gaussians.device)
    cameras = {"train": scene.getTrainCameras(), "test": scene.getTestCameras()}
    if not any(cameras.values()):
        raise InputError(f"no views to render in {' and '.join(splits) or 'no split'}")
    for name in splits:
        views = RenderSet(Path(scene.model_path), name, scene.loaded_iter or 0, cameras[name])
        if views.cameras:
            render_set(views, gaussians, pipe, background)


if __name__ == "__main__":
    cli.run(main)
