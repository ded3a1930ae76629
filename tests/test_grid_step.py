# SPDX-License-Identifier: Apache-2.0
"""The fused step of fine-tuning on grids against its plain twin, and against the decoder."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference.random_splats import measured, random_raw, random_sensitivity

from gaussian_compression.grid_quantizer import GridQuantizer
from gaussian_compression.grid_straight_through import (
    KernelGridStraightThrough,
    PlainGridStraightThrough,
    fitted_quantizer,
    kernel_grids,
    on_fitted_grids,
    with_ordered_raw_axes,
)
from gaussian_compression.settings import GridSettings
from gaussian_compression.trainable import take_step
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.array_operations import TorchOperations
from scene.raw_parameters import RawParameters

RATES = {
    "xyz": 1e-3,
    "features_dc": 2.5e-3,
    "features_rest": 5e-3,
    "opacity": 0.025,
    "scaling": 0.2,
    "rotation": 0.05,
}
KERNELS = backend_for(torch.device("cpu"), RenderOptions())
PLAIN = TorchOperations()
NO_RATES = dict.fromkeys(RATES, 0.0)
SIZES = [(1, 0), (37, 1), (101, 2), (3001, 3)]


def model(count: int, sh_degree: int, far: int = 0) -> RawParameters:
    raw = with_ordered_raw_axes(random_raw(count, sh_degree))
    raw.xyz[:far] *= 1000
    return raw


def quantizer_of(raw: RawParameters) -> GridQuantizer:
    sensitivity = measured(random_sensitivity(raw), absolute_error=0.01)
    settings = GridSettings(noise=1.6e-4 * raw.gaussian_count)
    return fitted_quantizer(raw, sensitivity, settings)


def copied(raw: RawParameters) -> RawParameters:
    return raw.map(torch.clone)


def seen_by_the_kernel(raw: RawParameters, quantizer: GridQuantizer) -> KernelGridStraightThrough:
    """An optimiser whose `seen` the kernel has computed from unchanged parameters."""
    optimizer = KernelGridStraightThrough(raw, quantizer, GridSettings(), 0.01, KERNELS)
    before = copied(optimizer.coded)
    for tensor in optimizer.seen:
        tensor.fill_(torch.nan)
    take_step(optimizer, copied(raw), NO_RATES)
    for a, b in zip(before, optimizer.coded, strict=True):
        assert torch.equal(a, b)
    return optimizer


def assert_same_bits(found: RawParameters, expected: RawParameters) -> None:
    for (name, a), b in zip(found.named(), expected, strict=True):
        integers = (t.numpy().view(np.int32) for t in (a, b.contiguous()))
        np.testing.assert_array_equal(*integers, err_msg=name)


def elsewhere(raw: RawParameters) -> RawParameters:
    """Parameters that the grids were not made for: outside them, axes in any order."""
    other = random_raw(raw.gaussian_count, raw.sh_degree, seed=3)
    return raw._replace(
        xyz=raw.xyz * 1.5,
        features_dc=3 * other.features_dc,
        features_rest=4 * other.features_rest,
        opacity=2 * other.opacity,
        scaling=other.scaling,
        rotation=10 * other.rotation,
    )


def at_zero(raw: RawParameters) -> RawParameters:
    """Zeros of both signs."""
    return raw.map(lambda tensor: torch.zeros_like(tensor) * tensor)


@pytest.mark.parametrize("change", [copied, elsewhere, at_zero])
@pytest.mark.parametrize("far", [0, 1])
@pytest.mark.parametrize(("count", "sh_degree"), SIZES)
def test_rendered_values_are_the_twins_bit_by_bit(
    count: int, sh_degree: int, far: int, change: Callable[[RawParameters], RawParameters]
) -> None:
    raw = model(count, sh_degree, far)
    quantizer = quantizer_of(raw)
    optimizer = seen_by_the_kernel(change(raw), quantizer)
    assert_same_bits(optimizer.seen, quantizer.decoded(optimizer.coded))


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e6])
def test_rendered_values_are_the_decoders_bit_by_bit_however_large(factor: float) -> None:
    raw = model(3001, 3)
    quantizer = quantizer_of(raw)
    assert quantizer.sh_matrix.count_nonzero() > 45  # sums of more than one product
    rows = torch.arange(3001)[:, None, None] % 7 == 0
    scaled = torch.where(rows, raw.features_rest * factor, raw.features_rest)
    optimizer = seen_by_the_kernel(raw._replace(features_rest=scaled), quantizer)
    integers = quantizer.to_grid_splats(optimizer.coded)
    assert (abs(integers.sh).max() == 2**15 - 1) == (factor == 1e6)
    for name, values in integers.values().items():
        seen = getattr(optimizer.seen, name).numpy().reshape(values.shape)
        np.testing.assert_array_equal(seen.view(np.int32), values.view(np.int32), err_msg=name)


@pytest.mark.parametrize(("count", "sh_degree"), SIZES)
def test_fused_step_equals_the_plain_one(count: int, sh_degree: int) -> None:
    raw = model(count, sh_degree)
    quantizer = quantizer_of(raw)
    plain = PlainGridStraightThrough(raw, quantizer, GridSettings(), 0.2, PLAIN)
    fused = KernelGridStraightThrough(raw, quantizer, GridSettings(), 0.2, KERNELS)
    for step in range(4):
        gradients = random_raw(count, sh_degree, seed=step + 1)
        take_step(plain, copied(gradients), RATES)
        take_step(fused, copied(gradients), RATES)
    for (name, a), b in zip(plain.coded.named(), fused.coded, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
        assert not a.numel() or not torch.equal(b, getattr(raw, name))
    assert_same_bits(fused.seen, quantizer.decoded(fused.coded))


def test_sparsity_penalty_is_the_twins() -> None:
    raw = model(300, 3)
    quantizer, nothing = quantizer_of(raw), raw.map(torch.zeros_like)
    plain, fused = (
        kind(raw, quantizer, GridSettings(), 0.1, operations)
        for kind, operations in (
            (PlainGridStraightThrough, PLAIN),
            (KernelGridStraightThrough, KERNELS),
        )
    )
    for optimizer in (plain, fused):
        # The size of Adam's first step is fixed; that of the second depends on the penalty.
        take_step(optimizer, copied(nothing), RATES)
        take_step(optimizer, raw.map(lambda t: torch.full_like(t, 1e-5)), RATES)
    torch.testing.assert_close(
        plain.coded.features_rest, fused.coded.features_rest, rtol=1e-4, atol=1e-6
    )
    start = quantizer.to_coding_basis(raw).features_rest
    assert fused.coded.features_rest.abs().mean() < start.abs().mean()


@pytest.mark.parametrize(("count", "sh_degree"), [*SIZES, (515, 3)])
def test_gradients_are_pulled_back_as_by_the_twin(count: int, sh_degree: int) -> None:
    raw = model(count, sh_degree)
    quantizer = quantizer_of(raw)
    plain = PlainGridStraightThrough(raw, quantizer, GridSettings(), 0.2, PLAIN)
    fused = KernelGridStraightThrough(raw, quantizer, GridSettings(), 0.2, KERNELS)
    gradients = random_raw(count, sh_degree, seed=4)
    expected, found = plain.pull_back(copied(gradients)), fused.pull_back(copied(gradients))
    for (name, a), b in zip(expected.named(), found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=name)
    assert not (found.scaling[quantizer.hidden_scales] != 0).any()


def test_the_step_is_chosen_by_the_operations() -> None:
    raw = model(50, 1)
    sensitivity = measured(random_sensitivity(raw), absolute_error=0.01)
    fused = on_fitted_grids(raw, sensitivity, GridSettings(), KERNELS)
    assert isinstance(fused, KernelGridStraightThrough)
    plain = on_fitted_grids(raw, sensitivity, GridSettings(), PLAIN)
    assert isinstance(plain, PlainGridStraightThrough)


def test_threads_change_nothing() -> None:
    raw = model(5003, 3, far=2)
    quantizer, results = quantizer_of(raw), []
    start, threads = quantizer.to_coding_basis(raw), torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            optimizer = KernelGridStraightThrough(raw, quantizer, GridSettings(), 0.01, KERNELS)
            optimizer.coded = copied(start)
            take_step(optimizer, random_raw(5003, 3, seed=9), RATES)
            results.append((optimizer.coded, optimizer.seen))
    finally:
        torch.set_num_threads(threads)
    for coded, seen in results[1:]:
        assert_same_bits(coded, results[0][0])
        assert_same_bits(seen, results[0][1])


def test_wrong_tensors_are_named() -> None:
    from diff_gaussian_rasterization import grid_step
    from diff_gaussian_rasterization.grid_step import GridStep

    raw = model(40, 1)
    quantizer = quantizer_of(raw)
    optimizer = KernelGridStraightThrough(raw, quantizer, GridSettings(), 0.01, KERNELS)
    good, gradients = optimizer.seen, copied(raw)
    for name, bad in {
        "features_rest": torch.zeros(40, 3, 3).double(),
        "rotation": torch.zeros(4, 40).T,
        "scaling": torch.zeros(40, 2),
    }.items():
        optimizer.seen = good._replace(**{name: bad})
        with pytest.raises(ValueError, match=f"{name} as seen"):
            optimizer.apply(gradients, RATES)
    optimizer.seen = good
    with pytest.raises(ValueError, match="gradient"):
        optimizer.apply(gradients._replace(xyz=torch.zeros(39, 3)), RATES)
    optimizer.coded = optimizer.coded._replace(xyz=torch.zeros(39, 3))
    with pytest.raises(ValueError, match="xyz must have 40 rows of 3"):
        optimizer.apply(gradients, RATES)
    with pytest.raises(ValueError, match="gradients must have the shape"):
        optimizer.pull_back(gradients._replace(features_rest=torch.zeros(40, 8, 3)))

    grids, classes = kernel_grids(quantizer, grid_step), quantizer.classes.byte()
    with pytest.raises(ValueError, match="classes"):
        GridStep(grids, quantizer.classes, quantizer.far)
    with pytest.raises(ValueError, match="below 32"):
        GridStep(grids, classes + 32, quantizer.far)
    with pytest.raises(ValueError, match="far"):
        GridStep(grids, classes, quantizer.far[:-1])
    harmonics = grids.harmonics
    with pytest.raises(ValueError, match="matrix"):
        GridStep(
            grids._replace(harmonics=harmonics._replace(matrix=torch.eye(10))),
            classes,
            quantizer.far,
        )
    with pytest.raises(ValueError, match="rounding"):
        GridStep(grids._replace(harmonics=harmonics._replace(rounding=1.0)), classes, quantizer.far)
