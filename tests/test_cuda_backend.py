# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend, with emulated kernels on CPU tensors, against the CPU backend."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
from cuda_paths import cuda_path
from reference.random_splats import measured, random_raw, random_sensitivity
from reference.random_views import camera
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gaussian_compression.finetune import Finetuner
from gaussian_compression.grid_straight_through import (
    KernelGridStraightThrough,
    fitted_quantizer,
    with_ordered_raw_axes,
)
from gaussian_compression.quantize import initial_ranges
from gaussian_compression.settings import FinetuneSettings, GridSettings, QuantizationSettings
from gaussian_compression.straight_through import KernelStraightThrough
from gaussian_compression.trainable import FullPrecision, Trainable, take_step
from gaussian_renderer.backend import Backend, RenderOptions, ViewLoss
from gaussian_renderer.cpu_backend import CpuBackend
from gaussian_renderer.cuda_backend import CudaBackend
from gaussian_renderer.kernel_backend import Kernels, installed_kernels
from scene.kernel_adam import KernelAdam
from scene.raw_parameters import RawParameters

SH_DEGREE = 2
STEPS = 3
BACKGROUND = torch.tensor([0.2, 0.5, 0.7])


def kernels() -> Kernels:
    found = installed_kernels()
    assert found is not None
    return found


def on_both(action: Callable[[Backend], list[Tensor]], antialiasing: bool = False) -> tuple:
    """What an action gives with the CPU backend, and with the CUDA backend."""
    options = RenderOptions(antialiasing=antialiasing)
    expected = action(CpuBackend(options, kernels()))
    with cuda_path():
        return expected, action(CudaBackend(options, kernels()))


def scene() -> RawParameters:
    raw = random_raw(60, SH_DEGREE)
    return raw._replace(xyz=0.6 * raw.xyz, scaling=0.4 * raw.scaling)


VIEW = camera(33, 20)


def assert_close(found: list[Tensor], expected: list[Tensor], most: float = 3e-4) -> None:
    assert len(found) == len(expected)
    for index, (mine, other) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype
        difference = float((mine.double() - other.double()).norm())
        assert difference <= most * float(other.double().norm()), index


@pytest.mark.parametrize("antialiasing", [False, True])
def test_images_are_the_cpus(antialiasing: bool) -> None:
    def draw(backend: Backend) -> list[Tensor]:
        return [backend.draw(VIEW, scene(), BACKGROUND, degree) for degree in (SH_DEGREE, 0)]

    expected, found = on_both(draw, antialiasing)
    assert float(expected[0].std()) > 0.05
    assert_close(found, expected, most=1e-5)


def test_losses_and_gradients_are_the_cpus() -> None:
    def differentiate(backend: Backend) -> list[Tensor]:
        raw, results = scene(), []
        for count in (60, 40):  # the buffers follow
            part = raw.rows(torch.arange(count))
            out = part.map(lambda tensor: torch.full_like(tensor, float("nan")))
            result: ViewLoss = backend.differentiate(VIEW, part, out, BACKGROUND, SH_DEGREE, 0.2)
            assert result.loss.shape == ()
            screen = result.screen_gradient.clone()
            results += [result.loss, result.image, result.radii, screen, *out]
        return results

    expected, found = on_both(differentiate)
    assert_close(found, expected)


def test_derivatives_of_weighted_pixels_are_the_cpus() -> None:
    weights = torch.randn(3, 20, 33, generator=torch.Generator().manual_seed(1))

    def pull_back(backend: Backend) -> list[Tensor]:
        raw = scene()
        out = raw.map(torch.empty_like)
        image = backend.pull_back(VIEW, weights, raw, out, BACKGROUND, SH_DEGREE)
        return [image, *out]

    expected, found = on_both(pull_back)
    assert_close(found, expected)


def test_no_gaussians_are_drawn_as_the_background() -> None:
    def draw(backend: Backend) -> list[Tensor]:
        nothing = scene().rows(torch.arange(0))
        out = nothing.map(torch.empty_like)
        result = backend.differentiate(VIEW, nothing, out, BACKGROUND, SH_DEGREE, 0.2)
        return [result.loss, result.image]

    expected, found = on_both(draw)
    assert_close(found, expected)


