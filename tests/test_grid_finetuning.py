# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on the grids of a version-2 file: the trained values are the stored ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference.random_splats import measured, random_raw, random_sensitivity

from gaussian_compression.bit_allocation import (
    errors_per_number,
    fit_grids,
    settle_hidden_scales,
)
from gaussian_compression.grid_quantizer import GridQuantizer
from gaussian_compression.grid_straight_through import (
    KernelGridStraightThrough,
    PlainGridStraightThrough,
    fitted_quantizer,
    on_fitted_grids,
    with_ordered_raw_axes,
)
from gaussian_compression.settings import GridSettings
from gaussian_compression.trainable import StraightThrough, take_step
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.raw_parameters import RawParameters
from splat_codec.grids import GREATEST_SYMBOL
from splat_codec.model_file import ModelFile, decode, encode
from splat_codec.rounding import (
    cells_of,
    dc_symbols,
    limited_dc,
    rotation_symbols,
    scale_symbols,
    sh_symbols,
)
from splat_formats.decoded import to_splats
from splat_formats.design_grids import GridSteps, design_grids
from splat_formats.snap_to_grids import snap_to_grids
from splat_formats.splats import Splats

RATES = {
    "xyz": 1e-3,
    "features_dc": 2.5e-3,
    "features_rest": 5e-3,
    "opacity": 0.025,
    "scaling": 0.2,
    "rotation": 0.05,
}

KERNELS = backend_for(torch.device("cpu"), RenderOptions())
Kind = PlainGridStraightThrough | KernelGridStraightThrough
KINDS = [PlainGridStraightThrough, KernelGridStraightThrough]


def ordered(count: int = 4000, sh_degree: int = 3, seed: int = 0) -> RawParameters:
    return with_ordered_raw_axes(random_raw(count, sh_degree, seed=seed))


def fine(raw: RawParameters) -> float:
    """A noise at which steps are a small part of the values."""
    return 1.6e-4 * raw.gaussian_count


def quantizer_of(
    raw: RawParameters, precision: GridSteps, far: np.ndarray | None = None
) -> GridQuantizer:
    splats = raw.to_splats()
    grids, classes = design_grids(splats, precision, None)
    none = np.zeros(splats.count, bool)
    return GridQuantizer(
        grids, precision.deadzone, classes, none if far is None else far, torch.device("cpu")
    )


def in_file_of(optimizer: StraightThrough) -> Splats:
    return to_splats(decode(encode(ModelFile(optimizer.stored()))).splats)


