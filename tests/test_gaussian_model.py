# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_datasets import make_blender

from arguments import OptimizationOptions
from scene.gaussian_model import GaussianModel
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.graphics_utils import BasicPointCloud
from utils.system_utils import searchForMaxIteration

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def random_splats(count: int = 20, degree: int = 3, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(count, *shape)).astype(np.float32)

    return Splats(
        xyz=normal(3),
        features_dc=normal(1, 3),
        features_rest=normal((degree + 1) ** 2 - 1, 3),
        opacity=normal(1),
        scaling=normal(3) - 3,
        rotation=normal(4),
    )


def trained_model(count: int = 20, **options: object) -> GaussianModel:
    model = GaussianModel.from_splats(random_splats(count), CPU)
    model.spatial_lr_scale = 2.0
    model.training_setup(OptimizationOptions(**options))
    return model


def step_once(model: GaussianModel) -> None:
    sum((tensor**2).sum() for tensor in model.raw_parameters()).backward()
    model.trained_by.step()
    model.trained_by.zero_grad(set_to_none=True)


def rates(model: GaussianModel) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in model.trained_by.param_groups}


def test_effective_values_follow_the_stored_ones() -> None:
    splats = random_splats()
    model = GaussianModel.from_splats(splats, CPU)
    torch.testing.assert_close(model.get_scaling, torch.tensor(np.exp(splats.scaling)))
    torch.testing.assert_close(model.get_opacity, torch.tensor(1 / (1 + np.exp(-splats.opacity))))
    torch.testing.assert_close(model.get_rotation.norm(dim=1), torch.ones(20))
    assert model.get_features.shape == (20, 16, 3)
    assert model.active_sh_degree == 3


def test_covariance_is_the_rotated_squared_scaling() -> None:
    model = GaussianModel.from_splats(random_splats(1), CPU)
    half = 0.5**0.5
    with torch.no_grad():
        model._scaling[0] = torch.tensor([1.0, 2.0, 3.0]).log()
        model._rotation[0] = torch.tensor([half, 0, 0, half]) * 7  # 90 degrees about z
    covariance = model.get_covariance(2.0)[0]
    expected = 4 * torch.tensor([4.0, 0, 0, 1.0, 0, 9.0])
    torch.testing.assert_close(covariance, expected, atol=1e-5, rtol=1e-5)


def test_cloud_becomes_isotropic_gaussians_sized_by_their_neighbours() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    cloud = BasicPointCloud(points, np.full((4, 3), 0.75), np.zeros((4, 3)))
    model = GaussianModel(2, device=CPU)
    model.create_from_pcd(cloud, [], 3.5)
    assert model.spatial_lr_scale == 3.5
    assert model.active_sh_degree == 0
    assert model._features_rest.shape == (4, 8, 3)
    torch.testing.assert_close(model.get_scaling[0], torch.ones(3))
    torch.testing.assert_close(model.get_scaling[1], torch.full((3,), (5 / 3) ** 0.5))
    torch.testing.assert_close(model.get_opacity, torch.full((4, 1), 0.1))
    torch.testing.assert_close(
        model.get_features_dc * 0.28209479 + 0.5, torch.full((4, 1, 3), 0.75)
    )
    assert (model._rotation == torch.tensor([1.0, 0, 0, 0])).all()


def test_cloud_with_the_2023_arguments() -> None:
    points = np.random.default_rng(0).normal(size=(9, 3))
    model = GaussianModel(0, device=CPU)
    model.create_from_pcd(BasicPointCloud(points, points * 0, points * 0), np.float64(1.5))
    assert model.spatial_lr_scale == 1.5
    model.training_setup(OptimizationOptions())
    with torch.no_grad():
        model._xyz += 1
    np.testing.assert_array_equal(points, np.random.default_rng(0).normal(size=(9, 3)))


def test_coinciding_points_have_a_finite_size() -> None:
    model = GaussianModel(0, device=CPU)
    zeros = np.zeros((5, 3))
    model.create_from_pcd(BasicPointCloud(zeros, zeros, zeros), 1.0)
    torch.testing.assert_close(model.get_scaling, torch.full((5, 3), 1e-7**0.5))


def test_too_small_a_cloud_is_refused() -> None:
    zeros = np.zeros((3, 3))
    with pytest.raises(InputError, match="at least 4 points"):
        GaussianModel(0, device=CPU).create_from_pcd(BasicPointCloud(zeros, zeros, zeros), 1.0)


