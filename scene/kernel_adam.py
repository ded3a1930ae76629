# SPDX-License-Identifier: Apache-2.0
"""Adam by the rasteriser package's kernel, which runs at the speed of memory on a CPU."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from utils.optional_modules import installed

KERNEL_MODULE = "diff_gaussian_rasterization.adam"


def adam(groups: list[dict[str, Any]], eps: float) -> torch.optim.Adam:
    """Adam over parameter groups: the kernel for CPU tensors where it is installed, else torch's.

    Both keep the same state and give the same steps up to rounding. Learning rates are the groups'.
    """
    on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
    if on_cpu and installed(KERNEL_MODULE):
        return KernelAdam(groups, lr=0.0, eps=eps)
    return torch.optim.Adam(groups, lr=0.0, eps=eps, fused=True)


class KernelAdam(torch.optim.Adam):
    """`torch.optim.Adam` whose step is one call of the kernel. float32 CPU tensors only."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        from diff_gaussian_rasterization.adam import AdamState, adam_step

        by_age: dict[tuple, list[AdamState]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.numel():
                    continue
                state = self._state_of(parameter)
                state["step"] += 1
                key = int(state["step"].item()), group["betas"], group["eps"]
                by_age[key].append(
                    AdamState(
                        parameter.data,
                        parameter.grad.contiguous(),
                        state["exp_avg"],
                        state["exp_avg_sq"],
                        float(group["lr"]),
                    )
                )
        for (age, betas, eps), states in by_age.items():
            adam_step(states, age, betas, eps)

    def _state_of(self, parameter: Tensor | nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
