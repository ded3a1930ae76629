# SPDX-License-Identifier: Apache-2.0
"""Models on the grids of a file, before and after the final fine-tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gaussian_compression.finetune import TrainableModel
from gaussian_compression.measuring import Measuring
from gaussian_compression.rounds import Quality, psnr_of
from gaussian_compression.settings import (
    CONSTANT_RATES,
    CompressionSettings,
    RateCourse,
    TrajectorySettings,
)
from gaussian_compression.shipping import FinalTools, model_on_grids, on_grids
from gaussian_compression.size_target import Stored
from gaussian_compression.straight_through import RangedStraightThrough, straight_through
from gaussian_compression.trainable import StraightThrough, Trainable
from gaussian_compression.validation_split import ViewSplit
from gaussian_renderer.backend import Backend
from scene.cameras import Camera
from splat_codec.model_file import ModelFile, encode

Train = Callable[[Trainable, Sequence[Camera], int, str, RateCourse], None]
"""Trains a model on views for a number of iterations; name of the bar; course of the rates."""


def as_published(
    model: TrainableModel, trajectory: TrajectorySettings, backend: Backend
) -> RangedStraightThrough:
    """The optimiser of a model on the grids of version 1, which changes it in place."""
    if model.ranges is None or trajectory.quantization is None:
        raise ValueError("rounds in full precision have no quantisers")
    return straight_through(
        model.raw, model.ranges, trajectory.finetune, trajectory.quantization, backend
    )


@dataclass(frozen=True)
class FinalStage:
    """Puts models on the grids of a file and fine-tunes them there."""

    settings: CompressionSettings
    views: ViewSplit[Camera]
    measure: Measuring
    backend: Backend
    train: Train
    metadata: dict[str, Any]
    """Of the file."""

    def encoded(self, stored: Stored) -> bytes:
        """The file."""
        return encode(ModelFile(stored, self.metadata))

    def finally_finetuned(self, model: TrainableModel, guard: Quality, least: Quality) -> Stored:
        """The integers to store of `model`, whose quality on guard views is `guard`.

        `least`: on guard views; grids are made finer where one of its figures is not reached.
        """
        if self.settings.grids is None:
            optimizer = as_published(model, self.settings.trajectory, self.backend)
            self.finetune(optimizer)
            return optimizer.stored()
        grids = self.settings.grids
        return model_on_grids(model.raw, psnr_of(guard), least, self._tools(), grids)

    def quantized(
        self, model: TrainableModel, guard: Quality, noise: float | None
    ) -> StraightThrough:
        """`model`, of this quality on guard views, on grids with this `noise` (None: version 1)."""
        if self.settings.grids is None or noise is None:
            return as_published(model, self.settings.trajectory, self.backend)
        grids = replace(self.settings.grids, noise=noise)
        return on_grids(model.raw, psnr_of(guard), self._tools(), grids).optimizer

    def as_stored(self, model: TrainableModel, guard: Quality) -> Stored:
        """`model`, of this quality on guard views, as its file would hold it."""
        return self.quantized(model, guard, self.noise).stored()

    @property
    def noise(self) -> float | None:
        """Of the grids; None: version 1."""
        return None if self.settings.grids is None else self.settings.grids.noise

    def finetune(self, optimizer: StraightThrough) -> None:
        """The final fine-tuning."""
        grids, course = self.settings.grids, CONSTANT_RATES
        if grids is not None:
            course = RateCourse(grids.final_restart, grids.final_rate_end)
        iterations = self.settings.final_iterations
        self.train(optimizer, self._all_views(), iterations, "final fine-tuning", course)

    def settle(self, optimizer: StraightThrough, iterations: int, name: str) -> None:
        """A shorter fine-tuning, for a model that was fine-tuned on other grids."""
        end = 1.0 if self.settings.grids is None else self.settings.grids.final_rate_end
        self.train(optimizer, self._all_views(), iterations, name, RateCourse(end=end))

    def _all_views(self) -> list[Camera]:
        """No rounds follow: guard views that are training views are trained on too."""
        if self.settings.trajectory.guard == "test":
            return self.views.training
        return [*self.views.training, *self.views.guard]

    def _tools(self) -> FinalTools:
        measure, views = self.measure, self.views
        seed = self.settings.trajectory.seed
        return FinalTools(
            sensitivity=partial(measure.sensitivity, views.training, seed),
            added_error=partial(measure.added_error, views.training),
            guard=lambda raw: measure.quality(views.guard, raw, "grids, guard views"),
            finetune=self.finetune,
            operations=self.backend,
        )
