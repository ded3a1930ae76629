# SPDX-License-Identifier: Apache-2.0
"""MS-SSIM and FLIP of a compressed model: `python benchmarks/view_measures.py -s SCENE -m MODEL`.

MODEL holds compressed/report.json. Prints JSON: for the guard and the test views, the mean of each
measure over the renders of the decoded model; null where it was not computed. Takes the loading
options of compress.py; those that are not given come from MODEL/cfg_args.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from arguments import ModelParams, PipelineParams, get_combined_args
from gaussian_compression.report import CompressionReport, read_report, report_path
from gaussian_renderer.backend import Backend, RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene import Scene, model_ply
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from utils.cli import check_ranges, run
from utils.errors import InputError
from utils.image_utils import to_u8
from utils.perceptual_metrics import Measure, extra_measures

Means = dict[str, float | None]


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    loading, pipeline = ModelParams(parser, sentinel=True), PipelineParams(parser)
    if not parser.parse_args().model_path:
        parser.error("-m/--model_path is required: the folder of the model")
    args = get_combined_args(parser)
    print(json.dumps(measured(args, loading, pipeline), allow_nan=False))


@torch.no_grad()
def measured(args: Namespace, loading: ModelParams, pipeline: PipelineParams) -> dict[str, Means]:
    """Set of views -> measure -> mean."""
    options, pipe = loading.extract(args), pipeline.extract(args)
    check_ranges(options, pipe)
    report = read_report(report_path(Path(options.model_path)))
    gaussians = GaussianModel.from_ply(model_ply(options.model_path, report.compressed.iteration))
    scene = Scene(replace(options, sh_degree=gaussians.max_sh_degree), gaussians, shuffle=False)
    antialiasing = pipe.antialiasing or gaussians.metadata.antialiasing
    backend = backend_for(
        gaussians.device, RenderOptions(**{**asdict(pipe), "antialiasing": antialiasing})
    )
    background = torch.full((3,), float(options.white_background), device=gaussians.device)
    guard = guard_views(scene, report)
    measures = extra_measures()
    return {
        "guard": means(guard, gaussians, backend, background, measures),
        "test": means(scene.getTestCameras(), gaussians, backend, background, measures),
    }


def guard_views(scene: Scene, report: CompressionReport) -> list[Camera]:
    """The views that decided when the rounds of the compression end."""
    if report.guard is None:
        return []
    from_test = report.guard.views_from == "test"
    cameras = scene.getTestCameras() if from_test else scene.getTrainCameras()
    by_name = {camera.image_name: camera for camera in cameras}
    for name in report.guard.image_names:
        if name not in by_name:
            raise InputError(f"expected the guard view {name} of the report, the scene has none")
    return [by_name[name] for name in report.guard.image_names]


def means(
    views: Sequence[Camera],
    gaussians: GaussianModel,
    backend: Backend,
    background: torch.Tensor,
    measures: Mapping[str, Measure | None],
) -> Means:
    """Measure -> mean over the views; None where one of the views could not be measured."""
    raw, found = gaussians.raw_parameters(), {name: list[float | None]() for name in measures}
    for view in views:
        image = to_u8(backend.draw(view, raw, background, gaussians.active_sh_degree))
        for name, measure in measures.items():
            found[name].append(None if measure is None else measure(image, view.image_u8))
    return {name: _mean(values) for name, values in found.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None


if __name__ == "__main__":
    run(main)
