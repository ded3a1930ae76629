# SPDX-License-Identifier: Apache-2.0
"""A scene with a model's views and the functions that benchmarks of compression call."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from arguments import ModelOptions
from gaussian_compression.finetune import Finetuner
from gaussian_compression.measuring import Measuring
from gaussian_compression.model_folder import start_from_folder
from gaussian_compression.presets import PRESETS
from gaussian_compression.progress import Progress
from gaussian_compression.rounds import psnr_of
from gaussian_compression.scores import ScoreTools
from gaussian_compression.settings import FinetuneSettings
from gaussian_compression.validation_split import ViewSplit, split_off_guard
from gaussian_renderer.backend import Backend, Differentiate, RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene import Scene
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters

LOSS = PRESETS["balanced"].trajectory.finetune
"""The default preset's."""


@dataclass(frozen=True)
class SceneTools:
    """What compress.py makes of a scene and its options, for one SH degree, on the CPU."""

    backend: Backend
    background: Tensor
    """(3,) RGB in 0..1."""
    views: ViewSplit[Camera]
    extent: float
    differentiate: Differentiate
    scores: ScoreTools
    measure: Measuring

    def finetuner(self, loss: FinetuneSettings = LOSS) -> Finetuner:
        """For these rates and penalties; `lambda_dssim` is always that of LOSS."""
        return Finetuner(self.differentiate, self.extent, loss)

    def guard_psnr(self, raw: RawParameters) -> float:
        """Mean over the guard views, in dB."""
        return psnr_of(self.measure.quality(self.views.guard, raw, "guard views"))


def scene_and_model(options: ModelOptions) -> tuple[Scene, RawParameters]:
    """The scene, and the trained model in the model folder."""
    splats = start_from_folder(Path(options.model_path)).splats
    options = replace(options, sh_degree=splats.sh_degree)
    scene = Scene(options, GaussianModel.from_splats(splats, device="cpu"), shuffle=False)
    return scene, RawParameters.from_splats(splats, torch.device("cpu"))


def tools_of(
    scene: Scene,
    sh_degree: int,
    *,
    white: bool,
    progress: Progress,
    options: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
) -> SceneTools:
    """The tools; `white`: the background, else black."""
    backend, background = backend_for(torch.device("cpu"), options), torch.full((3,), float(white))
    differentiate = partial(
        backend.differentiate,
        background=background,
        sh_degree=sh_degree,
        lambda_dssim=LOSS.lambda_dssim,
    )
    pull_back = partial(backend.pull_back, sh_degree=sh_degree)
    return SceneTools(
        backend=backend,
        background=background,
        views=split_off_guard(scene.getTrainCameras()),
        extent=scene.cameras_extent,
        differentiate=differentiate,
        scores=ScoreTools(backend, differentiate, pull_back, background),
        measure=Measuring(backend, background, sh_degree, progress),
    )
