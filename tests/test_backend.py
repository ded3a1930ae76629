# SPDX-License-Identifier: Apache-2.0
"""The CPU backend against autograd over `render`: equal losses and gradients; and the choice."""

from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import native
from diff_gaussian_rasterization import raw as rasterizer
from reference.random_splats import random_raw
from reference.random_views import camera

from arguments import OptimizationOptions
from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import Backend, RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.cpu_backend import CpuBackend
from gaussian_renderer.evaluation import evaluate
from gaussian_renderer.packed_views import PackedViews
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.kernel_adam import KernelAdam, PlainAdam
from scene.raw_parameters import RawParameters

CPU = torch.device("cpu")
WHITE = torch.ones(3)
NUMBERS = native.VIEW_NUMBERS
BOTH = [AutogradBackend(RenderOptions()), backend_for(CPU, RenderOptions())]


def scene(sh_degree: int = 3) -> RawParameters:
    raw = random_raw(150, sh_degree)
    return raw._replace(xyz=0.6 * raw.xyz, scaling=0.4 * raw.scaling)


@pytest.mark.parametrize("antialiasing", [False, True])
@pytest.mark.parametrize(("sh_degree", "active"), [(3, 3), (3, 1), (0, 0)])
def test_both_paths_agree(sh_degree: int, active: int, antialiasing: bool) -> None:
    raw, view = scene(sh_degree), camera()
    options = RenderOptions(antialiasing=antialiasing)
    results, gradients = [], []
    for backend in (AutogradBackend(options), backend_for(CPU, options)):
        out = raw.map(lambda tensor: torch.full_like(tensor, float("nan")))
        results.append(backend.differentiate(view, raw, out, WHITE, active, 0.2))
        gradients.append(out)
    slow, fast = results
    assert float(fast.loss) == pytest.approx(float(slow.loss), rel=1e-6)
    assert torch.equal(fast.radii, slow.radii)
    assert (fast.radii > 0).sum() > 50
    torch.testing.assert_close(fast.image, slow.image, rtol=0, atol=1e-6)
    torch.testing.assert_close(fast.screen_gradient, slow.screen_gradient, rtol=1e-3, atol=1e-7)
    for (name, a), b in zip(gradients[0].named(), gradients[1], strict=True):
        assert (a - b).norm() <= 3e-4 * a.norm() + 1e-12, name
        assert name == "features_rest" or a.abs().max() > 0


@pytest.mark.parametrize("backend", BOTH)
def test_pull_back_is_the_slope_of_a_weighted_sum_of_pixels(backend: Backend) -> None:
    raw, view = scene(1), camera()
    weights = torch.randn(3, 37, 45, generator=torch.Generator().manual_seed(1))
    out = raw.map(torch.empty_like)
    backend.pull_back(view, weights, raw, out, WHITE, 1)
    direction = out.features_dc / out.features_dc.norm()

    def sum_at(step: float) -> float:
        moved = raw._replace(features_dc=raw.features_dc + step * direction)
        image = backend.draw(view, moved, WHITE, 1)
        return float((image.double() * weights).sum())

    slope = (sum_at(0.02) - sum_at(-0.02)) / 0.04
    assert slope == pytest.approx(float(out.features_dc.norm()), rel=0.02)


def test_pull_back_is_the_same_on_both_paths() -> None:
    raw, view = scene(), camera()
    weights = torch.randn(3, 37, 45, generator=torch.Generator().manual_seed(1))
    slow, fast = raw.map(torch.empty_like), raw.map(torch.empty_like)
    for backend, out in zip(BOTH, (slow, fast), strict=True):
        backend.pull_back(view, weights, raw, out, WHITE, 3)
    for (name, a), b in zip(slow.named(), fast, strict=True):
        assert (a - b).norm() <= 3e-4 * a.norm() + 1e-12, name


def test_gradient_is_the_slope_of_the_loss() -> None:
    raw, view = scene(1), camera()
    out = raw.map(torch.empty_like)
    backend = backend_for(CPU, RenderOptions())
    backend.differentiate(view, raw, out, WHITE, 1, 0.2)
    direction = out.features_dc / out.features_dc.norm()
    size = 0.05

    def loss_at(step: float) -> float:
        moved = raw._replace(features_dc=raw.features_dc + step * direction)
        out = raw.map(torch.empty_like)
        return float(backend.differentiate(view, moved, out, WHITE, 1, 0.2).loss)

    slope = (loss_at(size) - loss_at(-size)) / (2 * size)
    assert slope == pytest.approx(float(out.features_dc.norm()), rel=0.02)


def test_python_options_go_through_autograd() -> None:
    assert isinstance(backend_for(CPU, RenderOptions()), CpuBackend)
    in_python = RenderOptions(convert_SHs_python=True)
    assert isinstance(backend_for(CPU, in_python), AutogradBackend)


def test_other_devices_go_through_autograd() -> None:
    assert isinstance(backend_for(torch.device("cuda"), RenderOptions()), AutogradBackend)


def test_without_the_kernels_autograd_serves_and_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gaussian_renderer.kernel_backend.load", lambda name: None)
    assert isinstance(backend_for(CPU, RenderOptions()), AutogradBackend)
    assert "pip install submodules/diff-gaussian-rasterization" in caplog.text


def test_without_the_fused_loss_autograd_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("fused_ssim.l1_ssim_value_and_gradient")
    assert isinstance(backend_for(CPU, RenderOptions()), AutogradBackend)