def rows_as_text(splats: Splats) -> list[bytes]:
    columns = [getattr(splats, name).reshape(splats.count, -1) for name in RawParameters._fields]
    return sorted(row.tobytes() for row in np.concatenate(columns, axis=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sh_degree", [0, 1, 3])
@pytest.mark.parametrize("outliers", [0, 3])
def test_rendered_values_are_those_of_the_file(
    sh_degree: int, outliers: int, kind: type[Kind]
) -> None:
    raw = ordered(sh_degree=sh_degree)
    raw.xyz[:outliers] *= 1000
    sensitivity = measured(random_sensitivity(raw))
    settings = GridSettings(noise=fine(raw))
    quantizer = fitted_quantizer(raw, sensitivity, settings)
    optimizer = kind(raw, quantizer, settings, 0.01, KERNELS)
    for seed in range(5):
        take_step(optimizer, random_raw(raw.gaussian_count, sh_degree, seed=seed), RATES)
    stored = optimizer.stored()
    assert len(stored.far_rows) == outliers
    assert rows_as_text(in_file_of(optimizer)) == rows_as_text(optimizer.seen.to_splats())


EXTREME = {
    "opacity": (1e5, -1e3),
    "features_dc": (1e4, -1e30),
    "features_rest": (1e3, 1e30),
    "scaling": (80.0, -80.0),
    "rotation": (1e20, 1e-30),
}


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("kind", KINDS)
def test_an_extreme_gaussian_does_not_change_the_grids_of_the_others(
    name: str, kind: type[Kind]
) -> None:
    sound, settings = random_raw(600, 1), GridSettings(noise=fine(random_raw(600, 0)))
    sensitivity = measured(random_sensitivity(sound))
    grids = fitted_quantizer(with_ordered_raw_axes(sound), sensitivity, settings).grids
    for value in EXTREME[name]:
        raw = sound.map(torch.clone)
        getattr(raw, name)[7].view(-1)[0] = value
        raw = with_ordered_raw_axes(raw)
        for tensor in sensitivity.per_parameter:
            tensor[7] = torch.nan
        quantizer = fitted_quantizer(raw, sensitivity, settings)
        for step in ("dc_step", "rotation_step"):
            assert getattr(quantizer.grids, step) == pytest.approx(getattr(grids, step), rel=0.05)
        assert quantizer.grids.sh_steps == pytest.approx(grids.sh_steps, rel=0.05)
        assert quantizer.grids.scale.step == pytest.approx(grids.scale.step, rel=0.05)
        assert quantizer.grids.opacity.step == pytest.approx(grids.opacity.step, rel=0.05)
        optimizer = kind(raw, quantizer, settings, 0.01, KERNELS)
        take_step(optimizer, random_raw(raw.gaussian_count, 1, seed=2), RATES)
        seen = optimizer.seen.to_splats()
        if name not in ("opacity", "rotation"):
            assert np.float32(value) in getattr(seen, name)[7]
        assert rows_as_text(in_file_of(optimizer)) == rows_as_text(seen)
        # Bit by bit what the plain quantiser makes of the same parameters.
        assert rows_as_text(quantizer.decoded(optimizer.coded).to_splats()) == rows_as_text(seen)


def test_the_sensitivity_to_an_extreme_gaussian_does_not_change_the_grids() -> None:
    """The slightest rotation of a Gaussian of colour 10^4 changes images, of others it does not."""
    sound = ordered(600, 1)
    settings, sensitivity = GridSettings(noise=fine(sound)), measured(random_sensitivity(sound))
    grids = fitted_quantizer(sound, sensitivity, settings).grids
    extreme = sound.map(torch.clone)
    extreme.features_dc[7, 0, 0] = 1e4
    for tensor in sensitivity.per_parameter:
        tensor[7] *= 1e8
    found = fitted_quantizer(extreme, sensitivity, settings).grids
    assert found.rotation_step == pytest.approx(grids.rotation_step, rel=0.1)
    assert found.position.cell == pytest.approx(grids.position.cell, rel=0.1)
    assert found.opacity.step == pytest.approx(grids.opacity.step, rel=0.1)
    assert found.scale.step == pytest.approx(grids.scale.step, rel=0.1)


def test_numbers_stored_exactly_have_no_gradient() -> None:
    raw = ordered(600, 1)
    raw.features_rest[5, 1, 2] = 1e4
    raw.features_dc[6, 0, 0] = -1e4
    sensitivity = measured(random_sensitivity(raw))
    settings = GridSettings(noise=fine(raw))
    quantizer = fitted_quantizer(raw, sensitivity, settings)
    assert len(quantizer.exact) == 2
    moved = []
    for exact_gradient in (0.0, 1e6):
        for kind in KINDS:
            optimizer = kind(raw, quantizer, settings, 0.0, KERNELS)
            gradients = random_raw(600, 1, seed=1)
            gradients.features_rest[5, 1, 2] = gradients.features_dc[6, 0, 0] = exact_gradient
            take_step(optimizer, gradients, RATES)
            moved.append(optimizer.coded)
    for other in moved[1:]:
        for a, b in zip(moved[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 0.0, -0.0, 3.0, 1e4])
@pytest.mark.parametrize("sh_degree", [0, 2])
def test_symbols_are_those_of_the_definition(sh_degree: int, factor: float) -> None:
    """Bit by bit, for values within the grids and for values beyond them."""
    made_for, precision = ordered(700, sh_degree), GridSteps(sh_step=1 / 12)
    quantizer = quantizer_of(made_for, precision)
    coded = quantizer.to_coding_basis(random_raw(700, sh_degree, seed=4)).map(lambda t: t * factor)
    grids, classes = quantizer.grids, quantizer.classes.numpy().astype(np.int32)
    values = coded.to_splats().columns()
    scale = scale_symbols(values["scaling"], grids.scale)
    axes = (classes, *scale.T)
    dropped = grids.position.shift.apply(*axes)[:, None]
    dc = dc_symbols(values["features_dc"], grids, grids.dc_shift.apply(classes))
    sh = sh_symbols(values["features_rest"], grids, precision.deadzone, classes)
    expected = {
        "xyz": cells_of(values["xyz"], grids.position) >> dropped << dropped,
        "opacity": grids.opacity.symbols(values["opacity"][:, 0]),
        "scale": scale,
        "rotation": rotation_symbols(values["rotation"], grids, grids.rotation_shift.apply(*axes)),
        "dc": limited_dc(dc),
        "sh": np.clip(sh, -GREATEST_SYMBOL, GREATEST_SYMBOL),
    }
    found = quantizer.symbols(coded)
    for name, symbols in expected.items():
        np.testing.assert_array_equal(getattr(found, name).numpy(), symbols, err_msg=name)
    # And C++ decodes the same integers.
    fused = KernelGridStraightThrough(made_for, quantizer, GridSettings(), 0.0, KERNELS)
    for own, other in zip(fused.coded, coded, strict=True):
        own.copy_(other)
    take_step(fused, made_for.map(torch.zeros_like), dict.fromkeys(RATES, 0.0))
    decoded = quantizer.to_grid_splats(coded).values()
    for name, seen in fused.seen.to_splats().columns().items():
        np.testing.assert_array_equal(seen, decoded[name], err_msg=name)


def test_gradient_in_the_coding_basis_is_the_chain_rule() -> None:
    raw = ordered(300)
    quantizer = quantizer_of(raw, GridSteps())
    coded = quantizer.to_coding_basis(raw).features_rest.double().requires_grad_()
    matrix = torch.tensor(quantizer.grids.sh_transform.matrix.astype(np.float64)) / 4096
    weights = torch.randn(raw.features_rest.shape, generator=torch.Generator().manual_seed(1))
    decoded = (coded.flatten(1) @ matrix).reshape(coded.shape)
    torch.testing.assert_close(decoded.detach().float(), raw.features_rest, rtol=1e-3, atol=1e-5)
    (expected,) = torch.autograd.grad((decoded * weights).sum(), coded)
    torch.testing.assert_close(
        quantizer.pull_back(weights).double(), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scales_stay_in_descending_order(kind: type[Kind]) -> None:
    raw = ordered(500)
    sensitivity = measured(random_sensitivity(raw))
    settings = GridSettings(noise=fine(raw))
    quantizer = fitted_quantizer(raw, sensitivity, settings)
    optimizer = kind(raw, quantizer, settings, 0.01, KERNELS)
    uphill = raw.map(torch.zeros_like)
    uphill.scaling[:, 2] = -1  # the smallest grows past the others
    for _ in range(20):
        take_step(optimizer, uphill._replace(features_rest=uphill.features_rest.clone()), RATES)
    assert (optimizer.seen.scaling.diff(dim=1) <= 0).all()
    assert (optimizer.seen.scaling[:, 2] > raw.scaling[:, 2]).any()
    assert (np.diff(optimizer.stored().scale, axis=1) <= 0).all()


def test_sparsity_makes_the_file_smaller() -> None:
    raw = ordered(3000)
    sizes = []
    for sparsity in (0.0, 1.0):
        sensitivity = measured(random_sensitivity(raw))
        optimizer = on_fitted_grids(
            raw, sensitivity, GridSettings(noise=fine(raw), sparsity=sparsity), KERNELS
        )
        for _ in range(30):
            take_step(optimizer, raw.map(torch.zeros_like), RATES)
        sizes.append(np.count_nonzero(optimizer.stored().sh))
    assert sizes[1] < 0.9 * sizes[0]


def test_every_number_adds_what_is_tolerated() -> None:
    splats = ordered().to_splats()
    sensitivity = random_sensitivity(RawParameters.from_splats(splats, "cpu")).to_splats()
    for tolerance in (1e-5, 1e-4):
        grids, classes = fit_grids(splats, sensitivity, tolerance, GridSteps())
        snapped = snap_to_grids(splats, grids, GridSteps().deadzone, classes)
        errors = errors_per_number(splats, snapped, sensitivity)
        errors["rotation"] *= 4 / 3  # three of its four numbers are stored
        for name, error in errors.items():
            assert error == pytest.approx(tolerance, rel=0.5), name


def test_rules_follow_the_sensitivity() -> None:
    """Where sensitivity is a function of scale, so are the steps."""
    splats = ordered().to_splats()
    shown = np.exp(-2 * splats.scaling[:, :1])  # an error counts by the Gaussian's size
    constant = random_sensitivity(RawParameters.from_splats(splats, "cpu")).to_splats()
    sensitivity = replace(constant, xyz=np.repeat(shown, 3, axis=1).astype(np.float32))
    grids, classes = fit_grids(splats, sensitivity, 1e-4, GridSteps())
    scale = grids.scale.symbols(splats.scaling)
    dropped = grids.position.shift.apply(classes, *scale.T)
    octaves = splats.scaling[:, 0] / np.log(2)
    assert np.polyfit(octaves, dropped, 1)[0] == pytest.approx(1, abs=0.15)


def test_hidden_scales_take_few_values() -> None:
    splats = ordered().to_splats()
    scaling = splats.scaling.copy()
    scaling[:, 2] -= np.random.default_rng(0).exponential(4, splats.count).astype(np.float32)
    splats = replace(splats, scaling=scaling)
    sensitivity = random_sensitivity(RawParameters.from_splats(splats, "cpu")).to_splats()
    sensitivity.scaling[::2, 2] = 0
    sensitivity.scaling[1::2, 2] = 1
    grids, _ = fit_grids(splats, sensitivity, 1e-4, GridSteps())
    settled, hidden = settle_hidden_scales(
        splats, grids, sensitivity, 1e-4, np.full(splats.count, 1e3)
    )
    assert hidden[::2, 2].all()
    assert not hidden[1::2, 2].any()
    np.testing.assert_array_equal(settled.scaling[1::2], splats.scaling[1::2])
    assert (np.diff(settled.scaling, axis=1) <= 0).all()
    before, after = (
        np.unique(np.diff(grids.scale.symbols(s.scaling[::2])[:, 1:], axis=1)).size
        for s in (splats, settled)
    )
    assert after < before / 4


def test_a_bound_keeps_hidden_scales_invisible() -> None:
    splats = ordered(1000).to_splats()
    sensitivity = random_sensitivity(RawParameters.from_splats(splats, "cpu")).to_splats()
    tolerance = 1e-4
    sensitivity.scaling[:] = 2 * tolerance
    grids, _ = fit_grids(splats, sensitivity, tolerance, GridSteps())
    settled, hidden = settle_hidden_scales(
        splats, grids, sensitivity, tolerance, np.full(splats.count, 1e3)
    )
    grown = np.exp(2 * settled.scaling.astype(float)) - np.exp(2 * splats.scaling.astype(float))
    slope = sensitivity.scaling / (2 * np.exp(2 * splats.scaling.astype(float))) ** 2
    assert hidden[:, 1:].all()
    assert (slope * grown**2)[:, 1:].max() <= tolerance * 1.5


@pytest.mark.parametrize("bits", [12, 20])
def test_position_bits_are_those_of_the_settings(bits: int) -> None:
    raw = ordered()
    sensitivity = measured(random_sensitivity(raw))
    settings = GridSettings(noise=fine(raw), position_bits=bits)
    optimizer = on_fitted_grids(raw, sensitivity, settings, KERNELS)
    assert optimizer.stored().grids.position.bits == bits
    assert rows_as_text(in_file_of(optimizer)) == rows_as_text(optimizer.seen.to_splats())


def test_rounding_adds_about_the_noise_of_the_settings() -> None:
    raw = ordered()
    sensitivity = measured(random_sensitivity(raw), absolute_error=0.01)
    for noise in (0.1, 0.4):
        settings = GridSettings(noise=noise * raw.gaussian_count / 1000)
        seen = on_fitted_grids(raw, sensitivity, settings, KERNELS).seen
        squares = zip(raw, seen, sensitivity.per_parameter, strict=True)
        added = sum(float((s * (a - b).square()).sum()) for a, b, s in squares)
        assert 0.2 * settings.noise < added < 1.5 * settings.noise


def test_one_gaussian_and_no_sensitivity_still_make_a_file() -> None:
    raw = ordered(1)
    nothing = measured(raw.map(torch.zeros_like), absolute_error=0.0)
    optimizer = on_fitted_grids(raw, nothing, GridSettings(), KERNELS)
    take_step(optimizer, raw.map(torch.zeros_like), RATES)
    assert rows_as_text(in_file_of(optimizer)) == rows_as_text(optimizer.seen.to_splats())
