# SPDX-License-Identifier: Apache-2.0
"""All measurements of a compression on views: quality, sensitivities, errors by rounding."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gaussian_compression.progress import Progress
from gaussian_compression.rounds import Quality
from gaussian_compression.sensitivity import RenderSensitivity, added_error, render_sensitivity
from gaussian_renderer.backend import Backend
from gaussian_renderer.evaluation import DrawnView, ViewScore, measured_on_ranks
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters
from utils.image_utils import to_u8


def mean_quality(scores: Sequence[ViewScore]) -> Quality:
    """The means of the scores."""
    if not scores:
        return Quality(None, None)
    several = [score.ms_ssim for score in scores if score.ms_ssim is not None]
    return Quality(
        psnr=float(np.mean([score.psnr for score in scores])),
        ssim=float(np.mean([score.ssim for score in scores])),
        ms_ssim=float(np.mean(several)) if len(several) == len(scores) else None,
    )


def rows_of_pixels(image: Tensor) -> npt.NDArray[np.uint8]:
    """(H, W, 3) of a uint8 image (3, H, W)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


@dataclass(frozen=True)
class Measuring:
    """Measures models in front of one background, with a progress bar for each measurement."""

    backend: Backend
    background: Tensor
    """(3,) RGB in 0..1."""
    sh_degree: int
    progress: Progress
    ms_ssim: bool = False
    """Whether scores contain MS-SSIM, which takes longer than the others together."""

    def quality(self, views: Sequence[Camera], raw: RawParameters, name: str) -> Quality:
        """Mean PSNR and SSIM against the photographs of `views`; `name`: of the bar."""
        return mean_quality(self.scores(views, raw, name))

    def scores(self, views: Sequence[Camera], raw: RawParameters, name: str) -> list[ViewScore]:
        """The scores of each of `views` against its photograph; `name`: of the bar."""
        if not views:
            return []
        model = GaussianModel.from_raw(raw)
        with self.progress.stage(name, len(views)) as advance:
            return measured_on_ranks(
                *(views, model, self.backend, self.background),
                *(DrawnView.all_scores if self.ms_ssim else DrawnView.score, lambda: advance(None)),
            )

    def image(self, view: Camera, raw: RawParameters) -> npt.NDArray[np.uint8]:
        """The render (H, W, 3) that is measured."""
        return rows_of_pixels(to_u8(self.backend.draw(view, raw, self.background, self.sh_degree)))

    def sensitivity(
        self, views: Sequence[Camera], seed: int, raw: RawParameters
    ) -> RenderSensitivity:
        """See render_sensitivity."""
        pull_back = partial(self.backend.pull_back, sh_degree=self.sh_degree)
        with self.progress.stage("sensitivities", len(views)) as advance:
            return render_sensitivity(
                raw, views, pull_back, self.background, seed, lambda: advance(None)
            )

    def added_error(
        self, views: Sequence[Camera], before: RawParameters, after: RawParameters
    ) -> float:
        """See sensitivity.added_error."""
        draw = partial(self.backend.draw, background=self.background, sh_degree=self.sh_degree)
        with self.progress.stage("rounding", len(views)) as advance:
            return added_error(before, after, views, draw, lambda: advance(None))
