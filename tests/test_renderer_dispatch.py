# SPDX-License-Identifier: Apache-2.0
"""`render` over stand-ins with the signatures of each generation of the rasteriser."""

import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gaussian_renderer import render
from gaussian_renderer.rasterizer import capabilities, default_device
from scene.gaussian_model import GaussianModel
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.sh_utils import eval_sh

HEIGHT, WIDTH, COUNT = 6, 8, 5
FIELDS_2023 = (
    "image_height image_width tanfovx tanfovy bg scale_modifier viewmatrix projmatrix sh_degree "
    "campos prefiltered debug"
)
Settings2023 = namedtuple("Settings2023", FIELDS_2023)
SettingsAntialiasing = namedtuple("SettingsAntialiasing", FIELDS_2023 + " antialiasing")
RADII = torch.tensor([3, 0, 1, 0, 2], dtype=torch.int32)


class Recorder(nn.Module):
    """Stores its last call; its image depends on means2D, so that this gets gradients."""

    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, raster_settings: Any) -> None:
        super().__init__()
        self.raster_settings = raster_settings

    def record(self, **arguments: Any) -> tuple[Tensor, Tensor]:
        self.calls.append({"settings": self.raster_settings, **arguments})
        background = self.raster_settings.bg.view(3, 1, 1).expand(3, HEIGHT, WIDTH)
        return background + arguments["means2D"].sum(), RADII


class Rasterizer2023(Recorder):
    def forward(
        self, means3D, means2D, opacities, shs=None, colors_precomp=None, scales=None,
        rotations=None, cov3D_precomp=None,
    ):  # fmt: skip
        return self.record(means2D=means2D, shs=shs, colors=colors_precomp, scales=scales,
                           covariance=cov3D_precomp)  # fmt: skip


class RasterizerAntialiasing(Recorder):
    def forward(
        self, means3D, means2D, opacities, shs=None, colors_precomp=None, scales=None,
        rotations=None, cov3D_precomp=None,
    ):  # fmt: skip
        outputs = self.record(means2D=means2D, shs=shs, colors=colors_precomp, scales=scales,
                              covariance=cov3D_precomp)  # fmt: skip
        return *outputs, torch.ones(1, HEIGHT, WIDTH)


class RasterizerAccelerated(Recorder):
    def forward(
        self, means3D, means2D, opacities, dc=None, shs=None, colors_precomp=None, scales=None,
        rotations=None, cov3D_precomp=None,
    ):  # fmt: skip
        outputs = self.record(means2D=means2D, dc=dc, shs=shs, colors=colors_precomp,
                              scales=scales, covariance=cov3D_precomp)  # fmt: skip
        return *outputs, torch.ones(1, HEIGHT, WIDTH)


GENERATIONS = {
    "2023": (Settings2023, Rasterizer2023),
    "antialiasing": (SettingsAntialiasing, RasterizerAntialiasing),
    "accelerated": (SettingsAntialiasing, RasterizerAccelerated),
}


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    install(request.param, monkeypatch)
    return request.param