@pytest.mark.parametrize("antialiasing", [False, True])
def test_evaluation_draws_directly_what_render_draws(antialiasing: bool) -> None:
    options, view = RenderOptions(antialiasing=antialiasing), camera()
    model = GaussianModel.from_raw(scene())
    direct = evaluate([view, view], model, backend_for(CPU, options), WHITE)
    (wanted,) = evaluate([view], model, AutogradBackend(options), WHITE)
    assert len(direct) == 2
    for found in direct:
        assert found.image_name == wanted.image_name
        assert found.psnr == pytest.approx(wanted.psnr, abs=1e-3)
        assert found.ssim == pytest.approx(wanted.ssim, abs=1e-5)
        assert found.l1 == pytest.approx(wanted.l1, rel=1e-4)


def test_evaluation_keeps_nothing_for_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def render(*arguments: Any, training: bool, **rest: Any) -> Any:
        kept.append(training)
        return original(*arguments, training=training, **rest)

    original = rasterizer.render
    monkeypatch.setattr(rasterizer, "render", render)
    evaluate([camera()], GaussianModel.from_raw(scene()), backend_for(CPU, RenderOptions()), WHITE)
    assert kept == [False]


@pytest.mark.parametrize("backend", BOTH)
def test_no_gaussians_are_drawn_as_the_background(backend: Backend) -> None:
    nothing, view, grey = scene().rows(torch.arange(0)), camera(), torch.tensor([0.2, 0.5, 0.7])
    assert torch.equal(backend.draw(view, nothing, grey, 3), grey[:, None, None].expand(3, 37, 45))
    out = nothing.map(torch.empty_like)
    found = backend.differentiate(view, nothing, out, grey, 3, 0.0)
    l1 = (view.image_u8 / 255 - grey[:, None, None]).abs().mean()
    assert float(found.loss) == pytest.approx(float(l1), rel=1e-5)
    assert found.screen_gradient.shape == (0, 2)


@pytest.mark.parametrize("backend", BOTH)
def test_evaluation_without_gaussians_gives_the_background(backend: Backend) -> None:
    nothing = GaussianModel.from_raw(scene().rows(torch.arange(0)))
    (score,) = evaluate([camera()], nothing, backend, WHITE)
    missing = (255 - camera().image_u8.float()).mean() / 255
    assert score.l1 == pytest.approx(float(missing), rel=1e-6)


def test_buffers_follow_the_model_and_the_image() -> None:
    backend = backend_for(CPU, RenderOptions())
    for raw, view in [(scene(), camera()), (scene().rows(torch.arange(60)), camera(33, 20))]:
        found = backend.differentiate(view, raw, raw.map(torch.empty_like), WHITE, 3, 0.2)
        assert found.screen_gradient.shape == (raw.gaussian_count, 2)
        assert found.image.shape == view.image_u8.shape


def test_cameras_are_packed_once_and_anew_when_they_change() -> None:
    packed = []

    def pack(view: Camera) -> torch.Tensor:
        packed.append(view)
        return torch.full((5,), float(len(packed)))

    views, view = PackedViews(pack), camera()
    numbers = views(view, WHITE)
    assert numbers.tolist() == [1, 1, 1, 1, 1]
    assert views(view, torch.zeros(3)) is numbers  # as random backgrounds need it
    assert numbers.tolist() == [1, 1, 0, 0, 0]
    view.world_view_transform[3, 0] += 1  # in place
    assert views(view, WHITE)[0] == 2
    view.camera_center = view.camera_center.clone()
    assert views(view, WHITE)[0] == 3
    view.FoVx *= 2
    assert views(view, WHITE)[0] == 4
    assert views(view, WHITE)[0] == 4
    assert views(camera(), WHITE)[0] == 5
    assert packed[:4] == [view] * 4


def test_packed_views_are_those_of_the_settings() -> None:
    view = camera()
    view.full_proj_transform = view.full_proj_transform + 0.1 * torch.randn(
        4, 4, generator=torch.Generator().manual_seed(2)
    )  # off-axis, among other things
    options = RenderOptions(antialiasing=True)
    found, wanted = (
        backend.draw(view, scene(), WHITE, 2)
        for backend in (backend_for(CPU, options), AutogradBackend(options))
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_changed_camera_is_drawn_as_it_is_now() -> None:
    backend, view = backend_for(CPU, RenderOptions()), camera()
    before = backend.draw(view, scene(), WHITE, 3)
    view.world_view_transform, view.full_proj_transform, view.camera_center = (
        getattr(camera(), name)
        for name in ("world_view_transform", "full_proj_transform", "camera_center")
    )
    assert torch.equal(backend.draw(view, scene(), WHITE, 3), before)
    assert not torch.equal(backend.draw(view, scene(), torch.zeros(3), 3), before)
    view.world_view_transform[3, 0] += 0.5
    assert not torch.equal(backend.draw(view, scene(), WHITE, 3), before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"numbers": torch.zeros(NUMBERS - 1)}, "numbers"),
        ({"numbers": torch.zeros(NUMBERS).double()}, "numbers"),
        ({"width": 0}, "width"),
        ({"height": 1 << 17}, "height"),
        ({"sh_degree": 4}, "sh_degree"),
    ],
)
def test_wrong_packed_views_are_named(change: dict[str, Any], match: str) -> None:
    view = rasterizer.View(torch.zeros(NUMBERS), 45, 37, 3, antialiasing=False)._replace(**change)
    with pytest.raises(ValueError, match=match):
        rasterizer.render(rasterizer.RawGaussians(*scene()), view, training=False)


def test_training_uses_the_backends_adam() -> None:
    model = GaussianModel(3, device=CPU, operations=backend_for(CPU, RenderOptions()))
    model.load_splats(scene().to_splats())
    model.training_setup(OptimizationOptions())
    assert isinstance(model.trained_by, KernelAdam)
    plain = GaussianModel.from_splats(scene().to_splats(), CPU)
    plain.training_setup(OptimizationOptions())
    assert type(plain.trained_by) is PlainAdam
