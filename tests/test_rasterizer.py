# SPDX-License-Identifier: Apache-2.0
"""The rasteriser's values and gradients against its float64 twin, and its Python interface."""

from __future__ import annotations

import pytest
import torch
from diff_gaussian_rasterization import (
    _C,
    GaussianRasterizationSettings,
    GaussianRasterizer,
    _RasterizeGaussians,
    rasterize_gaussians,
    supported_devices,
)
from reference import rasterizer_twin as twin
from reference.random_scenes import Scene, packed_covariances, random_scene, twin_view
from torch import Tensor

# The accuracy of single precision; a failure prints the measured figure.
MEAN_ERROR = 1e-6
PIXEL_ERROR = 1e-4
PIXELS_AT_A_THRESHOLD = 2e-4  # fraction: there an alpha is on 1/255, or a transmittance on 1e-4
GRADIENT_ERROR = 3e-4  # L2, relative

Parts = dict[str, Tensor]


def api_parts(scene: Scene, *, colors: bool = False, covariances: bool = False) -> Parts:
    """The arguments of the rasteriser that describe the Gaussians."""
    parts = {"means3D": scene.means, "opacities": scene.opacities}
    if colors:
        parts["colors_precomp"] = scene.shs[:, 0].abs()
    else:
        parts["shs"] = scene.shs
    if covariances:
        parts["cov3D_precomp"] = packed_covariances(scene)
    else:
        parts |= {"scales": scene.scales, "rotations": scene.rotations}
    return {name: tensor.clone().requires_grad_() for name, tensor in parts.items()}


def twin_render(parts: Parts, scene: Scene) -> tuple[twin.Rendering, Parts, Tensor]:
    """The twin's picture, its float64 leaves, and the leaf that stands for means2D."""
    leaves = {name: tensor.detach().double().requires_grad_() for name, tensor in parts.items()}
    screen = torch.zeros(len(scene.means), 2, dtype=torch.float64, requires_grad=True)
    gaussians = twin.Gaussians(
        means=leaves["means3D"],
        opacities=leaves["opacities"],
        shs=leaves.get("shs"),
        colors=leaves.get("colors_precomp"),
        scales=leaves.get("scales"),
        rotations=leaves.get("rotations"),
        covariances=leaves.get("cov3D_precomp"),
    )
    return twin.render(gaussians, twin_view(scene.settings), screen), leaves, screen


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    error = (found.double() - expected).norm() / expected.norm()
    assert error <= GRADIENT_ERROR, f"{name}: relative error {error:.2e}"


def assert_same_picture(found: Tensor, expected: Tensor) -> None:
    error = (found - expected).abs()
    assert error.mean() <= MEAN_ERROR
    assert (error > PIXEL_ERROR).double().mean() <= PIXELS_AT_A_THRESHOLD


def compare_with_twin(scene: Scene, parts: Parts) -> None:
    means2D = torch.zeros_like(scene.means, requires_grad=True)
    image, radii, depth = GaussianRasterizer(scene.settings)(means2D=means2D, **parts)
    expected, leaves, screen = twin_render(parts, scene)
    assert_same_picture(image, expected.image)
    assert_same_picture(depth, expected.inverse_depth)
    assert torch.equal(radii, expected.radii)
    assert (radii > 0).sum() > len(radii) / 4

    generator = torch.Generator().manual_seed(1)
    d_image = torch.randn(image.shape, generator=generator)
    d_depth = torch.randn(depth.shape, generator=generator)
    ((image * d_image).sum() + (depth * d_depth).sum()).backward()
    ((expected.image * d_image).sum() + (expected.inverse_depth * d_depth).sum()).backward()
    for name, tensor in parts.items():
        assert tensor.grad is not None
        assert_close(tensor.grad, leaves[name].grad, name)
        assert not tensor.grad[radii == 0].any()
    assert_close(means2D.grad[:, :2], screen.grad, "means2D")
    assert not means2D.grad[:, 2].any()


@pytest.mark.parametrize("antialiasing", [False, True])
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_values_and_gradients(sh_degree: int, antialiasing: bool) -> None:
    scene = random_scene(seed=sh_degree, count=250, sh_degree=sh_degree)
    scene = scene.with_settings(antialiasing=antialiasing)
    compare_with_twin(scene, api_parts(scene))


