# SPDX-License-Identifier: Apache-2.0
"""Unusable inputs of the compiled packages: an error, and no crash, hang or wrong number."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import plane_coder
import pytest
import torch
from diff_gaussian_rasterization import (
    _C,
    GaussianRasterizer,
    native,
    rasterize_gaussians,
    raw,
)
from diff_gaussian_rasterization.adam import AdamState, adam_step, update_visible
from diff_gaussian_rasterization.raw import RawGaussians
from diff_gaussian_rasterization.statistics import add_to, add_view
from diff_gaussian_rasterization.straight_through import (
    QuantizedState,
    Range,
    straight_through_step,
)
from fused_ssim import fused_l1_ssim, fused_ssim, l1_ssim_value_and_gradient
from reference.random_scenes import random_scene, raw_of
from simple_knn._C import distCUDA2
from torch import Tensor

SCENE = random_scene(seed=1, count=9)
GAUSSIANS = raw_of(SCENE)
EMPTY = RawGaussians(*(tensor[:0] for tensor in GAUSSIANS))
NOTHING_DRAWN = {"drawn": 0, "tile_entries": 0, "blended_pixels": 0}


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on a device other than the CPU that every machine has; its address is null."""
    return torch.zeros(shape, dtype=dtype, device="meta")


# ---------------------------------------------------------------------------------------------
# Frames of the rasteriser


def test_a_view_of_nothing_has_no_counts_and_no_times() -> None:
    raw.release_buffers()
    for _ in range(2):  # with fresh buffers, then with those of the view below
        frame = raw.render(EMPTY, SCENE.settings, training=True)
        assert frame.counts() == NOTHING_DRAWN
        assert frame.stage_seconds() == {}
        frame.backward(frame.image, EMPTY.empty_like(), screen=torch.empty(0, 2))
        del frame
        raw.render(GAUSSIANS, SCENE.settings, training=True)
    nothing = _C.check_parameters(api(EMPTY), 3)
    assert _C.rasterize_gaussians(nothing, SCENE.settings).frame.counts() == NOTHING_DRAWN


def api(g: RawGaussians) -> _C.Parameters:
    features = torch.cat([g.features_dc, g.features_rest], 1)
    return _C.Parameters(g.xyz, g.opacity, g.scaling, g.rotation, None, None, None, features)


def test_the_garbage_collector_may_free_a_frame_at_any_moment() -> None:
    """A frame in a reference cycle is freed wherever an object is made: in the pool's code too."""

    class Holder:
        def __init__(self) -> None:
            self.itself, self.frame = self, native.Frame()

    def use_the_pool() -> None:
        for objects in range(1, 40):  # that may be made before the collector runs
            del [native.Frame() for _ in range(3)][:]
            gc.collect()
            Holder()
            gc.set_threshold(objects)
            native.Frame.release_idle()
            native.Frame()
            gc.set_threshold(*before)

    before = gc.get_threshold()
    thread = threading.Thread(target=use_the_pool, daemon=True)
    gc.freeze()  # the collector passes over PyTorch's many objects
    try:
        thread.start()
        thread.join(timeout=60)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    assert not thread.is_alive(), "the pool of frames is in a deadlock"


def test_buffers_that_were_given_back_are_not_used_again() -> None:
    raw.release_buffers()
    frame = native.Frame()
    frame.__del__()
    frame.__del__()
    assert len(native.Frame._idle) == 1
    scene, outputs = _C.scene_of(api(GAUSSIANS)), native.Outputs()
    with pytest.raises(RuntimeError, match="buffers of this view were given back"):
        frame.render(native.camera_of(SCENE.settings), scene, outputs, keep=True, clamp=False)


def test_backward_needs_a_kept_view_of_the_same_gaussians() -> None:
    parameters = _C.check_parameters(api(GAUSSIANS), 3)
    ones = torch.ones(3, 50, 70)
    fresh = native.Frame()
    evaluated = _C.rasterize_gaussians(parameters, SCENE.settings, keep=False).frame
    for frame in (fresh, evaluated):
        with pytest.raises(RuntimeError, match="needs a view that was rendered with keep=True"):
            _C.rasterize_gaussians_backward(parameters, frame, ones, None)
    kept = _C.rasterize_gaussians(parameters, SCENE.settings, keep=True).frame
    fewer = _C.Parameters._make(None if part is None else part[:5] for part in parameters)
    with pytest.raises(RuntimeError, match="needs the 9 Gaussians that were rendered, not 5"):
        _C.rasterize_gaussians_backward(fewer, kept, ones, None)


def test_two_backward_calls_give_the_same() -> None:
    frame = raw.render(GAUSSIANS, SCENE.settings, training=True)
    first, second = GAUSSIANS.empty_like(), GAUSSIANS.empty_like()
    for gradients in (first, second):
        frame.backward(torch.ones_like(frame.image), gradients)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------------------------------------