@pytest.mark.parametrize("degree", range(4))
def test_ply_round_trip_is_exact(degree: int, tmp_path) -> None:
    path = tmp_path / "point_cloud" / "iteration_7" / "point_cloud.ply"
    model = GaussianModel.from_splats(random_splats(degree=degree), CPU)
    model.save_ply(path)
    again = GaussianModel(degree, device=CPU)
    again.load_ply(path)
    for saved, loaded in zip(model.raw_parameters(), again.raw_parameters(), strict=True):
        assert torch.equal(saved, loaded)
    assert again.active_sh_degree == degree
    header = path.read_bytes().split(b"end_header")[0].decode()
    names = [line.split()[-1] for line in header.splitlines() if line.startswith("property")]
    assert names == again.construct_list_of_attributes()


def test_ply_of_another_degree_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "two.ply"
    GaussianModel.from_splats(random_splats(degree=2), CPU).save_ply(path)
    with pytest.raises(InputError, match=r"two\.ply.*degree 3.*degree 2"):
        GaussianModel(3, device=CPU).load_ply(path)


def test_splats_taken_out_do_not_follow_training() -> None:
    model = trained_model()
    before = model.to_splats()
    step_once(model)
    assert not np.array_equal(before.xyz, model.to_splats().xyz)
    np.testing.assert_array_equal(before.xyz, random_splats().xyz)


def test_groups_have_the_published_names_and_rates() -> None:
    model = trained_model()
    assert rates(model) == pytest.approx(
        {
            "xyz": 0.00032,
            "f_dc": 0.0025,
            "f_rest": 0.000125,
            "opacity": 0.025,
            "scaling": 0.005,
            "rotation": 0.001,
        }
    )
    assert [group["eps"] for group in model.trained_by.param_groups] == [1e-15] * 6


@pytest.mark.parametrize(
    ("iteration", "expected"), [(0, 3.2e-4), (15_000, 3.2e-5), (30_000, 3.2e-6), (40_000, 3.2e-6)]
)
def test_position_rate_falls_log_linearly_without_delay(iteration: int, expected: float) -> None:
    model = trained_model()
    assert model.update_learning_rate(iteration) == pytest.approx(expected)
    assert rates(model)["xyz"] == pytest.approx(expected)
    assert rates(model)["opacity"] == 0.025


def test_first_step_moves_each_value_by_its_rate() -> None:
    model = trained_model()
    before = model.raw_parameters().map(torch.clone)
    step_once(model)
    for old, new, rate in zip(before, model.raw_parameters(), rates(model).values(), strict=True):
        torch.testing.assert_close((new - old).abs(), torch.full_like(old, rate), rtol=1e-2, atol=0)


def test_degree_rises_to_the_models() -> None:
    model = GaussianModel(1, device=CPU)
    degrees = []
    for _ in range(3):
        model.oneupSHdegree()
        degrees.append(model.active_sh_degree)
    assert degrees == [1, 1, 1]


def test_points_can_be_pruned_outside_densification() -> None:
    model = trained_model()
    step_once(model)
    moments = model.trained_by.state[model._opacity]["exp_avg"].clone()
    mask = torch.arange(20) % 4 == 0
    kept = model._xyz[~mask].detach().clone()
    model.prune_points(mask)
    assert torch.equal(model._xyz, kept)
    assert torch.equal(model.trained_by.state[model._opacity]["exp_avg"], moments[~mask])
    assert model.denom.shape == (15, 1)
    assert model.max_radii2D.shape == (15,)
    step_once(model)


def test_points_can_be_pruned_without_an_optimizer() -> None:
    model = GaussianModel.from_splats(random_splats(), CPU)
    model.prune_points(torch.arange(20) < 5)
    np.testing.assert_array_equal(model.to_splats().rotation, random_splats().rotation[5:])


def test_a_model_pruned_to_nothing_can_still_be_stepped_and_saved(tmp_path) -> None:
    model = trained_model()
    step_once(model)
    model.prune_points(torch.ones(20, dtype=torch.bool))
    step_once(model)
    model.save_ply(tmp_path / "empty.ply")
    again = GaussianModel(3, device=CPU)
    again.load_ply(tmp_path / "empty.ply")
    assert again.get_xyz.shape == (0, 3)


