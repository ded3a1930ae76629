# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor

from arguments import OptimizationOptions
from scene.gaussian_model import GaussianModel
from splat_formats.splats import Splats

EXTENT = 10.0  # with percent_dense 0.01, up to 0.1 is small
SMALL, LARGE, HUGE = 0.05, 0.5, 2.0
THRESHOLD = 0.0002


def model_of(sizes: list[float], opacities: list[float] | None = None) -> GaussianModel:
    """One Gaussian per size, at x = its index, its own colour, with moments in the optimiser."""
    count = len(sizes)
    opacity = np.array(opacities or [0.5] * count)
    index = np.arange(count, dtype=np.float32)
    splats = Splats(
        xyz=np.stack([index, 0 * index, 0 * index], axis=1),
        features_dc=index.repeat(3).reshape(count, 1, 3),
        features_rest=np.zeros((count, 3, 3), np.float32),
        opacity=np.log(opacity / (1 - opacity)).astype(np.float32).reshape(count, 1),
        scaling=np.log(np.array(sizes, np.float32)).repeat(3).reshape(count, 3),
        rotation=np.tile(np.array([[1, 0, 0, 0]], np.float32), (count, 1)),
    )
    model = GaussianModel.from_splats(splats, "cpu")
    model.spatial_lr_scale = 1.0
    options = OptimizationOptions()
    model.training_setup(options)
    for group in model.trained_by.param_groups:
        group["lr"] = 0.0
    sum(tensor.sum() for tensor in model.raw_parameters()).backward()
    model.trained_by.step()
    model.trained_by.zero_grad()
    return model


def give_gradients(model: GaussianModel, values: list[float], visits: int = 4) -> None:
    model.xyz_gradient_accum = visits * torch.tensor(values).unsqueeze(1)
    model.denom = torch.full((len(values), 1), float(visits))


def moments(model: GaussianModel) -> Tensor:
    return model.trained_by.state[model._xyz]["exp_avg"]


def densify(model: GaussianModel, max_screen_size: float | None = None) -> None:
    model.densify_and_prune(THRESHOLD, 0.005, EXTENT, max_screen_size)


def test_small_gaussians_with_a_large_gradient_are_copied() -> None:
    model = model_of([SMALL, SMALL, SMALL])
    give_gradients(model, [0.0, THRESHOLD, 0.0001])
    densify(model)
    assert model._xyz[:, 0].tolist() == [0, 1, 2, 1]
    assert torch.equal(model._opacity[3], model._opacity[1])
    assert torch.equal(model._scaling[3], model._scaling[1])
    assert (moments(model)[:3] != 0).all()
    assert (moments(model)[3:] == 0).all()


def test_large_gaussians_with_a_large_gradient_are_split_in_two_smaller_ones() -> None:
    torch.manual_seed(0)
    model = model_of([LARGE, LARGE, SMALL])
    give_gradients(model, [0.001, 0.0, 0.0])
    densify(model)
    assert model._features_dc[:, 0, 0].tolist() == [1, 2, 0, 0]
    torch.testing.assert_close(model.get_scaling[2:], torch.full((2, 3), LARGE / 1.6))
    assert (model._xyz[2:].abs() < 5 * LARGE).all()
    assert not torch.equal(model._xyz[2], model._xyz[3])
    assert (moments(model)[2:] == 0).all()


def test_split_samples_follow_the_gaussians_shape_and_orientation() -> None:
    torch.manual_seed(0)
    model = model_of([LARGE] * 4000)
    half = 0.5**0.5
    with torch.no_grad():
        model._xyz.zero_()
        model._scaling[:] = torch.tensor([0.001, 2.0, 0.001]).log()
        model._rotation[:] = torch.tensor([half, 0, 0, half])  # 90 degrees about z: y becomes -x
    model.densify_and_split(torch.ones(4000, 1), THRESHOLD, EXTENT)
    deviation = model._xyz.std(dim=0)
    assert deviation[0].item() == pytest.approx(2.0, rel=0.05)
    assert deviation[1:].max().item() < 0.01