# Arguments of the rasteriser


def draw(**changes: Any) -> tuple[Tensor, ...]:
    """Calls the function form, which takes every combination of tensors."""
    tensors = {
        "means3D": SCENE.means, "means2D": torch.zeros_like(SCENE.means), "sh": SCENE.shs,
        "colors_precomp": None, "opacities": SCENE.opacities, "scales": SCENE.scales,
        "rotations": SCENE.rotations, "cov3Ds_precomp": None,
    }  # fmt: skip
    return rasterize_gaussians(**{**tensors, **changes}, raster_settings=SCENE.settings)


COVARIANCES = torch.ones(9, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": None, "rotations": None}, "either scales and rotations or cov3D_precomp"),
        ({"scales": torch.Tensor([]), "rotations": torch.Tensor([])}, "either scales"),
        ({"rotations": None}, "either scales and rotations or cov3D_precomp"),
        ({"scales": None, "cov3Ds_precomp": COVARIANCES}, "either scales and rotations"),
        ({"cov3Ds_precomp": COVARIANCES}, "either scales and rotations or cov3D_precomp"),
        ({"sh": None}, "either shs .* or colors_precomp"),
        ({"colors_precomp": torch.ones(9, 3)}, "either shs .* or colors_precomp"),
        ({"means3D": torch.zeros(())}, "means3D must be a tensor with one row per Gaussian"),
        ({"opacities": meta(9, 1)}, "opacities must be on the CPU, not on meta"),
        ({"scales": torch.ones(9, 3).to_sparse()}, "scales must be a dense tensor"),
        ({"scales": torch.ones(9, 3).double()}, "scales must be float32"),
        ({"scales": torch.ones(8, 3)}, r"scales must have the shape \(9, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**changes)


def test_raw_tensors_and_settings_that_do_not_fit_are_named() -> None:
    for xyz in (None, torch.zeros(()), meta(9, 3), SCENE.means.to_sparse()):
        with pytest.raises(ValueError, match="xyz must be"):
            raw.render(GAUSSIANS._replace(xyz=xyz), SCENE.settings, training=False)
    with pytest.raises(ValueError, match="bg must be a tensor, not NoneType"):
        raw.render(GAUSSIANS, SCENE.settings._replace(bg=None), training=False)
    for side in (0, -3):
        with pytest.raises(ValueError, match="image_width must be between 1 and"):
            raw.render(GAUSSIANS, SCENE.settings._replace(image_width=side), training=False)


def test_tensors_that_are_not_contiguous_are_read_as_they_are() -> None:
    def strided(tensor: Tensor) -> Tensor:
        wide = torch.full((2, *tensor.shape), torch.nan).movedim(0, -1)
        wide[..., 1] = tensor
        return wide[..., 1]

    found = raw.render(RawGaussians(*map(strided, GAUSSIANS)), SCENE.settings, training=False)
    expected = raw.render(GAUSSIANS, SCENE.settings, training=False)
    assert torch.equal(found.image, expected.image)


def test_second_derivatives_are_refused_and_not_taken_for_zero() -> None:
    means = SCENE.means.clone().requires_grad_()
    image = GaussianRasterizer(SCENE.settings)(
        means3D=means,
        means2D=torch.zeros_like(means),
        opacities=SCENE.opacities,
        shs=SCENE.shs,
        scales=SCENE.scales,
        rotations=SCENE.rotations,
    )[0]
    (gradient,) = torch.autograd.grad(image.square().sum(), means, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (means.sum() + gradient.sum()).backward()


# ---------------------------------------------------------------------------------------------
# Statistics and optimisers


def add_a_view(radii: Tensor, screen: Tensor) -> None:
    add_view(radii, screen, torch.zeros(9), torch.zeros(9, 1), torch.zeros(9, 1))


RADII = torch.ones(9, dtype=torch.int32)


@pytest.mark.parametrize(
    ("radii", "screen", "message"),
    [
        (meta(9, dtype=torch.int32), torch.zeros(9, 2), "radii must be .* on the CPU"),
        (RADII.long(), torch.zeros(9, 2), "radii must be a contiguous int32"),
        (torch.tensor(3, dtype=torch.int32), torch.zeros(9, 2), "radii must be"),
        (torch.ones(18, dtype=torch.int32)[::2], torch.zeros(9, 2), "radii must be a contiguous"),
        (RADII, meta(9, 2), "screen must be on the CPU"),
        (RADII, torch.zeros(9, 1), r"screen must have the shape \(N, 2\)"),
        (RADII, torch.zeros(9), "screen must have the shape"),
    ],
)
def test_views_that_cannot_be_added_are_refused(
    radii: Tensor, screen: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        add_a_view(radii, screen)


def test_optimisers_name_tensors_that_they_cannot_write() -> None:
    def state(tensor: Tensor) -> AdamState:
        return AdamState(torch.zeros(4, 3), tensor, torch.zeros(4, 3), torch.zeros(4, 3), 0.1)

    for bad in (meta(4, 3), torch.zeros(3, 4).T, torch.zeros(4, 3).double(), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match="gradient must"):
            adam_step([state(bad)], 1)
    scalars = AdamState(*(torch.zeros(()) for _ in range(4)), 0.1)
    with pytest.raises(ValueError, match="parameter must be a tensor with one row per Gaussian"):
        update_visible([scalars], torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool tensor \(N,\) on the CPU"):
        update_visible([state(torch.zeros(4, 3))], meta(4, dtype=torch.bool))


def test_empty_inputs_are_no_error() -> None:
    none = torch.zeros(0, 3)
    state = AdamState(none, none, none, none, 0.1)
    adam_step([state], 1)
    adam_step([], 1)
    update_visible([state], torch.ones(0, dtype=torch.bool))
    assert straight_through_step([QuantizedState(state, None, None)], 1) == [Range(0.0, 0.0)]
    assert straight_through_step([], 1) == []
    add_view(RADII[:0], torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 1), torch.zeros(0, 1))
    add_to([none], [none])
    eye = torch.eye(4)
    assert _C.mark_visible(none, eye, eye).shape == (0,)
    assert distCUDA2(none).shape == (0,)


# ---------------------------------------------------------------------------------------------
# SSIM


def test_images_without_pixels_are_refused() -> None:
    for shape in ((3, 0, 8), (3, 8, 0), (0, 8, 8)):
        with pytest.raises(ValueError, match="not be empty"):
            fused_l1_ssim(torch.zeros(shape), torch.zeros(shape))
        with pytest.raises(ValueError, match="not be empty"):
            fused_ssim(torch.zeros(1, *shape), torch.zeros(1, *shape))


def test_the_gradient_has_memory_of_its_own() -> None:
    memory = torch.rand(9, 20, 30)
    image, target, out = memory[:3], memory[3:6], memory[6:]
    expected = l1_ssim_value_and_gradient(image, target)[2]
    assert torch.equal(l1_ssim_value_and_gradient(image, target, out=out)[2], expected)
    for name, shared in (("image", image), ("image", memory[2:5]), ("target", memory[5:8])):
        with pytest.raises(ValueError, match=f"out must not share memory with {name}"):
            l1_ssim_value_and_gradient(image, target, out=shared)


def test_two_backward_calls_add_up() -> None:
    image, target = torch.rand(3, 12, 14, requires_grad=True), torch.rand(3, 12, 14)
    loss = fused_l1_ssim(image, target)
    loss.backward(retain_graph=True)
    assert image.grad is not None
    once = image.grad.clone()
    loss.backward()
    assert torch.equal(image.grad, 2 * once)


# ---------------------------------------------------------------------------------------------
# The codec's coders


def read_only(count: int, kind: Any) -> np.ndarray:
    array = np.frombuffer(bytes(count * np.dtype(kind).itemsize), kind)
    assert not array.flags.writeable
    return array


def of(count: int, kind: Any) -> np.ndarray:
    return np.zeros(count, kind)


WRITTEN: dict[str, Callable[[], object]] = {
    "decoder": lambda: plane_coder.TokenDecoder(
        read_only(4, np.uint32), of(9, np.uint16), of(4096, np.uint32)
    ),
    "encoder": lambda: plane_coder.TokenEncoder(read_only(4, np.uint32), of(256, np.uint32)),
    "keys": lambda: plane_coder.add_energy(read_only(9, np.int16), of(9, np.uint8)),
    "averages": lambda: plane_coder.neighbour_bins(
        of(9, np.uint8), of(9, np.int32), of(3, np.uint8), read_only(4, np.int32)
    ),
    "rows": lambda: plane_coder.planes_to_rows(
        of(6, np.int16).reshape(2, 3), np.arange(3), read_only(6, np.int16).reshape(3, 2)
    ),
    "signs": lambda: plane_coder.apply_signs(read_only(9, np.int16), of(2, np.uint8)),
    "bits": lambda: plane_coder.take_bits(
        of(9, np.int32), 0, of(2, np.uint8), read_only(9, np.int32)
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_arrays_that_must_not_change_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a writable array expected"):
        WRITTEN[name]()


@pytest.mark.parametrize("bit", [-1, 31, 1 << 32])
def test_bit_numbers_out_of_range_are_refused(bit: int) -> None:
    widths = np.full(9, 20, np.int32)
    with pytest.raises(ValueError, match="bit: 0 to 30 expected"):
        plane_coder.take_bits(widths, bit, np.zeros(2, np.uint8), np.zeros(9, np.int32))
    with pytest.raises(ValueError, match="bit: 0 to 30 expected"):
        plane_coder.give_bits(widths, bit, np.zeros(9, np.int32))
