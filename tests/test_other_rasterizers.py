# SPDX-License-Identifier: Apache-2.0
"""gswarp and gsplat behind --rasterizer: what the adapters pass on, over stand-ins."""

from __future__ import annotations

import sys
from collections import namedtuple
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from reference import gsplat_stand_in
from reference.random_scenes import Scene, packed_covariances, random_scene
from torch import Tensor

from gaussian_renderer.rasterizer import rasterize
from gaussian_renderer.rasterizer_values import Gaussians, Rasterized, View
from scene import device
from utils.errors import InputError

NAMES = ("means", "screen_points", "opacities", "sh_dc", "sh_rest", "scaling", "rotation")


@pytest.fixture(params=["centred", "off-axis", "antialiased", "degree 1"])
def scene(request: pytest.FixtureRequest) -> Scene:
    scene = comparable(random_scene(seed=3, count=60, width=50, height=36))
    return {
        "centred": scene,
        "off-axis": scene.off_axis(0.2, -0.1),
        "antialiased": scene.with_settings(antialiasing=True),
        "degree 1": scene.with_settings(sh_degree=1, scale_modifier=0.7),
    }[request.param]


def comparable(scene: Scene) -> Scene:
    """Where all conventions agree: alphas below the caps, and nothing far outside the image.

    There, positions are clamped, in other ways off-axis and in the derivatives.
    """
    x, y, z = (scene.means @ scene.settings.viewmatrix[:3, :3] + scene.settings.viewmatrix[3, :3]).T
    kept = (x.abs() < scene.settings.tanfovx * z) & (y.abs() < scene.settings.tanfovy * z)
    kept |= z < 0.1
    names = ("means", "opacities", "shs", "scales", "rotations")
    rows = {name: getattr(scene, name)[kept] for name in names}
    return replace(scene, **rows | {"opacities": rows["opacities"] * 0.95})


def gaussians_of(scene: Scene) -> Gaussians:
    leaf = {
        "means": scene.means,
        "screen_points": torch.zeros_like(scene.means),
        "opacities": scene.opacities,
        "sh_dc": scene.shs[:, :1],
        "sh_rest": scene.shs[:, 1:],
        "scaling": scene.scales,
        "rotation": scene.rotations,
    }
    return Gaussians(**{name: value.clone().requires_grad_() for name, value in leaf.items()})


def view_of(scene: Scene, rasterizer: str) -> View:
    settings = scene.settings
    return View(
        height=settings.image_height,
        width=settings.image_width,
        tan_half_fov=(settings.tanfovx, settings.tanfovy),
        background=settings.bg,
        scale_modifier=settings.scale_modifier,
        world_view=settings.viewmatrix,
        full_projection=settings.projmatrix,
        camera_center=settings.campos,
        sh_degree=settings.sh_degree,
        antialiasing=settings.antialiasing,
        rasterizer=rasterizer,
    )


def drawn_by(name: str, scene: Scene) -> tuple[Rasterized, dict[str, Tensor]]:
    """The view, and the gradients of a weighted sum of its pixels."""
    gaussians = gaussians_of(scene)
    drawn = rasterize(gaussians, view_of(scene, name))
    generator = torch.Generator().manual_seed(0)
    loss = (drawn.image * torch.rand(drawn.image.shape, generator=generator)).sum()
    assert drawn.inverse_depth is not None
    (loss + drawn.inverse_depth.sum()).backward()
    gradients = {name: getattr(gaussians, name).grad for name in NAMES}
    # gsplat normalises quaternions once more, which removes the gradient along them.
    along = (gradients["rotation"] * scene.rotations).sum(dim=1, keepdim=True)
    return drawn, gradients | {"rotation": gradients["rotation"] - along * scene.rotations}


def test_gsplat_draws_and_differentiates_as_ours(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", gsplat_stand_in)
    expected, expected_gradients = drawn_by("auto", scene)
    found, gradients = drawn_by("gsplat", scene)
    visible = expected.radii > 0
    assert visible.sum() > 15
    torch.testing.assert_close(found.radii[visible], expected.radii[visible])
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=2e-4)
    torch.testing.assert_close(found.inverse_depth, expected.inverse_depth, rtol=0, atol=2e-4)
    for name in NAMES:
        wanted = expected_gradients[name]
        assert wanted.abs().max() > 0, name
        error = (gradients[name] - wanted).norm() / wanted.norm()
        assert error < 2e-3, f"{name}: {error}"


