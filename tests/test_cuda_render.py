# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of a view, emulated, against the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_paths import view_kernels
from diff_gaussian_rasterization import _C, cuda_render, native, raw
from diff_gaussian_rasterization.cuda_render import CudaFrame
from reference.random_scenes import Scene, packed_covariances, random_scene, raw_of
from torch import Tensor

TOLERANCE = 3e-5  # relative L2: both sides are in single precision


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that is not initialised holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def drawn(scene: Scene, parameters: _C.Parameters, seed: int = 0, **options: Any) -> CudaFrame:
    use = {"raw": False, "inverse_depth": True, "keep": True, "clamp": False, **options}
    camera = native.camera_of(scene.settings)
    parameters = _C.check_parameters(parameters, scene.settings.sh_degree)
    return CudaFrame(view_kernels(seed=seed), camera, parameters, **use)


def parameters_of(scene: Scene, **changes: Tensor | None) -> _C.Parameters:
    given = {
        "means": scene.means,
        "opacities": scene.opacities,
        "scales": scene.scales,
        "rotations": scene.rotations,
        "covariances": None,
        "colors": None,
        "dc": None,
        "rest": scene.shs,
    }
    return _C.Parameters(**{**given, **changes})


def blank(parameters: _C.Parameters, screen_width: int) -> _C.Gradients:
    places = [None if p is None else torch.full_like(p, torch.nan) for p in parameters]
    screen = torch.full((len(parameters.means), screen_width), torch.nan)
    return _C.Gradients._make([*places, screen])


def image_gradients(scene: Scene) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    size = scene.settings.image_height, scene.settings.image_width
    return torch.randn((3, *size), generator=generator), torch.randn(
        (1, *size), generator=generator
    )


def assert_same_image(found: CudaFrame, image: Tensor, depth: Tensor, radii: Tensor) -> None:
    assert torch.equal(found.radii, radii)
    for mine, other in ((found.image, image), (found.inverse_depth, depth)):
        difference = (mine - other).abs()
        assert float(difference.mean()) < 1e-6
        assert float((difference > 1e-4).float().mean()) <= 2e-4


def assert_same_gradients(found: _C.Gradients, expected: _C.Gradients) -> None:
    for name, mine, other in zip(found._fields, found, expected, strict=True):
        assert (mine is None) == (other is None), name
        if mine is None or not other.numel():
            continue
        if other.norm() == 0:
            assert mine.norm() == 0, name
        else:
            assert float((mine - other).norm() / other.norm()) < TOLERANCE, name


def variants(scene: Scene) -> dict[str, _C.Parameters]:
    no_shape = {"scales": None, "rotations": None}
    colours = torch.rand(scene.means.shape, generator=torch.Generator().manual_seed(0))
    return {
        "one tensor of harmonics": parameters_of(scene),
        "two tensors of harmonics": parameters_of(
            scene, dc=scene.shs[:, :1].contiguous(), rest=scene.shs[:, 1:].contiguous()
        ),
        "covariances": parameters_of(scene, covariances=packed_covariances(scene), **no_shape),
        "colours": parameters_of(scene, colors=colours, rest=None),
    }


@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("antialiasing", [False, True])
def test_every_kind_of_input_gives_the_cpus_results(variant: int, antialiasing: bool) -> None:
    scene = random_scene(seed=variant, count=60, width=41, height=37)
    kernel_size, offset = (0.1, image_gradients(scene)[0][:2]) if variant == 0 else (None, None)
    scene = scene.with_settings(
        antialiasing=antialiasing,
        scale_modifier=1.25,
        kernel_size=kernel_size,
        subpixel_offset=None if offset is None else offset.permute(1, 2, 0),
    )
    parameters = list(variants(scene).values())[variant]
    expected = _C.rasterize_gaussians(_C.check_parameters(parameters, 3), scene.settings)
    found = drawn(scene, parameters, seed=variant)
    assert_same_image(found, expected.color, expected.inverse_depth, expected.radii)

    d_image, d_depth = image_gradients(scene)
    gradients = blank(parameters, 3)
    found.backward(d_image, d_depth, gradients)
    checked = _C.check_parameters(parameters, 3)
    theirs = _C.rasterize_gaussians_backward(checked, expected.frame, d_image, d_depth)
    assert_same_gradients(gradients, theirs)


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_raw_parameters_give_the_cpus_results(sh_degree: int) -> None:
    scene = random_scene(seed=9, count=60, width=41, height=37, sh_degree=3)
    scene = scene.with_settings(sh_degree=sh_degree)
    gaussians = raw_of(scene)
    expected = raw.render(gaussians, scene.settings, training=True, inverse_depth=True, clamp=True)
    parameters = raw._checked(gaussians)
    found = drawn(scene, parameters, raw=True, clamp=True)
    assert_same_image(found, expected.image, expected.inverse_depth, expected.radii)

    d_image, _ = image_gradients(scene)
    theirs = raw.RawGaussians(*(torch.full_like(t, torch.nan) for t in gaussians))
    screen = torch.full((60, 2), torch.nan)
    expected.backward(d_image, theirs, screen=screen)
    gradients = blank(parameters, 2)
    found.backward(d_image, None, gradients)
    assert_same_gradients(gradients, _C.Gradients(*raw._checked(theirs), screen))


