# SPDX-License-Identifier: Apache-2.0
"""Checkpoints `chkpnt<N>.pth`: the model, its optimiser, and the state of the training loop.

The file holds `(twelve values, iteration)` as forks of Inria's code expect. What else an exact
resume needs (random states, views not yet drawn, exposures) is stored under two extra keys of the
optimiser's state, which `Optimizer.load_state_dict` ignores. Reading never runs code from the file.
"""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene.captured import EXPOSURE_KEY
from scene.exposure import checked_state
from scene.gaussian_model import GaussianModel
from splat_formats.splats import REST_COEFFICIENTS
from utils.errors import InputError
from utils.files import atomic_path

LOOP_KEY = "training_loop"
VALUE_COUNT = 12
# Indices into the twelve values; the tensors are between the first value and the optimiser.
FIRST_TENSOR = 1
FEATURES_REST = 3
OPTIMIZER_STATE = 10
SPATIAL_SCALE = 11
# Checkpoints of the original hold their `spatial_lr_scale` as a NumPy scalar. The module of its
# constructor has one name before NumPy 2 and another since; files may hold either.
_scalar = np.float64(0).__reduce__()[0]
NUMPY_SCALARS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
NO_EXPOSURES = {"names": [], "matrices": torch.empty(0, 3, 4), "moments": None}
# The restricted unpickler raises all of these for files of another kind.
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
    """The state besides the model that determines the rest of a run."""

    python_random: tuple
    """`random.getstate()`: determines the order of the views."""
    torch_random: Tensor
    """`torch.get_rng_state()`: determines split samples and random backgrounds."""
    views_left: tuple[int, ...]
    """Indices, in the list of training views, of those not yet drawn in this pass."""

    @classmethod
    def capture(cls, views_left: Sequence[int]) -> LoopState:
        """The current random states with the given views."""
        return cls(random.getstate(), torch.get_rng_state(), tuple(views_left))

    def apply(self) -> None:
        """Set the random states."""
        random.setstate(self.python_random)
        torch.set_rng_state(self.torch_random)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    model: tuple
    """The twelve values that `GaussianModel.restore` takes."""
    iteration: int
    """Number of iterations done."""
    loop: LoopState | None
    """None in files of other programs: such a run resumes with a new pass over the views."""

    @property
    def sh_degree(self) -> int:
        """Highest degree of the spherical harmonics."""
        return REST_COEFFICIENTS.index(self.model[FEATURES_REST].shape[1])


def save_checkpoint(
    path: str | Path, model: GaussianModel, iteration: int, loop: LoopState
) -> None:
    """Write `model` after `iteration` iterations, whole or not at all."""
    values = list(model.capture())
    values[OPTIMIZER_STATE] = {**values[OPTIMIZER_STATE], LOOP_KEY: asdict(loop)}
    with atomic_path(path) as temporary:
        _save((tuple(values), iteration), temporary)


def _save(content: object, path: Path) -> None:
    """torch.save, with the operating system's error, such as a full disk, instead of PyTorch's."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`, on the CPU. Raises `InputError` if the file is no checkpoint."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        # PyTorch's message has several lines, which advise loading the file unsafely.
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InputError(f"{path}: not a readable checkpoint: {reason}") from error
    return _checked(path, content)


def _checked(path: str | Path, content: object) -> Checkpoint:
    match content:
        case (tuple(values), int(iteration)) if len(values) == VALUE_COUNT:
            if fault := _fault(values, iteration):
                raise InputError(f"{path}: not a usable checkpoint: {fault}")
            extra = values[OPTIMIZER_STATE].get(LOOP_KEY)
            return Checkpoint(values, iteration, None if extra is None else _loop(path, extra))
    raise InputError(
        f"{path}: expected a checkpoint, a pair of {VALUE_COUNT} values and an iteration number"
    )


def _fault(values: tuple, iteration: int) -> str | None:
    """What is wrong with a checkpoint's values; None if nothing is."""
    tensors = values[FIRST_TENSOR:OPTIMIZER_STATE]
    if not all(isinstance(tensor, Tensor) and tensor.dim() for tensor in tensors):
        return f"expected {len(tensors)} tensors after its first value"
    rows = tensors[0].shape[0]
    coefficients = values[FEATURES_REST].shape[1] if values[FEATURES_REST].dim() == 3 else -1
    tails = ((3,), (1, 3), (coefficients, 3), (3,), (4,), (1,))
    if coefficients not in REST_COEFFICIENTS or any(
        tensor.shape != (rows, *tail) for tensor, tail in zip(tensors, tails, strict=False)
    ):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        return f"expected the tensors of a model, got the shapes {shapes}"
    if any(tensor.shape[0] != rows for tensor in tensors):
        return f"expected statistics of {rows} Gaussians"
    optimizer = values[OPTIMIZER_STATE]
    if not isinstance(optimizer, dict) or len(optimizer.get("param_groups", ())) != len(tails):
        return f"expected an optimiser of {len(tails)} groups"
    if not checked_state(optimizer.get(EXPOSURE_KEY, NO_EXPOSURES)):
        return "expected exposures (n, 3, 4) of n images, and their moments"
    if not isinstance(values[0], int) or not isinstance(values[SPATIAL_SCALE], Real):
        return "expected an SH degree at the beginning and a scale at the end"
    return None if iteration >= 0 else f"expected an iteration of at least 0, got {iteration}"


def _loop(path: str | Path, extra: dict) -> LoopState:
    """The state of the training loop, checked by setting temporary generators to it."""
    try:
        state = LoopState(**extra)
        random.Random().setstate(state.python_random)
        torch.Generator().set_state(state.torch_random)
    except DAMAGE as error:
        raise InputError(f"{path}: its random state cannot be restored: {error}") from error
    return state
