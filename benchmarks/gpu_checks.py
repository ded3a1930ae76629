# SPDX-License-Identifier: Apache-2.0
"""Pieces of work that every CUDA kernel takes part in, to be compared between two devices.

Each takes a device and returns its results on the CPU. Inputs are made up and the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import fused_ssim
import torch
from diff_gaussian_rasterization import GaussianRasterizer, check, raw, statistics
from diff_gaussian_rasterization.adam import AdamState, RawAdam, adam_step, update_visible
from diff_gaussian_rasterization.straight_through import (
    EvenGrid,
    QuantizedState,
    straight_through_step,
)
from simple_knn._C import distCUDA2
from torch import Tensor

from gaussian_compression.grid_straight_through import on_fitted_grids, with_ordered_raw_axes
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import GridSettings
from gaussian_compression.trainable import take_step
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.kernel_backend import KernelBackend, installed_kernels
from scene.raw_parameters import RawParameters

Results = dict[str, Tensor]

ROUNDED_OTHERWISE = 0.02
"""Numbers on grids that may be rounded to another symbol: those beside the middle of two."""


def made_up(count: int, sh_degree: int, seed: int = 0) -> RawParameters:
    """Raw parameters of Gaussians in a ball, smaller the more there are; on the CPU."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn((count, *shape), generator=generator)

    others = (sh_degree + 1) ** 2 - 1
    size = 1.0 / max(count, 1) ** (1 / 3)
    return RawParameters(
        xyz=normal(3),
        features_dc=normal(1, 3),
        features_rest=0.2 * normal(others, 3),
        opacity=2 * normal(1),
        scaling=0.5 * normal(3) + torch.tensor(size).log(),
        rotation=normal(4),
    )


def loss(device: torch.device) -> Results:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((3, 41, 70), generator=generator).to(device)
    photograph = torch.randint(0, 256, image.shape, generator=generator, dtype=torch.uint8)
    l1, ssim, gradient = fused_ssim.l1_ssim_value_and_gradient(image, photograph.to(device), 0.2)
    values = torch.stack([torch.as_tensor(l1).cpu(), torch.as_tensor(ssim).cpu()])
    return {"L1, SSIM": values, "gradient": gradient.cpu()}


def both_adams(device: torch.device) -> Results:
    start, gradient = torch.randn((2, 700, 3), generator=torch.Generator().manual_seed(0))
    dense, sparse = start.to(device), start.to(device, copy=True)
    moments = torch.zeros((4, 700, 3), device=device)
    given, visible = gradient.to(device), (torch.arange(700) % 3 == 0).to(device)
    dense = dense.clone()
    for step in (1, 2):
        adam_step([AdamState(dense, given, moments[0], moments[1], 0.1)], step)
        update_visible([AdamState(sparse, given, moments[2], moments[3], 0.1)], visible)
    return {"dense": dense.cpu() - start, "sparse": sparse.cpu() - start, "moments": moments.cpu()}


def derivatives_and_adam(device: torch.device) -> Results:
    """At once, by `Frame.update`."""
    model = raw.RawGaussians(*(tensor.to(device) for tensor in made_up(300, 3)))
    moved = raw.RawGaussians(*(tensor.clone() for tensor in model))
    means = [torch.zeros_like(tensor) for tensor in model]
    variances = [torch.full_like(tensor, 1e-4) for tensor in model]
    frame = raw.render(moved, check.view_settings(), training=True)
    weights = torch.randn(frame.image.shape, generator=torch.Generator().manual_seed(0))
    adam = RawAdam(means, variances, [1e-3] * 6, step=1)
    frame.update(weights.to(device), moved, adam)
    changes = [now - then for now, then in zip(moved, model, strict=True)]
    named = zip(raw.RawGaussians._fields, changes, strict=True)
    return {name: change.cpu() for name, change in named}