def test_long_lists_of_entries_cross_batches_and_buckets() -> None:
    """More entries in a tile than a block loads at once, and pixels that become opaque midway."""
    scene = random_scene(seed=4, count=700, width=20, height=18, sh_degree=0)
    dense = {"scales": scene.scales * 2.5, "opacities": 0.5 + scene.opacities / 2}
    parameters = parameters_of(scene, **dense)
    expected = _C.rasterize_gaussians(parameters, scene.settings)
    found = drawn(scene, parameters)
    counts = found._buffers["tile_begin"].diff()
    assert int(counts.max()) > 256
    assert bool((found._buffers["tile_used"] < counts).any())
    assert_same_image(found, expected.color, expected.inverse_depth, expected.radii)
    d_image, d_depth = image_gradients(scene)
    gradients = blank(parameters, 3)
    found.backward(d_image, d_depth, gradients)
    theirs = _C.rasterize_gaussians_backward(parameters, expected.frame, d_image, d_depth)
    assert_same_gradients(gradients, theirs)


def test_results_do_not_depend_on_the_order_of_threads() -> None:
    scene = random_scene(seed=6, count=80, width=33, height=20, sh_degree=1)
    results = []
    for seed in (0, 100):
        parameters = parameters_of(scene)
        frame = drawn(scene, parameters, seed)
        gradients = blank(parameters, 3)
        frame.backward(*image_gradients(scene), gradients)
        results.append([frame.image, *(g for g in gradients if g is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_view_of_nothing_is_the_background() -> None:
    scene = random_scene(seed=1, count=20, width=20, height=20, sh_degree=0)
    behind = parameters_of(scene, means=scene.means - torch.tensor([0.0, 0.0, 100.0]))
    found = drawn(scene, behind)
    assert torch.equal(found.image, scene.settings.bg[:, None, None].expand(3, 20, 20))
    assert not found.radii.any()
    gradients = blank(behind, 3)
    found.backward(*image_gradients(scene), gradients)
    assert all(not g.any() for g in gradients if g is not None)


def test_a_view_that_is_not_kept_has_no_backward_pass() -> None:
    scene = random_scene(seed=1, count=20, width=20, height=20, sh_degree=0)
    parameters = parameters_of(scene)
    found = drawn(scene, parameters, keep=False)
    expected = _C.rasterize_gaussians(parameters, scene.settings)
    assert_same_image(found, expected.color, expected.inverse_depth, expected.radii)
    with pytest.raises(RuntimeError, match="keep=True"):
        found.backward(*image_gradients(scene), blank(parameters, 3))


def test_the_host_learns_the_number_of_entries_while_the_device_sorts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy starts before the sort by depth; the host waits when no other launch is left."""
    happened: list[str] = []
    kernels = view_kernels()
    for runner in kernels:
        original = runner.launch
        monkeypatch.setattr(
            runner,
            "launch",
            lambda name, *rest, o=original: (happened.append(name), o(name, *rest)),
        )

    def read_later(number: Tensor) -> Callable[[], int]:
        happened.append("start")
        return lambda: happened.append("wait") or int(number)

    monkeypatch.setattr(cuda_render, "read_later", read_later)
    scene = random_scene(seed=1, count=20, width=20, height=20, sh_degree=0)
    options = {"raw": False, "inverse_depth": False, "keep": False, "clamp": False}
    CudaFrame(kernels, native.camera_of(scene.settings), parameters_of(scene), **options)
    start, wait = happened.index("start"), happened.index("wait")
    assert happened[:start] == ["project_gaussians"]
    sorting = ["radix_count", "scan_blocks", "radix_scatter"]
    assert happened[start + 1 : wait] == [*(4 * sorting), "count_in_order", "scan_blocks"]
    assert happened[wait + 1] == "emit_entries"


class RecordingEvent:
    """A CUDA event on a machine without CUDA."""

    done = False

    def record(self, stream: object) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.done = True


def test_a_number_is_read_when_its_copy_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    event = RecordingEvent()

    class OnDevice:
        device = torch.device("cuda", 1)

    class Copied:
        def copy_(self, source: OnDevice, non_blocking: bool) -> None:
            assert non_blocking

        def __int__(self) -> int:
            assert event.done
            return 7

    def page_locked(like: OnDevice, device: str, pin_memory: bool) -> Copied:
        assert device == "cpu"
        assert pin_memory
        return Copied()

    monkeypatch.setattr(torch, "empty_like", page_locked)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("stream", device.index))
    read = cuda_render.read_later(OnDevice())
    assert event.stream == ("stream", 1)
    assert not event.done
    assert read() == 7


def test_visible_points_are_the_cpus() -> None:
    scene = random_scene(seed=1, count=300)
    camera = native.camera_of(scene.settings)
    means = scene.means - torch.tensor([0.0, 0.0, 3.0])
    found = cuda_render.mark_visible(view_kernels(), camera, means)
    assert torch.equal(found, native.mark_visible(camera, means))
    assert 0 < int(found.sum()) < 300
