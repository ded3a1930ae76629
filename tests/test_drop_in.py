# SPDX-License-Identifier: Apache-2.0
"""What scripts of others take from Inria's code base is here under the same names.

Names, signatures and defaults; then three scripts as users write them: a camera path, a training
with a loss of its own, and a pruning on the underscored tensors.
"""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path
from random import randrange
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arguments import ModelParams, OptimizationParams, PipelineParams
from gaussian_renderer import GaussianModel, render
from scene import Scene
from scene.cameras import Camera, MiniCam
from scene.dataset_readers import CameraInfo, SceneInfo, sceneLoadTypeCallbacks
from utils.graphics_utils import getProjectionMatrix, getWorld2View2
from utils.loss_utils import l1_loss, ssim

NAMES = {
    "arguments": "ParamGroup GroupParams ModelParams PipelineParams OptimizationParams "
    "get_combined_args",
    "scene": "Scene GaussianModel",
    "scene.gaussian_model": "GaussianModel",
    "scene.cameras": "Camera MiniCam",
    "scene.dataset_readers": "CameraInfo SceneInfo getNerfppNorm readColmapCameras "
    "readColmapSceneInfo readCamerasFromTransforms readNerfSyntheticInfo fetchPly storePly "
    "sceneLoadTypeCallbacks",
    "scene.colmap_loader": "qvec2rotmat rotmat2qvec read_points3D_text read_points3D_binary "
    "read_intrinsics_text read_intrinsics_binary read_extrinsics_text read_extrinsics_binary",
    "gaussian_renderer": "render GaussianModel",
    "gaussian_renderer.network_gui": "init try_connect receive read send conn",
    "utils.camera_utils": "loadCam cameraList_from_camInfos camera_to_JSON",
    "utils.general_utils": "inverse_sigmoid PILtoTorch get_expon_lr_func strip_lowerdiag "
    "strip_symmetric build_rotation build_scaling_rotation safe_state",
    "utils.graphics_utils": "BasicPointCloud geom_transform_points getWorld2View getWorld2View2 "
    "getProjectionMatrix fov2focal focal2fov",
    "utils.image_utils": "mse psnr",
    "utils.loss_utils": "l1_loss l2_loss ssim",
    "utils.sh_utils": "eval_sh RGB2SH SH2RGB",
    "utils.system_utils": "mkdir_p searchForMaxIteration",
    "lpipsPyTorch": "lpips",
    "lpipsPyTorch.modules.lpips": "LPIPS",
    "diff_gaussian_rasterization": "GaussianRasterizationSettings GaussianRasterizer",
    "simple_knn._C": "distCUDA2",
    "fused_ssim": "fused_ssim",
}
MODEL_METHODS = (
    "get_exposure_from_name get_covariance oneupSHdegree setup_functions capture restore "
    "create_from_pcd training_setup update_learning_rate construct_list_of_attributes save_ply "
    "load_ply reset_opacity replace_tensor_to_optimizer _prune_optimizer prune_points "
    "cat_tensors_to_optimizer densification_postfix densify_and_split densify_and_clone "
    "densify_and_prune add_densification_stats"
)
MODEL_VALUES = (
    "active_sh_degree max_sh_degree optimizer_type _xyz _features_dc _features_rest _scaling "
    "_rotation _opacity max_radii2D xyz_gradient_accum denom optimizer percent_dense "
    "spatial_lr_scale _exposure exposure_mapping pretrained_exposures exposure_optimizer "
    "scaling_activation scaling_inverse_activation covariance_activation opacity_activation "
    "inverse_opacity_activation rotation_activation get_scaling get_rotation get_xyz get_features "
    "get_features_dc get_features_rest get_opacity get_exposure"
)
CAMERA_VALUES = (
    "uid colmap_id R T FoVx FoVy image_name data_device original_image image_width image_height "
    "alpha_mask invdepthmap depth_mask depth_reliable zfar znear trans scale world_view_transform "
    "projection_matrix full_proj_transform camera_center"
)
TRAINING_DEFAULTS = {
    "iterations": 30_000, "position_lr_init": 0.00016, "position_lr_final": 0.0000016,
    "position_lr_delay_mult": 0.01, "position_lr_max_steps": 30_000, "feature_lr": 0.0025,
    "opacity_lr": 0.025, "scaling_lr": 0.005, "rotation_lr": 0.001, "depth_l1_weight_init": 1.0,
    "depth_l1_weight_final": 0.01, "random_background": False, "exposure_lr_init": 0.01,
    "exposure_lr_final": 0.001, "exposure_lr_delay_steps": 0, "exposure_lr_delay_mult": 0.0,
    "percent_dense": 0.01, "lambda_dssim": 0.2, "densification_interval": 100,
    "opacity_reset_interval": 3000, "densify_from_iter": 500, "densify_until_iter": 15_000,
    "densify_grad_threshold": 0.0002, "optimizer_type": "default",
}  # fmt: skip
PIPE = SimpleNamespace(debug=False, compute_cov3D_python=False, convert_SHs_python=False)


def groups(*words: object) -> tuple:
    """The three option groups of a training script, for these words."""
    parser = ArgumentParser()
    model, optimization, pipeline = (
        group(parser) for group in (ModelParams, OptimizationParams, PipelineParams)
    )
    args = parser.parse_args(list(map(str, words)))
    return model.extract(args), optimization.extract(args), pipeline.extract(args)