@pytest.mark.parametrize("antialiasing", [None, False])
@pytest.mark.parametrize("size", [0.1, 1.5])
def test_size_of_the_low_pass_filter(
    size: float, antialiasing: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAST3DGS_RASTERIZER_RETURNS", "3")
    scene = random_scene(seed=6, count=150, sh_degree=1)
    scene = scene.with_settings(kernel_size=size, antialiasing=antialiasing)
    assert scene.settings.compensates() is (antialiasing is None)
    compare_with_twin(scene, api_parts(scene))


def test_settings_of_mip_splatting_are_checked() -> None:
    scene = random_scene(seed=6, count=20)
    parts = {**api_parts(scene), "means2D": torch.zeros_like(scene.means)}
    offset = torch.zeros(50, 70, 2)
    same = scene.with_settings(kernel_size=0.3, antialiasing=False, subpixel_offset=offset)
    image = GaussianRasterizer(same.settings)(**parts)[0]
    assert torch.equal(image, GaussianRasterizer(scene.settings)(**parts)[0])
    for changes, message in (
        ({"kernel_size": -0.1}, "kernel_size must be a finite number from 0 on, not -0.1"),
        ({"kernel_size": float("inf")}, "kernel_size must be a finite number from 0 on, not inf"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianRasterizer(scene.with_settings(**changes).settings)(**parts)


@pytest.mark.parametrize(("width", "height", "count"), [(16, 16, 40), (33, 47, 150), (81, 15, 300)])
def test_sizes_of_images(width: int, height: int, count: int) -> None:
    scene = random_scene(seed=5, count=count, width=width, height=height, sh_degree=1)
    compare_with_twin(scene, api_parts(scene))


def test_off_axis_views_hold_the_projection_about_their_own_middle() -> None:
    scene = random_scene(seed=9, count=200).off_axis(0.9, -0.7)
    compare_with_twin(scene, api_parts(scene))


@pytest.mark.parametrize("antialiasing", [False, True])
def test_precomputed_colors_and_covariances(antialiasing: bool) -> None:
    scene = random_scene(seed=6, count=250).with_settings(antialiasing=antialiasing)
    compare_with_twin(scene, api_parts(scene, colors=True, covariances=True))


def test_lower_active_degree_uses_the_first_coefficients_only() -> None:
    scene = random_scene(seed=7, count=150).with_settings(sh_degree=1)
    parts = api_parts(scene)
    compare_with_twin(scene, parts)
    assert not parts["shs"].grad[:, 4:].any()


def test_scale_modifier() -> None:
    scene = random_scene(seed=8, count=150, sh_degree=0).with_settings(scale_modifier=0.5)
    compare_with_twin(scene, api_parts(scene))


def test_opaque_and_dense_scene_stops_pixels() -> None:
    scene = random_scene(seed=9, count=400, width=40, height=40, sh_degree=0)
    parts = api_parts(scene)
    with torch.no_grad():
        parts["opacities"].fill_(0.999)
        parts["scales"].mul_(3)
    means2D = torch.zeros_like(scene.means, requires_grad=True)
    image, _, _ = GaussianRasterizer(scene.settings)(means2D=means2D, **parts)
    expected, leaves, _ = twin_render(parts, scene)
    assert_same_picture(image, expected.image)
    image.square().sum().backward()
    expected.image.square().sum().backward()
    for name in ("means3D", "opacities", "scales", "shs"):
        assert_close(parts[name].grad, leaves[name].grad, name)


def test_gaussian_that_covers_many_tiles() -> None:
    scene = random_scene(seed=10, count=40, width=320, height=200, sh_degree=0)
    parts = api_parts(scene)
    with torch.no_grad():
        parts["opacities"].mul_(0.2)
        parts["scales"][::7] *= 30
    image, radii, _ = GaussianRasterizer(scene.settings)(
        means2D=torch.zeros_like(scene.means), **parts
    )
    expected, _, _ = twin_render(parts, scene)
    assert torch.equal(radii, expected.radii)
    assert_same_picture(image, expected.image)


def test_ties_in_depth_go_by_index() -> None:
    scene = random_scene(seed=11, count=64, sh_degree=0)
    view = torch.eye(4)
    view[3, 2] = 3.0
    projection = torch.linalg.inv(scene.settings.viewmatrix) @ scene.settings.projmatrix
    scene = scene.with_settings(viewmatrix=view, projmatrix=view @ projection)
    parts = api_parts(scene)
    with torch.no_grad():
        parts["means3D"][:, 2] = 0.0
    image, _, _ = GaussianRasterizer(scene.settings)(means2D=torch.zeros_like(scene.means), **parts)
    expected, _, _ = twin_render(parts, scene)
    assert_same_picture(image, expected.image)


def test_screen_gradient_is_in_device_coordinates() -> None:
    """Times 2 / width it is the change of the loss when the Gaussian moves by one pixel."""
    scene = random_scene(seed=12, count=1, sh_degree=0)
    parts = api_parts(scene)
    with torch.no_grad():
        parts["means3D"][:] = torch.tensor([[0.3, 0.2, 1.0]])
        parts["scales"].fill_(0.15)
        parts["opacities"].fill_(0.7)
    weight = torch.linspace(-1, 1, scene.settings.image_width)
    means2D = torch.zeros_like(scene.means, requires_grad=True)
    image, _, _ = GaussianRasterizer(scene.settings)(means2D=means2D, **parts)
    ((image[0] - scene.settings.bg[0]) * weight).sum().backward()
    shifted = torch.roll(image.detach()[0] - scene.settings.bg[0], 1, dims=1)
    back = torch.roll(image.detach()[0] - scene.settings.bg[0], -1, dims=1)
    per_pixel = ((shifted - back) * weight).sum() / 2
    found = means2D.grad[0, 0] * 2 / scene.settings.image_width
    assert found == pytest.approx(float(per_pixel), rel=0.05)  # it has an edge


# ---------------------------------------------------------------------------------------------
# Interface


def test_split_harmonics_are_the_joined_ones() -> None:
    scene = random_scene(seed=13, count=100)
    joined = api_parts(scene)
    split = api_parts(scene)
    shs = split.pop("shs").detach()
    split["dc"] = shs[:, :1].clone().requires_grad_()
    split["shs"] = shs[:, 1:].clone().requires_grad_()
    rasterizer = GaussianRasterizer(scene.settings)
    images = []
    for parts in (joined, split):
        image, _, _ = rasterizer(means2D=torch.zeros_like(scene.means), **parts)
        image.square().sum().backward()
        images.append(image)
    assert torch.equal(*images)
    both = torch.cat([split["dc"].grad, split["shs"].grad], 1)
    assert torch.equal(both, joined["shs"].grad)


def test_function_form_takes_empty_tensors_for_what_is_missing() -> None:
    scene = random_scene(seed=14, count=50)
    zeros, nothing = torch.zeros_like(scene.means), torch.Tensor([])
    arguments = (
        *(scene.means, zeros, scene.shs, nothing, scene.opacities),
        *(scene.scales, scene.rotations, nothing, scene.settings),
    )
    parts = {name: part.detach() for name, part in api_parts(scene).items()}
    expected, _, _ = GaussianRasterizer(scene.settings)(means2D=zeros, **parts)
    assert torch.equal(rasterize_gaussians(*arguments)[0], expected)
    assert torch.equal(_RasterizeGaussians.apply(*arguments)[0], expected)


def test_low_level_functions() -> None:
    scene = random_scene(seed=15, count=50)
    parameters = _C.Parameters(
        *(scene.means, scene.opacities, scene.scales, scene.rotations),
        *(None, None, None, scene.shs),
    )
    rendered = _C.rasterize_gaussians(parameters, scene.settings)
    parts = api_parts(scene)
    image, _, _ = GaussianRasterizer(scene.settings)(means2D=torch.zeros_like(scene.means), **parts)
    assert torch.equal(rendered.color, image)
    gradients = _C.rasterize_gaussians_backward(
        parameters, rendered.frame, torch.ones_like(image), None
    )
    image.sum().backward()
    assert torch.equal(gradients.means, parts["means3D"].grad)
    assert torch.equal(gradients.rest, parts["shs"].grad)


FIELDS_OF_2023 = 12


def test_two_values_for_settings_of_2023(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAST3DGS_RASTERIZER_RETURNS", raising=False)
    scene = random_scene(seed=16, count=20)
    parts, means2D = api_parts(scene), torch.zeros_like(scene.means)
    settings = GaussianRasterizationSettings(*scene.settings[:FIELDS_OF_2023])
    image, radii = GaussianRasterizer(settings)(means2D=means2D, **parts)
    assert radii.dtype == torch.int32
    image.sum().backward()
    assert parts["means3D"].grad.any()
    same, _, depth = GaussianRasterizer(scene.settings)(means2D=means2D, **parts)
    assert torch.equal(same, image) and depth.shape == (1, 50, 70)


def test_the_environment_overrides_the_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(seed=16, count=20)
    given = {"means2D": torch.zeros_like(scene.means), **api_parts(scene)}
    earlier = GaussianRasterizationSettings(*scene.settings[:FIELDS_OF_2023])
    for value in ("2", "3"):
        monkeypatch.setenv("FAST3DGS_RASTERIZER_RETURNS", value)
        for settings in (earlier, scene.settings):
            assert len(GaussianRasterizer(settings)(**given)) == int(value)
    monkeypatch.setenv("FAST3DGS_RASTERIZER_RETURNS", "4")
    with pytest.raises(ValueError, match="FAST3DGS_RASTERIZER_RETURNS must be 2 or 3, not '4'"):
        GaussianRasterizer(scene.settings)(**given)


@pytest.mark.parametrize("covariances", [False, True])
def test_the_visible_filter_gives_the_radii(covariances: bool) -> None:
    scene = random_scene(seed=19, count=200).with_settings(scale_modifier=0.7)
    parts = api_parts(scene, covariances=covariances)
    rasterizer = GaussianRasterizer(scene.settings)
    _, radii, _ = rasterizer(means2D=torch.zeros_like(scene.means), **parts)
    names = ("means3D", "scales", "rotations", "cov3D_precomp")
    found = rasterizer.visible_filter(**{name: parts[name] for name in names if name in parts})
    assert found.dtype == torch.int32 and torch.equal(found, radii)
    assert 0 < (found > 0).sum() < 200


def test_the_visible_filter_needs_one_shape_for_each() -> None:
    scene = random_scene(seed=19, count=5)
    rasterizer = GaussianRasterizer(scene.settings)
    with pytest.raises(Exception, match="exactly one of either a scale and rotation pair"):
        rasterizer.visible_filter(scene.means, scene.scales)
    with pytest.raises(ValueError, match=r"scales must have the shape \(5, 3\), not \(4, 3\)"):
        rasterizer.visible_filter(scene.means, scene.scales[:4], scene.rotations)
    nothing = rasterizer.visible_filter(scene.means[:0], scene.scales[:0], scene.rotations[:0])
    assert nothing.shape == (0,)


def test_mark_visible() -> None:
    scene = random_scene(seed=17, count=100)
    positions = torch.cat([scene.means, torch.ones_like(scene.means[:, :1])], 1)
    depth = (positions @ scene.settings.viewmatrix)[:, 2]
    visible = GaussianRasterizer(scene.settings).markVisible(scene.means)
    assert torch.equal(visible, depth > 0.2)
    assert 0 < visible.sum() < len(visible)


def test_gradient_of_the_inverse_depth_alone() -> None:
    scene = random_scene(seed=18, count=100, sh_degree=0)
    parts = api_parts(scene)
    _, _, depth = GaussianRasterizer(scene.settings)(means2D=torch.zeros_like(scene.means), **parts)
    depth.square().sum().backward()
    expected, leaves, _ = twin_render(parts, scene)
    expected.inverse_depth.square().sum().backward()
    assert_close(parts["means3D"].grad, leaves["means3D"].grad, "means3D")
    assert not parts["shs"].grad.any()


def test_backward_may_run_twice_and_frames_do_not_mix() -> None:
    scenes = [random_scene(seed=seed, count=80) for seed in (19, 20)]
    parts = [api_parts(scene) for scene in scenes]
    images = [
        GaussianRasterizer(scene.settings)(means2D=torch.zeros_like(scene.means), **part)[0]
        for scene, part in zip(scenes, parts, strict=True)
    ]
    first = torch.autograd.grad(images[0].sum(), parts[0]["means3D"], retain_graph=True)[0]
    torch.autograd.grad(images[1].sum(), parts[1]["means3D"])
    again = torch.autograd.grad(images[0].sum(), parts[0]["means3D"])[0]
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shs": None}, "^Please provide"),
        ({"colors_precomp": torch.zeros(5, 3)}, "^Please provide"),
        ({"scales": None}, "^Please provide"),
        ({"cov3D_precomp": torch.zeros(5, 6)}, "^Please provide"),
        ({"scales": None, "rotations": None}, "^Please provide"),
        ({"means3D": torch.zeros(5, 4)}, r"means3D must have the shape \(5, 3\), not \(5, 4\)"),
        ({"opacities": torch.zeros(4, 1)}, r"opacities must have the shape \(5, 1\)"),
        ({"rotations": torch.zeros(5, 4).double()}, "rotations must be float32, not torch.float64"),
        ({"scales": torch.zeros(5, 3, device="meta")}, "scales must be on the CPU, not on meta"),
        ({"shs": torch.zeros(5, 9, 3)}, "shs must hold 16 coefficients for sh_degree 3, not 9"),
    ],
)
def test_unusable_arguments_are_named(change: dict[str, Tensor | None], message: str) -> None:
    scene = random_scene(seed=21, count=5)
    parts = {**api_parts(scene), **change}
    with pytest.raises(Exception, match=message):
        GaussianRasterizer(scene.settings)(means2D=torch.zeros(5, 3), **parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_width": 0}, "image_width must be between 1 and 65536, not 0"),
        ({"image_height": 1 << 20}, "image_height must be between 1 and 65536"),
        ({"sh_degree": 4}, "sh_degree must be between 0 and 3, not 4"),
        ({"bg": torch.zeros(4)}, "bg must hold 3 numbers, not 4"),
    ],
)
def test_unusable_settings_are_named(change: dict[str, object], message: str) -> None:
    scene = random_scene(seed=21, count=5).with_settings(**change)
    parts = api_parts(scene, colors=True)
    with pytest.raises(ValueError, match=message):
        GaussianRasterizer(scene.settings)(means2D=torch.zeros(5, 3), **parts)


def test_supported_devices() -> None:
    assert supported_devices == ("cpu",)
