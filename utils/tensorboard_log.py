# SPDX-License-Identifier: Apache-2.0
"""Training curves for TensorBoard, if it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from utils.optional_modules import load

VIEWS_SHOWN = 5


class TensorBoardLog:
    """Events under the tags that Inria's training writes, directly in the model folder."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._photographs_shown: set[str] = set()

    def step(self, iteration: int, l1: float, loss: float, seconds: float) -> None:
        """One iteration's losses and duration."""
        self._writer.add_scalar("train_loss_patches/l1_loss", l1, iteration)
        self._writer.add_scalar("train_loss_patches/total_loss", loss, iteration)
        self._writer.add_scalar("iter_time", 1000 * seconds, iteration)

    def scores(self, iteration: int, split: str, l1: float, psnr: float) -> None:
        """Means over the views of "test" or "train"."""
        self._writer.add_scalar(f"{split}/loss_viewpoint - l1_loss", l1, iteration)
        self._writer.add_scalar(f"{split}/loss_viewpoint - psnr", psnr, iteration)

    def view(
        self, iteration: int, split: str, name: str, render: Tensor, photograph: Tensor
    ) -> None:
        """A render (3,H,W), in 0..1, and once the photograph it should equal."""
        tag = f"{split}_view_{name}"
        self._writer.add_image(f"{tag}/render", render, iteration)
        if tag not in self._photographs_shown:
            self._photographs_shown.add(tag)
            self._writer.add_image(f"{tag}/ground_truth", photograph, iteration)

    def model(self, iteration: int, opacity: Tensor) -> None:
        """The opacities (N,1) and their number."""
        self._writer.add_histogram("scene/opacity_histogram", opacity, iteration)
        self._writer.add_scalar("total_points", opacity.shape[0], iteration)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


def open_log(model_path: str | Path) -> TensorBoardLog | None:
    """A log in the model folder; None where TensorBoard is not installed or does not load."""
    module = load("torch.utils.tensorboard", "tensorboard", "no training curves are written")
    return None if module is None else TensorBoardLog(module.SummaryWriter(str(model_path)))
