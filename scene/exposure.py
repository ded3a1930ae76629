# SPDX-License-Identifier: Apache-2.0
"""Exposure compensation: an affine change of colours for each training image, (3, 4).

Kerbl et al. 2024 (hierarchical 3D Gaussians) train these matrices beside the Gaussians, so that
photographs taken with different exposures agree. A row of RGB times the first three columns, plus
the last column, gives the row that is compared with the photograph. Models keep the matrices in
`exposure.json`, by image name.
"""

from __future__ import annotations

import copy
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from arguments import OptimizationOptions
from scene.cameras import Camera
from scene.kernel_adam import WithoutCompiler
from utils.errors import InputError
from utils.files import write_text
from utils.general_utils import get_expon_lr_func
from utils.json_values import read_json
from utils.logged_once import log_once

logger = logging.getLogger(__name__)

EXPOSURE_NAME = "exposure.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def unchanged_exposures(count: int, device: torch.device | str) -> Tensor:
    """(count, 3, 4) matrices that change no colour."""
    return torch.eye(3, 4, device=device).repeat(count, 1, 1)


def numbered(names: Sequence[str]) -> dict[str, int]:
    """The row of each image; images with one name have one row, with a warning."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        log_once(
            logger,
            f"{len(repeated)} names of images occur several times ({repeated[0]}): such images "
            "have one exposure together",
            logging.INFO,
        )
    return {name: row for row, name in enumerate(dict.fromkeys(names))}


def exposed(image: Tensor, exposure: Tensor) -> Tensor:
    """`image` (3, H, W) with its colours changed by `exposure` (3, 4), not limited to 0..1."""
    colours = torch.addmm(exposure[:, 3:], exposure[:, :3].T, image.flatten(1))
    return colours.view_as(image)


def attach_exposures(cameras: Iterable[Camera], exposure_of: Callable[[str], Tensor]) -> None:
    """Give each camera the exposure of its name: renders of it are then compared with that.

    The matrices share memory with those that `exposure_of` returns, and follow their changes.
    """
    for camera in cameras:
        camera.exposure = exposure_of(camera.image_name).detach()


def set_exposures(cameras: Sequence[Camera], exposures: Sequence[Tensor | None]) -> None:
    """Give each camera its exposure (3, 4): what another rank sends before it is used here."""
    for camera, exposure in zip(cameras, exposures, strict=True):
        camera.exposure = exposure


def score_right_halves(cameras: Iterable[Camera]) -> None:
    """Let scores of test views count the right halves: exposures are fitted to the left ones."""
    for camera in cameras:
        camera.scored_from = camera.image_width // 2


def with_scaled_exposure(camera: Camera, colours: float, offset: float) -> Camera:
    """The camera, the first three columns of its exposure and the last one times these factors."""
    if camera.exposure is None:
        return camera
    scaled = copy.copy(camera)
    factors = torch.tensor([colours] * 3 + [offset], device=camera.exposure.device)
    scaled.exposure = camera.exposure * factors
    return scaled


# --- The file -------------------------------------------------------------------------------------


def read_exposures(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The matrices (3, 4) in an exposure.json, by image name. InputError if it is damaged."""
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} not found: a model that was trained with --train_test_exp has its exposures "
            "there"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected exposures by image name, got {type(content).__name__}")
    return {name: _matrix(path, name, value).to(device) for name, value in content.items()}


def _matrix(path: Path, name: str, value: object) -> Tensor:
    try:
        matrix = np.asarray(value, np.float32)
    except (ValueError, TypeError, OverflowError):
        matrix = np.empty(0, np.float32)
    if matrix.shape != (3, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{path}: exposure of {name}: expected 3 rows of 4 finite numbers")
    return torch.from_numpy(matrix)


def write_exposures(path: Path, exposures: Mapping[str, Tensor]) -> None:
    """Put the matrices at `path`, whole or not at all. InputError if one is not finite."""
    values = {name: matrix.detach().cpu().tolist() for name, matrix in exposures.items()}
    try:
        write_text(path, json.dumps(values, indent=2, allow_nan=False))
    except ValueError as error:
        raise InputError(
            f"{path}: exposures are not finite any more: training has diverged; lower the rates "
            "--exposure_lr_init and --exposure_lr_final"
        ) from error


# --- Training -------------------------------------------------------------------------------------


def exposure_schedule(options: Any) -> Callable[[int], float]:
    """Iteration -> learning rate. Options of 2023, which have no such rates, get the defaults."""
    init, final, delay_steps, delay_mult = (
        getattr(options, name, getattr(OptimizationOptions, name))
        for name in (
            f"exposure_lr_{part}" for part in ("init", "final", "delay_steps", "delay_mult")
        )
    )
    steps = getattr(options, "iterations", OptimizationOptions.iterations)
    return get_expon_lr_func(init, final, delay_steps, delay_mult, steps)


class ExposureAdam(WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam` of one small tensor, which does not import PyTorch's compiler."""

    def __init__(self, exposures: nn.Parameter) -> None:
        """`exposures` (n, 3, 4). Rates are set before each step."""
        super().__init__([exposures], lr=0.0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the exposures, if they have a gradient."""
        (group,) = self.param_groups
        (exposures,) = group["params"]
        gradient = exposures.grad
        if gradient is None:
            return
        state = self.state[exposures]
        if not state:
            state |= {name: torch.zeros_like(exposures) for name in MOMENTS}
            state["step"] = torch.tensor(0.0)
        state["step"] += 1
        count = int(state["step"])
        first, second = (state[name] for name in MOMENTS)
        beta1, beta2 = group["betas"]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (second / (1 - beta2**count)).sqrt_().add_(group["eps"])
        exposures.addcdiv_(first, root, value=-group["lr"] / (1 - beta1**count))


def exposure_state(exposures: Tensor, names: Iterable[str], optimizer: Optimizer | None) -> dict:
    """What a checkpoint holds of the exposures."""
    state = None if optimizer is None else optimizer.state_dict()["state"].get(0)
    return {"names": list(names), "matrices": exposures.detach(), "moments": state}


def checked_state(state: object) -> bool:
    """Whether `state` is one that `exposure_state` gives."""
    match state:
        case {"names": list(names), "matrices": Tensor() as matrices, "moments": moments}:
            tensors = [matrices]
            if moments is not None:
                if not isinstance(moments, dict) or not {"step", *MOMENTS} <= set(moments):
                    return False
                tensors += [moments[name] for name in MOMENTS]
                step = moments["step"]
                if not isinstance(step, Tensor) or step.numel() != 1 or not float(step) >= 0:
                    return False
            shape = (len(names), 3, 4)
            return all(isinstance(t, Tensor) and t.shape == shape for t in tensors) and all(
                isinstance(name, str) for name in names
            )
    return False


@torch.no_grad()
def restore_exposures(
    state: Mapping[str, Any],
    rows: Mapping[str, int],
    exposures: Tensor,
    optimizer: Optimizer | None,
) -> None:
    """Set the rows of `exposures`, and their moments, to those of the same names in `state`.

    Images that `state` does not contain keep their matrices.
    """
    pairs = [(rows[name], old) for old, name in enumerate(state["names"]) if name in rows]
    new, old = ([pair[side] for pair in pairs] for side in (0, 1))
    exposures[new] = state["matrices"][old].to(exposures)
    if optimizer is None or state["moments"] is None:
        return
    moments: dict[str, Tensor] = {"step": state["moments"]["step"]}
    for name in MOMENTS:
        moments[name] = torch.zeros_like(exposures)
        moments[name][new] = state["moments"][name][old].to(exposures)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: moments}})
