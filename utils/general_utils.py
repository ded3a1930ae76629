# SPDX-License-Identifier: Apache-2.0
"""Tensor functions of the Gaussian model, the learning-rate schedule, and program set-up."""

import math
import random
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of `x` in 0..1."""
    return torch.log(x / (1 - x))


def PILtoTorch(pil_image: Image.Image, resolution: tuple[int, int]) -> Tensor:
    """(C, H, W) float image in 0..1, resized to `resolution` = (width, height), bicubically."""
    pixels = np.array(pil_image.resize(resolution))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255.0


def get_expon_lr_func(
    lr_init: float,
    lr_final: float,
    lr_delay_steps: int = 0,
    lr_delay_mult: float = 1.0,
    max_steps: int = 1_000_000,
) -> Callable[[int], float]:
    """A schedule, step -> learning rate, log-linear from `lr_init` to `lr_final`.

    During the first `lr_delay_steps` a factor rises from `lr_delay_mult` to 1 along a sine. From
    JaxNeRF (Deng et al. 2020).
    """

    def schedule(step: int) -> float:
        if step < 0 or (lr_init == 0.0 and lr_final == 0.0):
            return 0.0
        delay = 1.0
        if lr_delay_steps > 0:
            warm_up = math.sin(0.5 * math.pi * min(max(step / lr_delay_steps, 0.0), 1.0))
            delay = lr_delay_mult + (1 - lr_delay_mult) * warm_up
        u = min(max(step / max_steps, 0.0), 1.0)
        return delay * math.exp((1 - u) * math.log(lr_init) + u * math.log(lr_final))

    return schedule


def strip_lowerdiag(L: Tensor) -> Tensor:
    """(N, 6) upper triangles xx, xy, xz, yy, yz, zz of (N, 3, 3) matrices."""
    rows, columns = torch.triu_indices(3, 3, device=L.device)
    return L[:, rows, columns]


def strip_symmetric(sym: Tensor) -> Tensor:
    """(N, 6) distinct entries xx, xy, xz, yy, yz, zz of (N, 3, 3) symmetric matrices."""
    return strip_lowerdiag(sym)


def build_rotation(r: Tensor) -> Tensor:
    """(N, 3, 3) rotation matrices of (N, 4) quaternions w, x, y, z, which are normalised first."""
    w, x, y, z = (r / r.norm(dim=1, keepdim=True)).unbind(1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def build_scaling_rotation(s: Tensor, r: Tensor) -> Tensor:
    """(N, 3, 3) matrices R diag(s): square roots of the Gaussians' covariances.

    s: (N, 3) standard deviations; r: (N, 4) quaternions.
    """
    return build_rotation(r) * s[:, None, :]


class _TimestampedStdout:
    """A stdout that discards everything, or whose lines end in the time of day.

    Line ends within a written text are not the end of a printed line, and stay as they are.
    """

    def __init__(self, stream: TextIO, silent: bool):
        self._stream = stream
        self._silent = silent

    def write(self, text: str) -> int:
        length = len(text)
        if not self._silent:
            if text.endswith("\n"):
                text = text[:-1] + datetime.now().strftime(" [%d/%m %H:%M:%S]\n")
            self._stream.write(text)
        return length

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def seed_everything(seed: int = 0) -> None:
    """Seeds Python's, NumPy's and PyTorch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def safe_state(silent: bool) -> None:
    """Seeds all generators with 0, time-stamps stdout (or silences it), selects the first GPU."""
    stream = sys.stdout
    if isinstance(stream, _TimestampedStdout):
        stream = stream._stream
    sys.stdout = _TimestampedStdout(stream, silent)
    seed_everything(0)
    if torch.cuda.is_available():
        torch.cuda.set_device(0)