def test_gsplat_takes_covariances_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", gsplat_stand_in)
    scene = random_scene(seed=4, count=20, width=40, height=30)
    shared = {
        "means": scene.means,
        "screen_points": torch.zeros_like(scene.means),
        "opacities": scene.opacities * 0.9,
        "colors": torch.rand(20, 3, generator=torch.Generator().manual_seed(1)),
        "covariance": packed_covariances(scene).float(),
    }
    ours, theirs = (
        rasterize(Gaussians(**shared), view_of(scene, name)).image for name in ("auto", "gsplat")
    )
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-4)


def test_without_gaussians_there_is_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", gsplat_stand_in)
    scene = random_scene(seed=1, count=1)
    nothing = {name: getattr(gaussians_of(scene), name)[:0] for name in NAMES}
    drawn = rasterize(Gaussians(**nothing), view_of(scene, "gsplat"))
    assert (drawn.image == scene.settings.bg.view(3, 1, 1)).all()


Settings = namedtuple(
    "Settings",
    "image_height image_width tanfovx tanfovy bg scale_modifier viewmatrix projmatrix sh_degree "
    "campos prefiltered debug antialiasing backward_mode",
    defaults=(False, False, None),
)


def gswarp(monkeypatch: pytest.MonkeyPatch, version: str = "1.1.0") -> list[dict[str, Any]]:
    """Installs a stand-in with gswarp's interface; the calls that it gets."""
    calls: list[dict[str, Any]] = []

    class GaussianRasterizer(torch.nn.Module):
        def __init__(self, raster_settings: Settings) -> None:
            super().__init__()
            self.settings = raster_settings

        def forward(
            self, means3D, means2D, opacities, shs=None, colors_precomp=None, scales=None,
            rotations=None, cov3D_precomp=None,
        ) -> tuple:  # fmt: skip
            calls.append({"settings": self.settings, "shs": shs, "scales": scales})
            image = torch.full((3, self.settings.image_height, self.settings.image_width), 0.5)
            return image, torch.ones(len(means3D), dtype=torch.int32), ("depth", "alpha")

    package = ModuleType("gswarp")
    package.GaussianRasterizationSettings, package.GaussianRasterizer = Settings, GaussianRasterizer
    package.__version__ = version
    monkeypatch.setitem(sys.modules, "gswarp", package)
    return calls


def test_gswarp_gets_the_interface_of_2023(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = gswarp(monkeypatch)
    monkeypatch.setattr("gaussian_renderer.rasterizer._check_device", lambda *_: None)
    scene = random_scene(seed=1, count=6)
    drawn = rasterize(gaussians_of(scene), view_of(scene, "gswarp"))
    assert drawn.inverse_depth is None  # the third output is another thing
    assert calls[0]["settings"].sh_degree == 3
    torch.testing.assert_close(calls[0]["shs"], scene.shs)


def test_gswarp_does_not_antialias(monkeypatch: pytest.MonkeyPatch) -> None:
    gswarp(monkeypatch)
    monkeypatch.setattr("gaussian_renderer.rasterizer._check_device", lambda *_: None)
    scene = random_scene(seed=1, count=6).with_settings(antialiasing=True)
    with pytest.raises(InputError, match="gswarp does not support anti-aliasing"):
        rasterize(gaussians_of(scene), view_of(scene, "gswarp"))


def test_gswarp_draws_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    gswarp(monkeypatch)
    scene = random_scene(seed=1, count=6)
    with pytest.raises(InputError, match="gswarp runs on cuda, but the Gaussians are on cpu"):
        rasterize(gaussians_of(scene), view_of(scene, "gswarp"))


@pytest.mark.parametrize("name", ["gswarp", "gsplat"])
def test_packages_that_are_missing_or_useless_here(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"--rasterizer {name} needs .* pip install {name}=="):
        device.device_for(name)
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"--rasterizer {name}: PyTorch finds no CUDA device"):
        device.device_for(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.device_for(name) == torch.device("cuda")


def test_another_version_is_announced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gswarp(monkeypatch, version="9.9.1")
    device.required_gswarp()
    assert "gswarp 9.9.1 is installed: --rasterizer gswarp was written for 1.1.0" in caplog.text
