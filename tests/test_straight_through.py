# SPDX-License-Identifier: Apache-2.0
"""The fused optimiser step of fine-tuning against its plain twin, and against the decoder."""

import numpy as np
import pytest
import torch
from reference.random_splats import random_raw

from gaussian_compression.quantize import Range, ShRanges, quantizers_for, to_symbols
from gaussian_compression.settings import FinetuneSettings, QuantizationSettings
from gaussian_compression.straight_through import (
    KernelStraightThrough,
    PlainStraightThrough,
    straight_through,
)
from gaussian_compression.trainable import take_step
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.array_operations import TorchOperations
from scene.raw_parameters import RawParameters
from splat_formats.decoded import to_splats

RATES = {
    "xyz": 1e-4,
    "features_dc": 2.5e-3,
    "features_rest": 1.25e-4,
    "opacity": 0.025,
    "scaling": 5e-3,
    "rotation": 1e-3,
}
KERNELS = backend_for(torch.device("cpu"), RenderOptions())
RANGES = ShRanges(Range(-2.0, 2.5), Range(-0.2, 0.25))


def copied(raw: RawParameters) -> RawParameters:
    return raw.map(torch.clone)


@pytest.mark.parametrize("position_bits", [32, 16])
@pytest.mark.parametrize(("count", "sh_degree"), [(1, 0), (37, 1), (2000, 3)])
def test_fused_step_equals_the_plain_one(count: int, sh_degree: int, position_bits: int) -> None:
    start = random_raw(count, sh_degree)
    loss, quantization = FinetuneSettings(), QuantizationSettings(position_bits=position_bits)
    raws = copied(start), copied(start)
    plain = PlainStraightThrough(raws[0], RANGES, loss, quantization, TorchOperations())
    fused = KernelStraightThrough(raws[1], RANGES, loss, quantization, KERNELS)
    for a, b in zip(plain.seen, fused.seen, strict=True):
        assert torch.equal(a, b)
    for step in range(4):
        gradients = random_raw(count, sh_degree, seed=step + 1)
        take_step(plain, copied(gradients), RATES)
        take_step(fused, copied(gradients), RATES)
    for (name, a), b in zip(raws[0].named(), raws[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert plain.ranges.dc.low == pytest.approx(fused.ranges.dc.low, rel=1e-6)
    assert plain.ranges.rest.high == pytest.approx(fused.ranges.rest.high, rel=1e-6)
    assert plain.ranges != RANGES
    assert not torch.equal(raws[1].features_dc, start.features_dc)


@pytest.mark.parametrize("kind", [PlainStraightThrough, KernelStraightThrough])
@pytest.mark.parametrize("position_bits", [32, 16])
def test_rendered_values_are_the_decoders_bit_by_bit(kind: type, position_bits: int) -> None:
    raw = random_raw(3000, 3)
    quantization = QuantizationSettings(position_bits=position_bits)
    optimizer = kind(raw, RANGES, FinetuneSettings(), quantization, KERNELS)
    take_step(optimizer, random_raw(3000, 3, seed=5), RATES)
    decoded = to_splats(to_symbols(raw, quantizers_for(raw, RANGES, quantization)))
    for name, tensor in optimizer.seen.named():
        np.testing.assert_array_equal(tensor.numpy(), getattr(decoded, name), err_msg=name)


def test_the_sparsity_penalty_moves_values_towards_zero() -> None:
    raw = random_raw(500, 2)
    before = raw.features_rest.abs().mean()
    loss = FinetuneSettings(sh_sparsity=1.0)
    optimizer = straight_through(raw, RANGES, loss, QuantizationSettings(), KERNELS)
    for _ in range(20):
        take_step(optimizer, raw.map(torch.zeros_like), RATES)
    assert raw.features_rest.abs().mean() < 0.99 * before
    assert torch.equal(raw.xyz, random_raw(500, 2).xyz)


def test_threads_change_nothing() -> None:
    results = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            raw = random_raw(5000, 3)
            optimizer = straight_through(
                raw, RANGES, FinetuneSettings(), QuantizationSettings(), KERNELS
            )
            take_step(optimizer, random_raw(5000, 3, seed=9), RATES)
            results.append((raw, optimizer.seen, optimizer.ranges))
    finally:
        torch.set_num_threads(threads)
    for raw, seen, ranges in results[1:]:
        assert ranges == results[0][2]
        for a, b in zip([*raw, *seen], [*results[0][0], *results[0][1]], strict=True):
            assert torch.equal(a, b)


def test_half_precision_edges() -> None:
    from diff_gaussian_rasterization.adam import AdamState
    from diff_gaussian_rasterization.straight_through import QuantizedState, straight_through_step

    values = torch.tensor([0.0, -0.0, 1e6, -1e6, 65504.0, 65519.9, 6e-8, 1e-12, 2049.0, 0.1])
    state = AdamState(values.clone(), *(torch.zeros(10) for _ in range(3)), 0.0)
    seen = torch.empty(10)
    found = straight_through_step([QuantizedState(state, seen, None)], 1)
    assert torch.equal(seen, values.clamp(-65504, 65504).half().float())
    assert tuple(found[0]) == (-1e6, 1e6)


def test_wrong_tensors_are_named() -> None:
    from diff_gaussian_rasterization.adam import AdamState
    from diff_gaussian_rasterization.straight_through import (
        EvenGrid,
        QuantizedState,
        straight_through_step,
    )

    state = AdamState(*(torch.zeros(4, 3) for _ in range(4)), 0.1)
    with pytest.raises(ValueError, match="seen"):
        straight_through_step([QuantizedState(state, torch.zeros(4, 2), None)], 1)
    with pytest.raises(ValueError, match="a grid needs a tensor `seen`"):
        straight_through_step([QuantizedState(state, None, EvenGrid(0.0, 1.0, 2))], 1)
    with pytest.raises(ValueError, match="step"):
        straight_through_step([QuantizedState(state, None, None)], 0)
