# SPDX-License-Identifier: Apache-2.0
"""Adam at the speed of memory: over everything, or over the Gaussians in view only.

Tensors are on the CPU. On a CUDA device the kernels of adam.cu are used, which no GPU has run yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from . import native
from .native import address, checked, row_count

_TENSORS = ("parameter", "gradient", "exp_avg", "exp_avg_sq")


class AdamState(NamedTuple):
    """One parameter tensor with its gradient, its two moments (all of one shape), its rate."""

    parameter: torch.Tensor
    gradient: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    learning_rate: float


class RawAdam(NamedTuple):
    """One step of Adam on the six tensors of a model, in the order of `raw.RawGaussians`."""

    exp_avg: Sequence[torch.Tensor]
    exp_avg_sq: Sequence[torch.Tensor]
    learning_rates: Sequence[float]
    step: int | None
    """Counts from 1. None: as `update_visible`, for the Gaussians in view."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-15


def adam_step(
    states: Sequence[AdamState],
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> None:
    """Update parameters and moments in place, by the formula of `torch.optim.Adam`.

    `step` counts from 1, for the bias correction. All tensors float32, on one device and
    contiguous; else ValueError.
    """
    check_step(step)
    if states and native.on_cuda(states[0].parameter):
        from . import cuda_adam

        kernels = cuda_adam.kernels_on(states[0].parameter.device)
        cuda_adam.adam_step(kernels, states, step, betas, eps)
        return
    _update([corrected_group(state, step, betas) for state in states], betas, eps, None)


def update_visible(
    states: Sequence[AdamState],
    visible: torch.Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> None:
    """Update, without bias correction, the rows where `visible`, bool (N,), is True.

    The other rows do not change, nor do their moments.
    """
    device = native.kernel_device(states[0].parameter) if states else native.CPU
    if visible.dtype != torch.bool or visible.dim() != 1 or visible.device != device:
        raise ValueError(f"visible must be a bool tensor (N,) on {native.name_of(device)}.")
    for state in states:
        rows = row_count("parameter", state.parameter)
        if rows != visible.shape[0]:
            raise ValueError(f"visible has {visible.shape[0]} rows, a parameter {rows}.")
    if states and native.on_cuda(visible):
        from . import cuda_adam

        cuda_adam.update_visible(cuda_adam.kernels_on(device), states, visible, betas, eps)
        return
    groups = [adam_group(state, state.learning_rate, 1.0) for state in states]
    _update(groups, betas, eps, visible.contiguous())


def corrected_group(state: AdamState, step: int, betas: tuple[float, float]) -> native.AdamGroup:
    """`adam_group` with the bias correction of step `step`, which counts from 1."""
    step_size = state.learning_rate / (1.0 - betas[0] ** step)
    return adam_group(state, step_size, 1.0 / math.sqrt(1.0 - betas[1] ** step))


def check_step(step: int) -> None:
    """ValueError unless `step` is at least 1."""
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}.")


def adam_group(state: AdamState, step_size: float, variance_correction: float) -> native.AdamGroup:
    """The library's structure of a state. ValueError for a tensor that cannot change in place."""
    rows, width = check_state(state, native.CPU)
    addresses = [address(getattr(state, name)) for name in _TENSORS]
    return native.AdamGroup(*addresses, rows, width, step_size, variance_correction)


def check_state(state: AdamState, device: torch.device) -> tuple[int, int]:
    """(rows, numbers in a row). ValueError for a tensor that cannot change in place."""
    shape = tuple(state.parameter.shape)
    for name in _TENSORS:
        checked(name, getattr(state, name), shape, written=True, device=device)
    rows = shape[0] if shape else 1
    return rows, state.parameter.numel() // rows if rows else 0


def _update(
    groups: Sequence[native.AdamGroup],
    betas: tuple[float, float],
    eps: float,
    visible: torch.Tensor | None,
) -> None:
    native.check_status(
        native.library.adam_update(
            (native.AdamGroup * len(groups))(*groups),
            len(groups),
            native.AdamConstants(*betas, eps),
            address(visible),
            torch.get_num_threads(),
        )
    )


class SparseGaussianAdam(torch.optim.Adam):
    """Adam that changes only the Gaussians in view (Mallick et al. 2024, "Taming 3DGS").

    Each parameter group holds exactly one tensor, one row per Gaussian. There is no bias
    correction, and the state's `step` stays 0. Tensors may have any strides.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, eps: float) -> None:
        super().__init__(params=params, lr=lr, eps=eps)

    @torch.no_grad()
    def step(self, visibility: torch.Tensor, N: int) -> None:  # type: ignore[override]
        """Update the rows of all groups where `visibility`, bool (N,), is True."""
        if visibility.shape != (N,):
            found = tuple(visibility.shape)
            raise ValueError(f"visibility must have the shape ({N},), not {found}.")
        for group in self.param_groups:
            if len(group["params"]) != 1:
                raise ValueError("each parameter group must hold exactly one tensor.")
            parameter = group["params"][0]
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            changed = (parameter, state["exp_avg"], state["exp_avg_sq"])
            values, mean, variance = (tensor.contiguous() for tensor in changed)
            gradient = parameter.grad.contiguous()
            update_visible(
                [AdamState(values, gradient, mean, variance, float(group["lr"]))],
                visibility,
                group["betas"],
                group["eps"],
            )
            # The original's first positions are the transpose of an array of three rows.
            for target, source in zip(changed, (values, mean, variance), strict=True):
                if target is not source:
                    target.copy_(source)