@pytest.fixture(scope="module")
def scene(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("model")
    options, optimization, _ = groups("-s", small_scene, "-m", folder, "--eval")
    gaussians = GaussianModel(options.sh_degree)
    scene = Scene(options, gaussians)
    gaussians.training_setup(optimization)
    return scene


@pytest.mark.parametrize("module", NAMES)
def test_names_of_a_module(module: str) -> None:
    found = import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_members_of_a_model_and_a_camera(scene: Scene) -> None:
    model = scene.gaussians
    assert [name for name in MODEL_METHODS.split() if not callable(getattr(model, name))] == []
    assert [name for name in MODEL_VALUES.split() if not hasattr(model, name)] == []
    camera = scene.getTrainCameras()[0]
    assert isinstance(camera, Camera)
    assert [name for name in CAMERA_VALUES.split() if not hasattr(camera, name)] == []
    assert model.get_exposure.shape == (len(scene.getTrainCameras()), 3, 4)
    assert set(sceneLoadTypeCallbacks) == {"Colmap", "Blender"}


def test_positions_of_arguments() -> None:
    def names(function: object, count: int) -> list[str]:
        return list(inspect.signature(function).parameters)[:count]  # type: ignore[arg-type]

    assert names(render, 8) == [
        *("viewpoint_camera", "pc", "pipe", "bg_color", "scaling_modifier", "separate_sh"),
        *("override_color", "use_trained_exp"),
    ]
    assert names(Scene, 5) == [
        "args",
        "gaussians",
        "load_iteration",
        "shuffle",
        "resolution_scales",
    ]
    assert names(GaussianModel, 2) == ["sh_degree", "optimizer_type"]
    assert names(MiniCam, 8) == [
        *("width", "height", "fovy", "fovx", "znear", "zfar"),
        *("world_view_transform", "full_proj_transform"),
    ]
    assert CameraInfo._fields[:12] == (
        *("uid", "R", "T", "FovY", "FovX", "depth_params", "image_path", "image_name"),
        *("depth_path", "width", "height", "is_test"),
    )
    assert SceneInfo._fields[:6] == (
        *("point_cloud", "train_cameras", "test_cameras", "nerf_normalization", "ply_path"),
        "is_nerf_synthetic",
    )


def test_defaults_and_short_names() -> None:
    model, optimization, pipeline = groups()
    found = {name: getattr(optimization, name) for name in TRAINING_DEFAULTS}
    assert found == TRAINING_DEFAULTS
    assert (model.sh_degree, model.images, model.resolution, model.depths) == (3, "images", -1, "")
    assert not (model.white_background or model.eval or model.train_test_exp or pipeline.debug)
    short, _, _ = groups("-s", "a", "-m", "b", "-i", "c", "-d", "e", "-r", "4", "-w")
    assert (short.source_path, short.images) == (str(Path("a").resolve()), "c")
    assert (short.model_path, short.depths, short.resolution) == ("b", "e", 4)
    assert short.white_background


def test_a_camera_path(scene: Scene) -> None:
    first, last = scene.getTrainCameras()[0], scene.getTrainCameras()[3]
    frames = []
    for part in np.linspace(0, 1, 3):
        view = torch.tensor(getWorld2View2(first.R, (1 - part) * first.T + part * last.T)).T
        projection = getProjectionMatrix(0.01, 100.0, first.FoVx, first.FoVy).T
        camera = MiniCam(40, 30, first.FoVy, first.FoVx, 0.01, 100.0, view, view @ projection)
        with torch.no_grad():
            frames.append(render(camera, scene.gaussians, PIPE, torch.zeros(3))["render"])
    assert all(frame.shape == (3, 30, 40) and 0 < frame.mean() < 1 for frame in frames)
    assert not torch.equal(frames[0], frames[2])


def test_a_training_with_a_loss_of_its_own(scene: Scene) -> None:
    gaussians, background, losses = scene.gaussians, torch.zeros(3), []
    stack = None
    for iteration in range(1, 8 * len(scene.getTrainCameras()) + 1):
        gaussians.update_learning_rate(iteration)
        stack = stack or scene.getTrainCameras().copy()
        camera = stack.pop(randrange(len(stack)))
        package = render(camera, gaussians, PIPE, background)
        image, truth = package["render"], camera.original_image
        loss = 0.9 * l1_loss(image, truth) + 0.1 * (1 - ssim(image, truth))
        loss = loss + 0.001 * gaussians.get_opacity.mean()
        loss.backward()
        with torch.no_grad():
            losses.append(loss.item())
            seen, radii = package["visibility_filter"], package["radii"]
            gaussians.max_radii2D[seen] = torch.max(gaussians.max_radii2D[seen], radii[seen])
            gaussians.add_densification_stats(package["viewspace_points"], seen)
            gaussians.optimizer.step()
            gaussians.optimizer.zero_grad(set_to_none=True)
    one_pass = len(scene.getTrainCameras())
    assert np.mean(losses[-one_pass:]) < 0.8 * np.mean(losses[:one_pass])
    assert gaussians.denom.max() > 0


def test_a_pruning_on_the_underscored_tensors(scene: Scene, tmp_path: Path) -> None:
    scene.gaussians.save_ply(str(tmp_path / "a" / "point_cloud.ply"))
    model = GaussianModel(3)
    model.load_ply(str(tmp_path / "a" / "point_cloud.ply"))
    size = torch.exp(model._scaling).amax(dim=1)
    kept = size <= size.median()
    for name in ("_xyz", "_features_dc", "_features_rest", "_opacity", "_scaling", "_rotation"):
        setattr(model, name, torch.nn.Parameter(getattr(model, name).detach()[kept]))
    model.save_ply(str(tmp_path / "b.ply"))
    pruned = GaussianModel(3)
    pruned.load_ply(str(tmp_path / "b.ply"))
    assert 0 < pruned.get_xyz.shape[0] == int(kept.sum()) < len(kept)
    assert torch.equal(pruned._xyz, model._xyz)
    with torch.no_grad():
        shown = render(scene.getTestCameras()[0], pruned, PIPE, torch.zeros(3))
    assert (shown["radii"] > 0).any()
