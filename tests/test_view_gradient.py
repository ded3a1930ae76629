# SPDX-License-Identifier: Apache-2.0
"""The direct path through the kernels against autograd over `render`: one loss, one gradient."""

from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import raw as rasterizer
from reference.random_splats import random_raw
from reference.random_views import camera

from gaussian_renderer.evaluation import evaluate
from gaussian_renderer.view_gradient import (
    AutogradViewGradient,
    DirectViewGradient,
    RenderOptions,
    view_gradient,
)
from scene.gaussian_model import GaussianModel
from scene.raw_parameters import RawParameters

CPU = torch.device("cpu")
WHITE = torch.ones(3)


def scene(sh_degree: int = 3) -> RawParameters:
    raw = random_raw(150, sh_degree)
    return raw._replace(xyz=0.6 * raw.xyz, scaling=0.4 * raw.scaling)


@pytest.mark.parametrize("antialiasing", [False, True])
@pytest.mark.parametrize(("sh_degree", "active"), [(3, 3), (3, 1), (0, 0)])
def test_both_paths_agree(sh_degree: int, active: int, antialiasing: bool) -> None:
    raw, view = scene(sh_degree), camera()
    options = RenderOptions(antialiasing=antialiasing)
    results, gradients = [], []
    for kind in (AutogradViewGradient, DirectViewGradient):
        out = raw.map(lambda tensor: torch.full_like(tensor, float("nan")))
        extra = [rasterizer] if kind is DirectViewGradient else []
        results.append(kind(options, 0.2, *extra)(view, raw, out, WHITE, active))
        gradients.append(out)
    slow, fast = results
    assert fast.loss == pytest.approx(slow.loss, rel=1e-6)
    assert torch.equal(fast.radii, slow.radii)
    assert (fast.radii > 0).sum() > 50
    torch.testing.assert_close(fast.image, slow.image, rtol=0, atol=1e-6)
    torch.testing.assert_close(fast.screen_gradient, slow.screen_gradient, rtol=1e-3, atol=1e-7)
    for (name, a), b in zip(gradients[0].named(), gradients[1], strict=True):
        assert (a - b).norm() <= 3e-4 * a.norm() + 1e-12, name
        assert name == "features_rest" or a.abs().max() > 0


@pytest.mark.parametrize("kind", [AutogradViewGradient, DirectViewGradient])
def test_pull_back_is_the_slope_of_a_weighted_sum_of_pixels(kind: type) -> None:
    raw, view = scene(1), camera()
    weights = torch.randn(3, 37, 45, generator=torch.Generator().manual_seed(1))
    extra = [rasterizer] if kind is DirectViewGradient else []
    differentiate = kind(RenderOptions(), 0.2, *extra)
    out = raw.map(torch.empty_like)
    differentiate.pull_back(view, weights, raw, out, WHITE, 1)
    direction = out.features_dc / out.features_dc.norm()

    def sum_at(step: float) -> float:
        moved = raw._replace(features_dc=raw.features_dc + step * direction)
        image = differentiate(view, moved, raw.map(torch.empty_like), WHITE, 1).image
        return float((image.double() * weights).sum())

    slope = (sum_at(0.02) - sum_at(-0.02)) / 0.04
    assert slope == pytest.approx(float(out.features_dc.norm()), rel=0.02)


def test_pull_back_is_the_same_on_both_paths() -> None:
    raw, view = scene(), camera()
    weights = torch.randn(3, 37, 45, generator=torch.Generator().manual_seed(1))
    slow, fast = raw.map(torch.empty_like), raw.map(torch.empty_like)
    AutogradViewGradient(RenderOptions(), 0.2).pull_back(view, weights, raw, slow, WHITE, 3)
    direct = DirectViewGradient(RenderOptions(), 0.2, rasterizer)
    direct.pull_back(view, weights, raw, fast, WHITE, 3)
    for (name, a), b in zip(slow.named(), fast, strict=True):
        assert (a - b).norm() <= 3e-4 * a.norm() + 1e-12, name


def test_gradient_is_the_slope_of_the_loss() -> None:
    raw, view = scene(1), camera()
    out = raw.map(torch.empty_like)
    differentiate = view_gradient(RenderOptions(), 0.2, CPU)
    differentiate(view, raw, out, WHITE, 1)
    direction = out.features_dc / out.features_dc.norm()
    size = 0.05

    def loss_at(step: float) -> float:
        moved = raw._replace(features_dc=raw.features_dc + step * direction)
        return differentiate(view, moved, raw.map(torch.empty_like), WHITE, 1).loss

    slope = (loss_at(size) - loss_at(-size)) / (2 * size)
    assert slope == pytest.approx(float(out.features_dc.norm()), rel=0.02)


def test_python_options_go_through_autograd() -> None:
    assert isinstance(view_gradient(RenderOptions(), 0.2, CPU), DirectViewGradient)
    in_python = RenderOptions(convert_SHs_python=True)
    assert isinstance(view_gradient(in_python, 0.2, CPU), AutogradViewGradient)


def test_without_the_raw_path_autograd_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaussian_renderer.direct.installed", lambda name: False)
    assert isinstance(view_gradient(RenderOptions(), 0.2, CPU), AutogradViewGradient)


def test_without_the_fused_loss_autograd_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("fused_ssim.l1_ssim_value_and_gradient")
    assert isinstance(view_gradient(RenderOptions(), 0.2, CPU), AutogradViewGradient)


@pytest.mark.parametrize("antialiasing", [False, True])
def test_evaluation_draws_directly_what_render_draws(
    antialiasing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, view = RenderOptions(antialiasing=antialiasing), camera()
    model = GaussianModel.from_raw(scene())
    direct = evaluate([view, view], model, options, WHITE)
    monkeypatch.setattr("gaussian_renderer.evaluation.direct_rasterizer", lambda *_: None)
    (wanted, _) = evaluate([view, view], model, options, WHITE)
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
    evaluate([camera()], GaussianModel.from_raw(scene()), RenderOptions(), WHITE)
    assert kept == [False]


def test_evaluation_of_no_gaussians_sees_the_background() -> None:
    nothing = GaussianModel.from_raw(scene().rows(torch.arange(0)))
    (score,) = evaluate([camera()], nothing, RenderOptions(), WHITE)
    missing = (255 - camera().image_u8.float()).mean() / 255
    assert score.l1 == pytest.approx(float(missing), rel=1e-6)


def test_buffers_follow_the_model_and_the_image() -> None:
    differentiate = DirectViewGradient(RenderOptions(), 0.2, rasterizer)
    for raw, view in [(scene(), camera()), (scene().rows(torch.arange(60)), camera(33, 20))]:
        said = differentiate(view, raw, raw.map(torch.empty_like), WHITE, 3)
        assert said.screen_gradient.shape == (raw.gaussian_count, 2)
        assert said.image.shape == view.image_u8.shape
