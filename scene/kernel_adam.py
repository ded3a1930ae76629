# SPDX-License-Identifier: Apache-2.0
"""Adam without PyTorch's compiler; by a kernel of the rasteriser package, at memory bandwidth."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


def _undecorated(kind: type[torch.optim.Optimizer], name: str) -> Any:
    method = getattr(kind, name)
    return getattr(method, "__wrapped__", method)


class WithoutCompiler:
    """Methods of PyTorch's optimisers without the decorator that imports its compiler.

    That import takes about two seconds of CPU time; nothing here is compiled by it. To be named
    before the optimiser in the bases of a class.
    """

    add_param_group = _undecorated(torch.optim.Optimizer, "add_param_group")
    zero_grad = _undecorated(torch.optim.Optimizer, "zero_grad")
    state_dict = _undecorated(torch.optim.Optimizer, "state_dict")
    load_state_dict = _undecorated(torch.optim.Optimizer, "load_state_dict")


class PlainAdam(WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(_undecorated(torch.optim.Adam, "step"))


class KernelAdam(WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam` whose step is one call of a kernel: same state, same steps up to rounding.

    float32 tensors only, those of a step on one device.
    """

    def __init__(self, kernels: Any, groups: list[dict[str, Any]], eps: float) -> None:
        """`kernels`: the module `diff_gaussian_rasterization.adam`."""
        super().__init__(groups, lr=0.0, eps=eps)
        self._kernels = kernels

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        by_step: dict[tuple, list[Any]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.numel():
                    continue
                state = self._state_of(parameter)
                state["step"] += 1
                key = int(state["step"].item()), group["betas"], group["eps"]
                by_step[key].append(
                    self._kernels.AdamState(
                        parameter.data,
                        parameter.grad.contiguous(),
                        state["exp_avg"],
                        state["exp_avg_sq"],
                        float(group["lr"]),
                    )
                )
        for (step, betas, eps), states in by_step.items():
            self._kernels.adam_step(states, step, betas, eps)

    def _state_of(self, parameter: Tensor | nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
