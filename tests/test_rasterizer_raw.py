# SPDX-License-Identifier: Apache-2.0
"""The path on raw parameters, without autograd: against the API path with PyTorch's activations."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diff_gaussian_rasterization import GaussianRasterizer, native, raw
from diff_gaussian_rasterization.raw import RawGaussians
from reference.random_scenes import Scene, random_scene, raw_of
from torch import Tensor

TOLERANCE = 2e-5  # relative L2: both sides are in single precision


def api_render(
    gaussians: RawGaussians, scene: Scene
) -> tuple[RawGaussians, Tensor, Tensor, Tensor, Tensor]:
    """(leaves, means2D, image, radii, inverse depth) through autograd."""
    leaves = RawGaussians(*(tensor.clone().requires_grad_() for tensor in gaussians))
    means2D = torch.zeros_like(gaussians.xyz, requires_grad=True)
    outputs = GaussianRasterizer(scene.settings)(
        means3D=leaves.xyz,
        means2D=means2D,
        opacities=torch.sigmoid(leaves.opacity),
        shs=torch.cat([leaves.features_dc, leaves.features_rest], 1),
        scales=leaves.scaling.exp(),
        rotations=torch.nn.functional.normalize(leaves.rotation),
    )
    return leaves, means2D, *outputs


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize(("sh_degree", "antialiasing"), [(0, False), (2, True), (3, False)])
def test_raw_path_is_the_api_path(sh_degree: int, antialiasing: bool, clamp: bool) -> None:
    scene = random_scene(seed=30 + sh_degree, count=300, sh_degree=sh_degree)
    scene = scene.with_settings(antialiasing=antialiasing)
    gaussians = raw_of(scene)
    leaves, means2D, image, radii, depth = api_render(gaussians, scene)
    if clamp:
        image = image.clamp(0, 1)
    frame = raw.render(gaussians, scene.settings, training=True, inverse_depth=True, clamp=clamp)
    assert (frame.image - image).abs().mean() < 1e-6
    assert (frame.inverse_depth - depth).abs().mean() < 1e-6
    assert (frame.radii != radii).sum() <= 1

    generator = torch.Generator().manual_seed(2)
    d_image = torch.randn(image.shape, generator=generator)
    d_depth = torch.randn(depth.shape, generator=generator)
    ((image * d_image).sum() + (depth * d_depth).sum()).backward()
    gradients = RawGaussians(*(torch.full_like(tensor, torch.nan) for tensor in gaussians))
    screen = torch.full((300, 2), torch.nan)
    frame.backward(d_image, gradients, d_depth, screen=screen)
    for name, found, leaf in zip(RawGaussians._fields, gradients, leaves, strict=True):
        assert found.isfinite().all(), name
        if leaf.numel():
            assert (found - leaf.grad).norm() <= TOLERANCE * leaf.grad.norm(), name
            assert not found[frame.radii == 0].any(), name
    assert (screen - means2D.grad[:, :2]).norm() <= TOLERANCE * screen.norm()


def test_clamped_pixels_pass_no_gradient() -> None:
    scene = random_scene(seed=33, count=100).with_settings(bg=torch.tensor([2.0, -1.0, 0.5]))
    gaussians = raw_of(scene)
    frame = raw.render(gaussians, scene.settings, training=True, clamp=True)
    assert frame.image.min() == 0
    assert frame.image.max() == 1
    leaves, _, image, _, _ = api_render(gaussians, scene)
    image.clamp(0, 1).sum().backward()
    gradients = gaussians.empty_like()
    frame.backward(torch.ones_like(frame.image), gradients)
    difference = gradients.features_dc - leaves.features_dc.grad
    assert difference.norm() <= TOLERANCE * leaves.features_dc.grad.norm()


def test_evaluation_gives_the_same_image_and_keeps_nothing() -> None:
    scene = random_scene(seed=34, count=100)
    gaussians = raw_of(scene)
    trained = raw.render(gaussians, scene.settings, training=True)
    evaluated = raw.render(gaussians, scene.settings, training=False)
    assert torch.equal(trained.image, evaluated.image)
    assert evaluated.inverse_depth is None
    with pytest.raises(RuntimeError, match="needs a view rendered with training=True"):
        evaluated.backward(trained.image, gaussians.empty_like())


def test_lower_active_degree_zeroes_the_gradient_of_the_rest() -> None:
    scene = random_scene(seed=35, count=100).with_settings(sh_degree=1)
    gaussians = raw_of(scene)
    gradients = RawGaussians(*(torch.full_like(tensor, torch.nan) for tensor in gaussians))
    frame = raw.render(gaussians, scene.settings, training=True)
    frame.backward(torch.ones_like(frame.image), gradients)
    assert gradients.features_rest[:, :3].any()
    assert not gradients.features_rest[:, 3:].any()


def test_buffers_are_reused() -> None:
    scene = random_scene(seed=36, count=50)
    gaussians = raw_of(scene)
    raw.render(gaussians, scene.settings, training=True)
    idle = len(native.Frame._idle)
    for _ in range(5):
        raw.render(gaussians, scene.settings, training=True)
    assert len(native.Frame._idle) == idle


def test_released_buffers_are_allocated_again() -> None:
    scene = random_scene(seed=36, count=50)
    before = raw.render(raw_of(scene), scene.settings, training=True).image
    raw.release_buffers()
    assert not native.Frame._idle
    assert torch.equal(raw.render(raw_of(scene), scene.settings, training=True).image, before)


def test_views_drawn_at_the_same_time_do_not_mix() -> None:
    scenes = [random_scene(seed=seed, count=3000) for seed in range(40, 44)]
    expected = [raw.render(raw_of(s), s.settings, training=False).image for s in scenes]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            views = pool.map(lambda s: raw.render(raw_of(s), s.settings, training=False), scenes)
            for view, image in zip(views, expected, strict=True):
                assert torch.equal(view.image, image)


FORK_PROGRAM = """
import os, torch
from diff_gaussian_rasterization import raw
from reference.random_scenes import random_scene, raw_of
torch.set_num_threads(2)
scene = random_scene(seed=45, count=3000)
gaussians = raw_of(scene)
before = raw.render(gaussians, scene.settings, training=False).image
child = os.fork()
if child == 0:
    after = raw.render(gaussians, scene.settings, training=False).image
    os._exit(0 if torch.equal(before, after) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_draws_with_threads_of_its_own() -> None:
    program = subprocess.run(
        [sys.executable, "-c", FORK_PROGRAM],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert program.returncode == 0, program.stderr


def test_wrong_gradient_tensors_are_named() -> None:
    scene = random_scene(seed=37, count=10)
    gaussians = raw_of(scene)
    frame = raw.render(gaussians, scene.settings, training=True)
    good = gaussians.empty_like()
    with pytest.raises(ValueError, match=r"d_image must have the shape \(3, 50, 70\)"):
        frame.backward(torch.ones(3, 50, 71), good)
    with pytest.raises(ValueError, match="scaling must be contiguous"):
        frame.backward(frame.image, good._replace(scaling=torch.empty(3, 10).T))
    with pytest.raises(ValueError, match="gradients are for 9 Gaussians, not for 10"):
        frame.backward(frame.image, RawGaussians(*(part[:9] for part in good)))
    with pytest.raises(ValueError, match="features_rest must have the shape"):
        frame.backward(frame.image, good._replace(features_rest=torch.empty(10, 8, 3)))
    with pytest.raises(RuntimeError, match="rendered without inverse depth"):
        frame.backward(frame.image, good, torch.ones(1, 50, 70))


def everything(threads: int) -> list[Tensor]:
    """Image and gradients of a scene that is large enough for several threads."""
    scene = random_scene(seed=38, count=30_000, width=200, height=130)
    gaussians = raw_of(scene)._replace(scaling=scene.scales.log() - 1.5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        frame = raw.render(gaussians, scene.settings, training=True)
        gradients = gaussians.empty_like()
        frame.backward(frame.image, gradients)
    finally:
        torch.set_num_threads(before)
    return [frame.image, frame.radii, *gradients]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    alone = everything(1)
    for threads in (2, 3):
        for one, other in zip(alone, everything(threads), strict=True):
            assert torch.equal(one, other)


def drawn_and_differentiated() -> list[Tensor]:
    """Images, gradients and contributions, of samples at the pixels' centres and elsewhere."""
    scene = random_scene(seed=39, count=400)
    gaussians = raw_of(scene)
    offsets = torch.rand((50, 70, 2), generator=torch.Generator().manual_seed(1)) - 0.5
    results = []
    for given in (None, offsets):
        settings = scene.settings._replace(subpixel_offset=given)
        frame = raw.render(gaussians, settings, training=True, inverse_depth=True)
        gradients = gaussians.empty_like()
        frame.backward(frame.image, gradients, frame.inverse_depth)
        shape = scene.opacities, scene.scales, scene.rotations
        importance = GaussianRasterizer(settings).importance(scene.means, *shape)
        counts, weights, largest = importance
        results += [frame.image, frame.inverse_depth, *gradients, counts.float(), weights, largest]
    return results


ISA_PROGRAM = """
import sys, torch
from diff_gaussian_rasterization import native
from test_rasterizer_raw import drawn_and_differentiated
print(native.instruction_set)
torch.save(drawn_and_differentiated(), sys.argv[1])
"""


@pytest.mark.parametrize("level", ["v2", "v3", "v4"])
def test_every_instruction_set_gives_the_same_picture(level: str, tmp_path: Path) -> None:
    own = native.instruction_set.removeprefix("x86-64-")
    if not (own.startswith("v") and level <= own):
        pytest.skip(f"this processor has no {level}")
    result = tmp_path / "result.pt"
    program = subprocess.run(
        [sys.executable, "-c", ISA_PROGRAM, str(result)],
        env={
            **os.environ,
            "FAST3DGS_ISA": level,
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout.strip() == f"x86-64-{level}"
    expected = drawn_and_differentiated()
    for found, own_result in zip(torch.load(result, weights_only=True), expected, strict=True):
        # Without fused multiply-adds (v2) the derivative of the sharpest needle suffers most.
        assert (found - own_result).norm() <= 1e-4 * own_result.norm()