def test_size_exactly_at_the_limit_is_cloned() -> None:
    model = model_of([SMALL])
    model.percent_dense = model.get_scaling.max().item() / EXTENT
    give_gradients(model, [1.0])
    densify(model)
    assert model._xyz[:, 0].tolist() == [0, 0]


def test_fresh_clones_are_not_split_in_the_same_pass() -> None:
    model = model_of([SMALL, LARGE])
    give_gradients(model, [1.0, 1.0])
    densify(model)
    assert sorted(model._features_dc[:, 0, 0].tolist()) == [0, 0, 1, 1]


def test_gaussians_that_were_never_visible_are_not_densified() -> None:
    model = model_of([SMALL, LARGE])
    densify(model)
    assert model._xyz[:, 0].tolist() == [0, 1]


def test_faint_gaussians_are_pruned() -> None:
    model = model_of([SMALL] * 3, [0.5, 0.004, 0.006])
    densify(model)
    assert model._xyz[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize(("max_screen_size", "left"), [(None, [0, 1, 2]), (20, [0, 1])])
def test_huge_gaussians_are_pruned_only_with_a_screen_size(max_screen_size, left) -> None:
    model = model_of([SMALL, LARGE, HUGE])
    densify(model, max_screen_size)
    assert model._xyz[:, 0].tolist() == left


def test_gaussians_large_on_screen_stay_as_in_the_published_results() -> None:
    model = model_of([SMALL] * 2)
    model.max_radii2D = torch.tensor([100.0, 1.0])
    densify(model, 20)
    assert model._xyz[:, 0].tolist() == [0, 1]
    assert model.max_radii2D.tolist() == [0, 0]


def test_statistics_restart_even_where_nothing_was_added() -> None:
    model = model_of([SMALL] * 2)
    give_gradients(model, [1e-6, 1e-6])
    densify(model)
    assert model.xyz_gradient_accum.tolist() == [[0], [0]]
    assert model.denom.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    "visible", [torch.tensor([True, False, True]), torch.tensor([[0], [2]]), torch.tensor([0, 2])]
)
def test_statistics_take_masks_and_indices(visible: Tensor) -> None:
    model = model_of([SMALL] * 3)
    points = torch.zeros(3, 3, requires_grad=True)
    points.grad = torch.tensor([[3.0, 4, 100], [1, 1, 1], [0, 2, 0]])
    for _ in range(2):
        model.add_densification_stats(points, visible)
    assert model.xyz_gradient_accum.squeeze(1).tolist() == [10, 0, 4]
    assert model.denom.squeeze(1).tolist() == [2, 0, 2]


def test_radii_are_kept_for_code_that_reads_them() -> None:
    model = model_of([SMALL, LARGE], [0.5, 0.5])
    seen: list[Tensor | None] = []
    prune = model.prune_points

    def recording_prune(mask: Tensor) -> None:
        prune(mask)
        seen.append(model.tmp_radii)

    model.prune_points = recording_prune  # type: ignore[method-assign]
    give_gradients(model, [1.0, 1.0])
    model.densify_and_prune(THRESHOLD, 0.005, EXTENT, None, torch.tensor([7, 9]))
    assert [radii.tolist() for radii in seen if radii is not None] == [[7, 7, 9, 9]] * 2
    assert model.tmp_radii is None


def test_replaced_parameters_skip_the_step_that_follows() -> None:
    model = model_of([SMALL] * 2)
    give_gradients(model, [1.0, 0.0])
    for group in model.trained_by.param_groups:
        group["lr"] = 1.0
    sum(tensor.sum() for tensor in model.raw_parameters()).backward()
    densify(model)
    before = model.raw_parameters().map(torch.clone)
    model.trained_by.step()
    for old, new in zip(before, model.raw_parameters(), strict=True):
        assert torch.equal(old, new)