@pytest.mark.parametrize("stepped", [False, True])
def test_opacity_reset_limits_opacities_and_clears_moments(stepped: bool) -> None:
    model = trained_model()
    with torch.no_grad():
        model._opacity[:5] = -9.0
    if stepped:
        step_once(model)
    before = model.get_opacity.detach().clone()
    model.reset_opacity()
    torch.testing.assert_close(model.get_opacity, before.clamp_max(0.01))
    state = model.trained_by.state.get(model._opacity, {})
    assert all((state[name] == 0).all() for name in ("exp_avg", "exp_avg_sq") if name in state)
    assert bool(state) == stepped


def test_a_restored_model_continues_like_the_captured_one() -> None:
    options = OptimizationOptions()
    model = trained_model()
    step_once(model)
    model.denom += 3
    copy = GaussianModel(3, device=CPU)
    values = model.capture()
    assert len(values) == 12
    copy.restore(deepcopy(values), options)
    assert copy.spatial_lr_scale == 2.0
    assert (copy.denom == 3).all()
    for each in (model, copy):
        step_once(each)
    for one, other in zip(model.raw_parameters(), copy.raw_parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoint_of_another_degree_is_refused() -> None:
    with pytest.raises(InputError, match="degree 1, got 3"):
        GaussianModel(1, device=CPU).restore(trained_model().capture(), OptimizationOptions())


def test_training_methods_before_setup_name_what_is_missing() -> None:
    model = GaussianModel.from_splats(random_splats(), CPU)
    with pytest.raises(InputError, match="training_setup"):
        model.reset_opacity()


def test_unknown_optimizer_is_refused() -> None:
    model = GaussianModel.from_splats(random_splats(), CPU)
    model.optimizer_type = "sgd"
    with pytest.raises(InputError, match="'sgd'"):
        model.training_setup(OptimizationOptions())


def test_sparse_adam_without_the_accelerated_rasteriser_is_refused(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", SimpleNamespace())
    model = GaussianModel.from_splats(random_splats(), CPU)
    model.optimizer_type = "sparse_adam"
    with pytest.raises(InputError, match="SparseGaussianAdam"):
        model.training_setup(OptimizationOptions())


ALL_OPTIMIZERS = """
import sys
import torch
from arguments import OptimizationOptions
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.array_operations import TorchOperations
from scene.gaussian_model import GaussianModel
from scene.optimizer import take_step
from tests.test_grid_codec import random_splats

for operations, kind in (
    (TorchOperations(), "default"),
    (backend_for(torch.device("cpu"), RenderOptions()), "default"),
    (TorchOperations(), "sparse_adam"),
):
    model = GaussianModel(1, device=torch.device("cpu"), operations=operations)
    model.load_splats(random_splats(9, 1))
    model.optimizer_type = kind
    model._set_images(["a.png"])
    model.training_setup(OptimizationOptions())
    for tensor in (*model.raw_parameters(), model._exposure):
        tensor.grad = torch.ones_like(tensor)
    before = model._opacity.detach().clone()
    model.update_learning_rate(1)
    take_step(model.trained_by, kind, torch.ones(9, dtype=torch.int32))
    model.step_exposures()
    assert not torch.equal(model._opacity, before)
    again = GaussianModel(1, device=torch.device("cpu"), operations=operations)
    again.optimizer_type = kind
    again.restore(model.capture(), OptimizationOptions())
print([name for name in sys.modules if name.startswith("torch._dynamo")])
"""


def test_no_optimizer_imports_the_compiler_of_pytorch() -> None:
    """That takes seconds."""
    command = [sys.executable, "-c", ALL_OPTIMIZERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


SAVE_AND_DIE = """
import os, sys
from pathlib import Path
from scene import GaussianModel, Scene
from arguments import ModelOptions

scene = Scene(ModelOptions(source_path=sys.argv[1], model_path=sys.argv[2]), GaussianModel(0))
Path.replace = Path.rename = lambda *names: os._exit(9)
scene.save(7)
"""


def test_an_iteration_that_a_kill_interrupts_is_not_there(tmp_path: Path) -> None:
    arguments = [str(make_blender(tmp_path / "data")), str(tmp_path / "model")]
    command = [sys.executable, "-c", SAVE_AND_DIE, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    with pytest.raises(InputError, match="found none"):
        searchForMaxIteration(tmp_path / "model" / "point_cloud")
