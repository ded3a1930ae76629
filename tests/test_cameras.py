# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from scene.cameras import Camera, MiniCam
from utils.errors import InputError
from utils.graphics_utils import (
    focal2fov,
    fov2focal,
    geom_transform_points,
    getProjectionMatrix,
    getWorld2View,
    getWorld2View2,
)

WIDTH, HEIGHT = 20, 12
FOV_X, FOV_Y = 0.9, 0.6
ROTATION = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix()  # camera to world
TRANSLATION = np.array([0.5, -1.0, 4.0])


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def camera(**values: object) -> Camera:
    arguments: dict[str, object] = {
        "resolution": (WIDTH, HEIGHT),
        "colmap_id": 3,
        "R": ROTATION,
        "T": TRANSLATION,
        "FoVx": FOV_X,
        "FoVy": FOV_Y,
        "depth_params": None,
        "image": photo(),
        "invdepthmap": None,
        "image_name": "a.png",
        "uid": 7,
        "data_device": "cpu",
    }
    return Camera(**{**arguments, **values})  # type: ignore[arg-type]


def test_attributes() -> None:
    view = camera()
    assert (view.uid, view.colmap_id, view.image_name) == (7, 3, "a.png")
    assert (view.image_width, view.image_height) == (WIDTH, HEIGHT)
    assert (view.FoVx, view.FoVy, view.zfar, view.znear, view.scale) == (0.9, 0.6, 100, 0.01, 1)
    assert view.data_device == torch.device("cpu")
    assert (view.alpha_mask, view.invdepthmap, view.depth_mask) == (None, None, None)
    assert not view.depth_reliable
    assert isinstance(view, torch.nn.Module)


def test_photo_is_kept_in_bytes_and_given_in_floats() -> None:
    view = camera()
    expected = torch.from_numpy(np.array(photo())).permute(2, 0, 1)
    assert view.image_u8.is_contiguous()
    assert torch.equal(view.image_u8, expected)
    assert view.original_image.dtype == torch.float32
    torch.testing.assert_close(view.original_image, expected / 255)
    assert camera(resolution=(10, 6)).image_u8.shape == (3, 6, 10)


def test_prepared_pixels_are_taken_as_they_are() -> None:
    pixels = torch.randint(0, 256, (3, 5, 4), dtype=torch.uint8)
    view = camera(image=None, image_u8=pixels)
    assert torch.equal(view.image_u8, pixels)
    assert (view.image_width, view.image_height) == (4, 5)
    with pytest.raises(InputError, match=r"a\.png: expected a photo"):
        camera(image=None)


def test_matrices_act_on_row_vectors() -> None:
    view = camera()
    point = np.array([0.3, 0.2, -0.7])
    seen = ROTATION.T @ point + TRANSLATION
    row = torch.tensor([*point, 1.0], dtype=torch.float32)
    np.testing.assert_allclose((row @ view.world_view_transform)[:3], seen, atol=1e-6)
    clip = (row @ view.full_proj_transform).numpy()
    assert clip[3] == pytest.approx(seen[2], abs=1e-6)
    np.testing.assert_allclose(
        clip[:2] / clip[3],
        [seen[0] / seen[2] / math.tan(FOV_X / 2), seen[1] / seen[2] / math.tan(FOV_Y / 2)],
        atol=1e-6,
    )
    np.testing.assert_allclose(view.camera_center, -ROTATION @ TRANSLATION, atol=1e-5)


def test_depth_runs_from_zero_to_one() -> None:
    projection = getProjectionMatrix(0.01, 100.0, FOV_X, FOV_Y)
    for z, expected in ((0.01, 0.0), (100.0, 1.0)):
        clip = projection @ torch.tensor([0.0, 0.0, z, 1.0])
        assert float(clip[2] / clip[3]) == pytest.approx(expected, abs=1e-6)


def test_moved_and_scaled_centre() -> None:
    trans, scale = np.array([1.0, 2.0, 3.0]), 2.5
    matrix = getWorld2View2(ROTATION, TRANSLATION, trans, scale)
    centre = np.linalg.inv(matrix.astype(np.float64))[:3, 3]
    expected = (-ROTATION @ TRANSLATION + trans) * scale
    np.testing.assert_allclose(centre, expected, atol=1e-5)
    np.testing.assert_allclose(
        getWorld2View2(ROTATION, TRANSLATION), getWorld2View(ROTATION, TRANSLATION), atol=1e-6
    )
    view = camera(trans=trans, scale=scale)
    np.testing.assert_allclose(view.camera_center, expected, atol=1e-5)


def test_fields_of_view_and_focal_lengths() -> None:
    assert focal2fov(fov2focal(0.8, 500), 500) == pytest.approx(0.8)
    assert fov2focal(math.pi / 2, 100) == pytest.approx(50)


def test_transformed_points_are_divided_by_w() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 2.0]))
    moved = geom_transform_points(torch.tensor([[2.0, 2.0, 2.0]]), matrix)
    torch.testing.assert_close(moved, torch.tensor([[1.0, 2.0, 3.0]]))


@pytest.mark.parametrize("is_test_dataset", [False, True])
def test_exposure_mode_trains_left_and_evaluates_right(is_test_dataset: bool) -> None:
    view = camera(train_test_exp=True, is_test_view=True, is_test_dataset=is_test_dataset)
    assert view.alpha_mask is not None
    left, right = view.alpha_mask[..., : WIDTH // 2], view.alpha_mask[..., WIDTH // 2 :]
    assert left.unique().tolist() == [float(not is_test_dataset)]
    assert right.unique().tolist() == [float(is_test_dataset)]
    assert camera(train_test_exp=True).alpha_mask is None


def test_mini_cam_has_all_attributes_that_render_needs() -> None:
    view = camera()
    mini = MiniCam(
        *(WIDTH, HEIGHT, FOV_Y, FOV_X, 0.01, 100.0),
        view.world_view_transform,
        view.full_proj_transform,
    )
    assert (mini.image_width, mini.image_height) == (WIDTH, HEIGHT)
    assert (mini.FoVx, mini.FoVy, mini.znear, mini.zfar) == (FOV_X, FOV_Y, 0.01, 100.0)
    torch.testing.assert_close(mini.camera_center, view.camera_center)
