# SPDX-License-Identifier: Apache-2.0
"""The optimiser of a Gaussian model: six named groups, whose rows can be added and removed.

Each group holds one parameter. When the number of Gaussians changes, the parameter is replaced
and its Adam moments change with it. A replaced parameter has no gradient, so the step right after
densification does not change it: published results depend on that.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scene.array_operations import ArrayOperations
from scene.kernel_adam import WithoutCompiler
from scene.view_batches import betas_of, training_rate_factor
from utils.errors import InputError
from utils.optional_modules import load_required

EPSILON = 1e-15
MOMENTS = ("exp_avg", "exp_avg_sq")
# The learning rate of view-dependent colour is lower than that of the base colour.
REST_RATE_DIVISOR = 20.0


class LearningRates(Protocol):
    """The optimisation options that set the six constant or initial rates."""

    position_lr_init: float
    feature_lr: float
    opacity_lr: float
    scaling_lr: float
    rotation_lr: float


def learning_rates(options: LearningRates, spatial_lr_scale: float) -> dict[str, float]:
    """Initial learning rate of each group, by group name, in the order of the groups."""
    return {
        "xyz": options.position_lr_init * spatial_lr_scale,
        "f_dc": options.feature_lr,
        "f_rest": options.feature_lr / REST_RATE_DIVISOR,
        "opacity": options.opacity_lr,
        "scaling": options.scaling_lr,
        "rotation": options.rotation_lr,
    }


def create_optimizer(
    parameters: Mapping[str, Tensor],
    rates: Mapping[str, float],
    optimizer_type: str,
    operations: ArrayOperations,
) -> Optimizer:
    """Adam over one group per parameter.

    `optimizer_type` is "default" (every row, each step) or "sparse_adam" (rows in view only; needs
    a rasteriser that exports `SparseGaussianAdam`).
    """
    groups = [
        {"params": [parameter], "lr": rates[name], "name": name}
        for name, parameter in parameters.items()
    ]
    if optimizer_type == "default":
        return operations.adam(groups, EPSILON)
    if optimizer_type == "sparse_adam":
        return _sparse_adam_class()(groups, lr=0.0, eps=EPSILON)
    raise InputError(
        f"--optimizer_type must be 'default' or 'sparse_adam', but {optimizer_type!r} was given"
    )


def check_optimizer_type(optimizer_type: str) -> None:
    """Raise `InputError` if no installed package has this optimiser."""
    if optimizer_type == "sparse_adam":
        _sparse_adam_class()


def _sparse_adam_class() -> Callable[..., Optimizer]:
    install = "pip install submodules/diff-gaussian-rasterization"
    package: Any = load_required("diff_gaussian_rasterization", "sparse_adam", install)
    if not hasattr(package, "SparseGaussianAdam"):
        raise InputError(
            "sparse_adam needs a diff_gaussian_rasterization that exports SparseGaussianAdam, "
            f"but the installed one does not: {install}"
        )

    class SparseAdam(WithoutCompiler, package.SparseGaussianAdam):
        """The package's, also where that imports the compiler."""

    return SparseAdam


def take_step(optimizer: Optimizer, optimizer_type: str, radii: Tensor, views: int = 1) -> None:
    """Step, and drop the gradients, which are means over this number of views.

    `radii` (N,) are 0 for the Gaussians not in view. Parameters replaced since the last backward
    pass have no gradient and stay as they are.
    """
    with for_views(optimizer, views):
        if optimizer_type == "sparse_adam":
            sparse: Any = optimizer
            sparse.step(radii > 0, radii.shape[0])
        else:
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def for_views(optimizer: Optimizer, views: int) -> Iterator[None]:
    """Within the block, rates and decay rates are those for so many views (view_batches.py)."""
    if views == 1:
        yield
        return
    before = [(group, group["lr"], group["betas"]) for group in optimizer.param_groups]
    for group, rate, _ in before:
        group.update(lr=rate * training_rate_factor(views), betas=betas_of(views))
    try:
        yield
    finally:
        for group, rate, betas in before:
            group.update(lr=rate, betas=betas)


def restore_optimizer(optimizer: Optimizer, state: dict) -> None:
    """Take moments and rates from `state`, but keep this process's implementation of the step."""
    # A checkpoint written elsewhere may select a kernel that this device does not have.
    kept: list[dict[str, Any]] = [
        {name: group[name] for name in ("fused", "foreach") if name in group}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for moments in optimizer.state.values():
        # The original's first positions, and so their moments, are stored by columns.
        moments.update({name: moments[name].contiguous() for name in MOMENTS if name in moments})
    for group, implementation in zip(optimizer.param_groups, kept, strict=True):
        group.update(implementation)


def replace_tensor(optimizer: Optimizer, tensor: Tensor, name: str) -> dict[str, nn.Parameter]:
    """The new parameter of group `name`, its moments zero, as a one-entry dict."""

    def zeroed(moment: Tensor) -> Tensor:
        return torch.zeros_like(tensor)

    group = _group(optimizer, name)
    return {name: _exchange(optimizer, group, tensor, zeroed)}


def keep_rows(optimizer: Optimizer, keep: Tensor) -> dict[str, nn.Parameter]:
    """The six parameters with only the rows where `keep` (N,) is true."""
    return {
        group["name"]: _exchange(
            optimizer, group, group["params"][0].detach()[keep], lambda moment: moment[keep]
        )
        for group in optimizer.param_groups
    }


def append_rows(optimizer: Optimizer, rows: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The six parameters followed by the new `rows`, whose moments are zero."""
    extended = {}
    for group in optimizer.param_groups:
        extra = rows[group["name"]]

        def with_zeros(moment: Tensor, extra: Tensor = extra) -> Tensor:
            return torch.cat((moment, torch.zeros_like(extra)))

        longer = torch.cat((group["params"][0].detach(), extra))
        extended[group["name"]] = _exchange(optimizer, group, longer, with_zeros)
    return extended


def _group(optimizer: Optimizer, name: str) -> dict:
    for group in optimizer.param_groups:
        if group["name"] == name:
            return group
    raise KeyError(name)


class _MomentChange(Protocol):
    def __call__(self, moment: Tensor) -> Tensor: ...


def _exchange(
    optimizer: Optimizer, group: dict, tensor: Tensor, change: _MomentChange
) -> nn.Parameter:
    """Replace the group's parameter by `tensor`, and `change` its moments if there are any."""
    old = group["params"][0]
    new = nn.Parameter(tensor.detach())
    group["params"][0] = new
    state = optimizer.state.pop(old, None)
    if state is not None:
        for key in MOMENTS:
            state[key] = change(state[key])
        optimizer.state[new] = state
    return new