def test_a_changed_background_is_drawn() -> None:
    """It is copied to the CPU once, and anew where it is another tensor or has changed."""
    background, nothing = BACKGROUND.clone(), scene().rows(torch.arange(0))
    backend = CudaBackend(RenderOptions(), kernels())
    with cuda_path():
        copy = backend._on_host(background)
        assert backend._on_host(background) is copy
        assert backend._background is not None
        first = backend._background
        background.fill_(0.25)
        image = backend.draw(VIEW, scene(), background, SH_DEGREE)
        assert backend._background is not first
        assert torch.equal(backend.draw(VIEW, nothing, background, 0), torch.full_like(image, 0.25))
        white = backend.draw(VIEW, scene(), torch.ones(3), SH_DEGREE)
    expected = CpuBackend(RenderOptions(), kernels())
    assert_close([image], [expected.draw(VIEW, scene(), background, SH_DEGREE)], most=1e-5)
    assert_close([white], [expected.draw(VIEW, scene(), torch.ones(3), SH_DEGREE)], most=1e-5)


def test_sums_and_penalties_are_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    radii = torch.randint(0, 9, (60,), generator=generator, dtype=torch.int32)
    screen, values = torch.randn((2, 60, 2), generator=generator)

    def sums(backend: Backend) -> list[Tensor]:
        totals = [torch.zeros(60), torch.zeros(60, 1), torch.zeros(60, 1)]
        backend.add_view(*totals, radii, screen)
        other, penalties = torch.ones(60, 2), torch.ones(60, 2)
        backend.add_to([other], [values])
        backend.add_signs(penalties, values, torch.tensor([0.5]))
        return [*totals, other, penalties]

    expected, found = on_both(sums)
    assert_close(found, expected, most=1e-6)


def in_full_precision(raw: RawParameters, backend: Backend) -> Trainable:
    return FullPrecision(raw, FinetuneSettings(), backend)


def on_ranges(raw: RawParameters, backend: Backend) -> Trainable:
    settings = QuantizationSettings()
    return KernelStraightThrough(raw, initial_ranges(raw), FinetuneSettings(), settings, backend)


def on_grids(raw: RawParameters, backend: Backend) -> Trainable:
    sensitivity = measured(random_sensitivity(raw), absolute_error=0.01)
    settings = GridSettings(noise=0.01)
    quantizer = fitted_quantizer(raw, sensitivity, settings)
    return KernelGridStraightThrough(raw, quantizer, settings, 0.01, backend)


@pytest.mark.parametrize("trained", [in_full_precision, on_ranges, on_grids])
def test_a_finetuning_is_the_cpus(trained: Callable[[RawParameters, Backend], Trainable]) -> None:
    def finetune(backend: Backend) -> list[Tensor]:
        model, losses = trained(with_ordered_raw_axes(scene()), backend), []
        start = model.coded.map(Tensor.clone)
        differentiate = partial(
            backend.differentiate, background=BACKGROUND, sh_degree=SH_DEGREE, lambda_dssim=0.2
        )
        finetuner = Finetuner(differentiate, 1.0, FinetuneSettings())
        finetuner.run(model, [VIEW, camera(20, 33)], STEPS, random.Random(0), losses.append)
        moved = [now - before for now, before in zip(model.coded, start, strict=True)]
        assert all(float(change.norm()) > 0 for change in moved)
        return [torch.stack(losses), *moved]

    expected, found = on_both(finetune)
    assert_close(found[:1], expected[:1])
    # Adam's first steps divide gradients by their size: one near 0 may move either way.
    assert_close(found[1:], expected[1:], most=0.05)


class ReadNumbers(TorchDispatchMode):
    """The tensors whose numbers Python reads in this context: on a GPU, the host waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        assert name not in ("aten::nonzero", "aten::masked_select", "aten::equal"), name
        if name == "aten::_local_scalar_dense":
            self.tensors.append(args[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", [in_full_precision, on_grids])
def test_an_iteration_reads_one_number(
    trained: Callable[[RawParameters, Backend], Trainable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of tile entries, an int64. Adam counts its steps on the host, on GPUs too."""
    backend = CudaBackend(RenderOptions(), kernels())
    model = trained(with_ordered_raw_axes(scene()), backend)
    gradients = model.seen.map(torch.empty_like)
    on_host: set[int] = set()
    state_of = KernelAdam._state_of

    def noted(adam: KernelAdam, parameter: Tensor) -> dict[str, Tensor]:
        state = state_of(adam, parameter)
        on_host.add(state["step"].data_ptr())
        return state

    monkeypatch.setattr(KernelAdam, "_state_of", noted)
    rates = dict.fromkeys(RawParameters._fields, 1e-3)
    with cuda_path():
        for reads in (ReadNumbers(), ReadNumbers()):  # the first one copies the background
            with torch.no_grad(), reads:
                backend.differentiate(VIEW, model.seen, gradients, BACKGROUND, SH_DEGREE, 0.2)
                take_step(model, gradients, rates)
    waited = [each.dtype for each in reads.tensors if each.data_ptr() not in on_host]
    assert waited == [torch.int64]