def install(name: str, monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> ModuleType:
    package = ModuleType("diff_gaussian_rasterization")
    package.GaussianRasterizationSettings, package.GaussianRasterizer = GENERATIONS[name]
    package.supported_devices = ("cpu",)
    vars(package).update(attributes)
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", package)
    monkeypatch.setattr(Recorder, "calls", [])
    return package


def a_model(count: int = COUNT) -> GaussianModel:
    rng = np.random.default_rng(1)
    shapes = {
        "xyz": (3,), "features_dc": (1, 3), "features_rest": (15, 3), "opacity": (1,),
        "scaling": (3,), "rotation": (4,),
    }  # fmt: skip
    arrays = {k: rng.normal(size=(count, *v)).astype(np.float32) for k, v in shapes.items()}
    return GaussianModel.from_splats(Splats(**arrays), "cpu")


def a_camera() -> SimpleNamespace:
    """With the fields of MiniCam only."""
    return SimpleNamespace(
        FoVx=1.0,
        FoVy=0.8,
        image_width=WIDTH,
        image_height=HEIGHT,
        world_view_transform=torch.eye(4),
        full_proj_transform=torch.eye(4),
        camera_center=torch.tensor([1.0, 2.0, 3.0]),
    )


GREY = torch.tensor([0.25, 0.5, 0.75])


def test_result_has_the_documented_entries(generation: str) -> None:
    drawn = render(a_camera(), a_model(), SimpleNamespace(), GREY)
    expected = {"render", "viewspace_points", "visibility_filter", "radii"}
    assert set(drawn) == (expected if generation == "2023" else expected | {"depth"})
    assert torch.equal(drawn["render"], GREY.view(3, 1, 1).expand(3, HEIGHT, WIDTH))
    assert drawn["visibility_filter"].tolist() == [[0], [2], [4]]
    assert torch.equal(drawn["radii"], RADII)


def test_screen_gradients_arrive_in_viewspace_points(generation: str) -> None:
    drawn = render(a_camera(), a_model(), SimpleNamespace(), GREY)
    drawn["render"].sum().backward()
    assert (drawn["viewspace_points"].grad == 3 * HEIGHT * WIDTH).all()


def test_settings_hold_the_camera_and_the_active_degree(generation: str) -> None:
    model = a_model()
    model.active_sh_degree = 2
    render(a_camera(), model, SimpleNamespace(debug=True), GREY, 0.5)
    settings = Recorder.calls[0]["settings"]
    assert (settings.image_height, settings.image_width) == (HEIGHT, WIDTH)
    assert settings.tanfovx == pytest.approx(np.tan(0.5))
    assert settings.tanfovy == pytest.approx(np.tan(0.4))
    assert settings.sh_degree == 2
    assert settings.scale_modifier == 0.5
    assert settings.debug is True
    assert settings.prefiltered is False


def test_sh_is_passed_in_the_form_of_the_generation(generation: str) -> None:
    model = a_model()
    render(a_camera(), model, SimpleNamespace(), GREY)
    call = Recorder.calls[0]
    if generation == "accelerated":
        assert call["dc"] is model._features_dc
        assert call["shs"] is model._features_rest
    else:
        assert torch.equal(call["shs"], model.get_features)


@pytest.mark.parametrize("as_2023", [False, True])
def test_override_color_replaces_sh(generation: str, as_2023: bool) -> None:
    colors = torch.rand(COUNT, 3)
    if as_2023:
        render(a_camera(), a_model(), SimpleNamespace(), GREY, 1.0, colors)
    else:
        render(a_camera(), a_model(), SimpleNamespace(), GREY, override_color=colors)
    call = Recorder.calls[0]
    assert call["colors"] is colors
    assert call["shs"] is None
    assert call.get("dc") is None


def test_colors_can_be_computed_in_python(generation: str) -> None:
    model, camera = a_model(), a_camera()
    render(camera, model, SimpleNamespace(convert_SHs_python=True), GREY)
    call = Recorder.calls[0]
    directions = torch.nn.functional.normalize(model._xyz - camera.camera_center)
    expected = eval_sh(3, model.get_features.transpose(1, 2), directions) + 0.5
    torch.testing.assert_close(call["colors"], expected.clamp_min(0))
    assert (expected < 0).any()
    assert call["shs"] is None


def test_covariances_can_be_computed_in_python(generation: str) -> None:
    model = a_model()
    render(a_camera(), model, SimpleNamespace(compute_cov3D_python=True), GREY, 2.0)
    call = Recorder.calls[0]
    torch.testing.assert_close(call["covariance"], 4 * model.get_covariance())
    assert call["scales"] is None


def test_image_is_clamped(generation: str) -> None:
    drawn = render(a_camera(), a_model(), SimpleNamespace(), torch.tensor([-1.0, 0.5, 2.0]))
    assert drawn["render"][:, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_antialiasing_is_passed_on_or_refused(generation: str) -> None:
    def draw() -> None:
        render(a_camera(), a_model(), SimpleNamespace(antialiasing=True), GREY)

    if generation == "2023":
        with pytest.raises(InputError, match="anti-aliasing"):
            draw()
    else:
        draw()
        assert Recorder.calls[0]["settings"].antialiasing is True


def test_no_gaussians_give_the_background_and_empty_gradients(generation: str) -> None:
    model = a_model(0)
    drawn = render(a_camera(), model, SimpleNamespace(), GREY)
    assert torch.equal(drawn["render"], GREY.view(3, 1, 1).expand(3, HEIGHT, WIDTH))
    drawn["render"].sum().backward()
    assert model._xyz.grad.shape == (0, 3)
    assert drawn["viewspace_points"].grad.shape == (0, 3)
    assert drawn["radii"].shape == (0,)


def test_nothing_is_recorded_for_gradients_without_grad(generation: str) -> None:
    with torch.no_grad():
        drawn = render(a_camera(), a_model(), SimpleNamespace(), GREY)
    assert not drawn["viewspace_points"].requires_grad


def test_a_package_for_another_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    package = install("2023", monkeypatch)
    del package.supported_devices
    with pytest.raises(InputError, match="runs on cuda, but the Gaussians are on cpu"):
        render(a_camera(), a_model(), SimpleNamespace(), GREY)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", None)
    with pytest.raises(InputError, match="pip install submodules/diff-gaussian-rasterization"):
        render(a_camera(), a_model(), SimpleNamespace(), GREY)


@pytest.mark.parametrize(
    ("cuda", "supported", "expected"),
    [
        (False, ("cuda",), "cpu"),
        (True, ("cpu",), "cpu"),
        (True, ("cpu", "cuda"), "cuda"),
        (True, None, "cuda"),
    ],
)
def test_default_device_is_cuda_only_where_the_package_runs_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, supported: tuple[str, ...] | None, expected: str
) -> None:
    package = install("2023", monkeypatch, supported_devices=supported)
    if supported is None:
        del package.supported_devices
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert default_device.__wrapped__().type == expected


def test_exposures_change_the_colours_of_their_image_only(generation: str) -> None:
    model, camera = a_model(), a_camera()
    matrix = torch.tensor([[0, 1, 0, 0.1], [1, 0, 0, 0], [0, 0, 2, -0.5]])
    model.pretrained_exposures = {"a.png": matrix}
    # A row of RGB times the first three columns, plus the last: red and green change places.
    expected = torch.tensor([0.5 + 0.1, 0.25, 0.75 * 2 - 0.5]).view(3, 1, 1)
    for name in ("a.png", None):
        if name:
            camera.image_name = name
        else:
            del camera.image_name  # as the network viewer's cameras
            expected = GREY.view(3, 1, 1)
        drawn = render(camera, model, SimpleNamespace(), GREY, use_trained_exp=True)
        torch.testing.assert_close(drawn["render"], expected.expand(3, HEIGHT, WIDTH))
    camera.image_name = "b.png"
    with pytest.raises(InputError, match=r"no exposure of the image b\.png"):
        render(camera, model, SimpleNamespace(), GREY, use_trained_exp=True)
    assert render(camera, model, SimpleNamespace(), GREY)["render"][0, 0, 0] == 0.25


def test_this_projects_own_package_has_all_capabilities() -> None:
    import diff_gaussian_rasterization as package

    offered = capabilities(package)
    assert offered.antialiasing
    assert offered.separate_dc
    assert "cpu" in offered.devices
