# SPDX-License-Identifier: Apache-2.0
"""Checkpoints `chkpnt<N>.pth`: the model, its optimiser, and where the training loop stood.

The file holds `(twelve values, iteration)` as forks of Inria's code expect. What they lack for an
exact resume (random states, views not yet drawn) travels under one extra key of the optimiser's
state, which `Optimizer.load_state_dict` passes over. Reading never runs code from the file.
"""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene.gaussian_model import GaussianModel
from utils.errors import InputError
from utils.files import atomic_path

LOOP_KEY = "training_loop"
OPTIMIZER_STATE = 10  # its place among the twelve values
VALUE_COUNT = 12
# Checkpoints of the original hold their `spatial_lr_scale` as a NumPy scalar. Its constructor went
# by another module name before NumPy 2, whichever wrote the file.
_scalar = np.float64(0).__reduce__()[0]
NUMPY_SCALARS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
# The restricted unpickler meets foreign bytes with all of these.
DAMAGE = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class LoopState:
    """What decides the rest of a run besides the model."""

    python_random: tuple
    """`random.getstate()`: draws the views."""
    torch_random: Tensor
    """`torch.get_rng_state()`: samples splits and random backgrounds."""
    views_left: tuple[int, ...]
    """Places, in the list of training views, of those not yet drawn in this pass."""

    @classmethod
    def capture(cls, views_left: Sequence[int]) -> LoopState:
        """The present random states with the given views."""
        return cls(random.getstate(), torch.get_rng_state(), tuple(views_left))

    def apply(self) -> None:
        """Set the random states."""
        random.setstate(self.python_random)
        torch.set_rng_state(self.torch_random)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read."""

    model: tuple
    """The twelve values that `GaussianModel.restore` takes."""
    iteration: int
    """Number of iterations done."""
    loop: LoopState | None
    """None in files of other programs: such a run resumes with a fresh pass over the views."""


def save_checkpoint(
    path: str | Path, model: GaussianModel, iteration: int, loop: LoopState
) -> None:
    """Write `model` after `iteration` iterations, whole or not at all."""
    values = list(model.capture())
    values[OPTIMIZER_STATE] = {**values[OPTIMIZER_STATE], LOOP_KEY: asdict(loop)}
    with atomic_path(path) as temporary:
        torch.save((tuple(values), iteration), temporary)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`, on the CPU. Raises `InputError` if the file is no checkpoint."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise InputError(f"{path}: not a readable checkpoint: {error}") from error
    return _checked(path, content)


def _checked(path: str | Path, content: object) -> Checkpoint:
    match content:
        case (tuple(values), int(iteration)) if len(values) == VALUE_COUNT and isinstance(
            values[OPTIMIZER_STATE], dict
        ):
            extra = values[OPTIMIZER_STATE].get(LOOP_KEY)
            return Checkpoint(values, iteration, None if extra is None else LoopState(**extra))
    raise InputError(
        f"{path}: expected a checkpoint, a pair of {VALUE_COUNT} values and an iteration number"
    )