def sums(device: torch.device) -> Results:
    generator = torch.Generator().manual_seed(0)
    radii = torch.randint(0, 9, (700,), generator=generator, dtype=torch.int32).to(device)
    screen, values = torch.randn((2, 700, 2), generator=generator).to(device)
    largest, lengths, visits = (
        torch.zeros(shape, device=device) for shape in ((700,), (700, 1), (700, 1))
    )
    statistics.add_view(radii, screen, largest, lengths, visits)
    total, penalties = torch.ones((2, 700, 2), device=device)
    statistics.add_to([total], [values])
    statistics.add_signs(penalties, values, torch.linspace(0.1, 1, 700).to(device))
    named = {"radii": largest, "lengths": lengths, "visits": visits, "total": total}
    return {name: tensor.cpu() for name, tensor in (named | {"penalties": penalties}).items()}


def step_on_ranges(device: torch.device) -> Results:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).to(device)
    parameters = [values.clone() for _ in range(3)]
    seen = [None, torch.empty_like(values), torch.empty_like(values)]
    states = [
        QuantizedState(
            AdamState(p, values.flip(0), torch.zeros_like(p), torch.zeros_like(p), 0.01), s, grid
        )
        for p, s, grid in zip(
            parameters, seen, [None, None, EvenGrid(-1.5, 0.013, 200)], strict=True
        )
    ]
    ranges = straight_through_step(states, 1)
    moved = torch.stack(parameters) - values
    half, on_grid = (tensor.cpu() for tensor in seen if tensor is not None)
    return {"moved": moved.cpu(), "half": half, "grid": on_grid, "ranges": torch.tensor(ranges)}


def step_on_grids(device: torch.device) -> Results:
    """The decoded values are compared by the share of those that were rounded otherwise."""
    kernels = installed_kernels()
    assert kernels is not None
    raw = with_ordered_raw_axes(made_up(300, 3)).map(lambda tensor: tensor.to(device))
    ones = raw.map(torch.ones_like)
    even = RenderSensitivity(ones, psnr=30.0, absolute_error=0.01, pixel_sizes=ones.opacity[:, 0])
    backend = KernelBackend(RenderOptions(), kernels)
    optimizer = on_fitted_grids(raw, even, GridSettings(noise=0.3), backend)
    before = optimizer.coded.map(Tensor.clone)
    gradients = made_up(300, 3, seed=1).map(lambda tensor: tensor.to(device))
    take_step(optimizer, gradients, dict.fromkeys(RawParameters._fields, 1e-3))
    moved = {
        name: now - then for (name, now), then in zip(optimizer.coded.named(), before, strict=True)
    }
    decoded = {f"decoded {name}": tensor for name, tensor in optimizer.seen.named()}
    return {name: tensor.cpu() for name, tensor in (moved | decoded).items()}


def nearest_neighbours(device: torch.device) -> Results:
    points = torch.randn((3000, 3), generator=torch.Generator().manual_seed(0)).to(device)
    return {"distances": distCUDA2(points).cpu()}


def visible_points(device: torch.device) -> Results:
    points = 3 * torch.randn((3000, 3), generator=torch.Generator().manual_seed(0))
    visible = GaussianRasterizer(check.view_settings()).markVisible(points.to(device))
    return {"visible": visible.cpu()}


CASES: Mapping[str, Callable[[torch.device], Results]] = {
    "view and derivatives": check.small_frame,
    "loss": loss,
    "Adam": both_adams,
    "derivatives and Adam at once": derivatives_and_adam,
    "sums over views": sums,
    "step on ranges": step_on_ranges,
    "step on grids": step_on_grids,
    "nearest neighbours": nearest_neighbours,
    "visible points": visible_points,
}


def differences(found: Results, expected: Results) -> dict[str, float]:
    """Of each result: as in `check.differences`; of decoded values the share of other symbols."""
    decoded = {name for name in expected if name.startswith("decoded ")}
    others = {name: tensor for name, tensor in expected.items() if name not in decoded}
    shares: dict[str, Any] = {
        name: float((found[name] != expected[name]).double().mean()) for name in decoded
    }
    return check.differences(found, others) | shares


def largest_allowed(name: str) -> float:
    """The difference from which on a result is wrong."""
    return ROUNDED_OTHERWISE if name.startswith("decoded ") else check.LARGEST_DIFFERENCE
