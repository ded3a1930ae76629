# SPDX-License-Identifier: Apache-2.0
"""Cameras with a photo, and cameras without one, as the network viewer sends them.

Matrices are stored transposed, for row vectors: a point p is mapped to `[p 1] @ M`.
"""

import copy
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from scene.depth_maps import scaled_depth_map
from utils.errors import InputError
from utils.graphics_utils import getProjectionMatrix, getWorld2View2
from utils.photos import planar_u8


class Camera(nn.Module):
    """A photo and the pinhole camera that took it.

    The photo is kept as `image_u8`, uint8 (3, H, W): a quarter of the memory of floats.
    `mask_u8` (1, H, W), 1 where a pixel counts, is None where all do. `opacity_u8` (1, H, W) is
    0 where the photo is transparent, and None for an opaque photo. `invdepthmap` (1, H, W), inverse
    depths in inverse world units, is None without a map; `depth_mask` (1, H, W) is 1 where it
    counts, which is nowhere if it is not `depth_reliable`.

    `exposure` (3, 4), if set, changes the colours of renders before they are compared with the
    photo (scene.exposure). Scores count the columns from `scored_from` on: with `train_test_exp`
    the right half, on which no exposure is fitted.
    """

    exposure: Tensor | None
    mask_u8: Tensor | None
    opacity_u8: Tensor | None
    invdepthmap: Tensor | None
    depth_mask: Tensor | None

    def __init__(
        self,
        resolution: tuple[int, int],
        colmap_id: int,
        R: npt.NDArray,
        T: npt.NDArray,
        FoVx: float,
        FoVy: float,
        depth_params: Mapping[str, float] | None,
        image: Image.Image | None,
        invdepthmap: npt.NDArray | None,
        image_name: str,
        uid: int,
        trans: npt.NDArray | tuple[float, float, float] = (0.0, 0.0, 0.0),
        scale: float = 1.0,
        data_device: str | torch.device = "cpu",
        train_test_exp: bool = False,
        is_test_dataset: bool = False,
        is_test_view: bool = False,
        *,
        image_u8: Tensor | None = None,
        opacity_u8: Tensor | None = None,
        photo_background: float = 0.0,
        principal_point: tuple[float, float] = (0.5, 0.5),
        mask_u8: Tensor | None = None,
        device: str | torch.device | None = None,
    ):
        """Takes the photo as `image_u8` (3, H, W), or as `image`, which is resized to `resolution`.

        R: (3, 3) camera-to-world rotation; T: (3,) world-to-camera translation; FoVx, FoVy in
        radians; resolution: (width, height); `principal_point` in fractions of width and height.
        `invdepthmap` (H', W') is resized too, and scaled by the entries scale and offset of
        `depth_params` if they are given. `photo_background`, 0 or 1, is the colour under the
        transparent parts of `image_u8`. `device` holds the matrices, `data_device` the pixels.
        """
        super().__init__()
        if image_u8 is None:
            if image is None:
                raise InputError(f"camera {image_name}: expected a photo, got none")
            image_u8 = planar_u8(image, resolution)
        self.uid = uid
        self.colmap_id = colmap_id
        self.R = R
        self.T = T
        self.FoVx = FoVx
        self.FoVy = FoVy
        self.image_name = image_name
        self.data_device = torch.device(data_device)
        self.image_u8 = image_u8.to(self.data_device)
        self.opacity_u8 = None if opacity_u8 is None else opacity_u8.to(self.data_device)
        self.photo_background = photo_background
        self.image_height, self.image_width = image_u8.shape[1:]
        self.zfar = 100.0
        self.znear = 0.01
        self.trans = np.asarray(trans, np.float64)
        self.scale = scale
        self.principal_point = principal_point
        self.mask_u8 = None if mask_u8 is None else mask_u8.to(self.data_device)
        self.exposure = None
        self.is_test_view = is_test_view
        self.scored_from = self.image_width // 2 if train_test_exp else 0
        self._trained_half: slice | None = None
        if train_test_exp and is_test_view:
            middle = self.image_width // 2
            self._trained_half = slice(middle, None) if is_test_dataset else slice(0, middle)
        self._set_depths(invdepthmap, depth_params)
        self._set_matrices(self.data_device if device is None else torch.device(device))

    @property
    def original_image(self) -> Tensor:
        """(3, H, W) float32 photo in 0..1 on `data_device`, computed at each access."""
        return self.image_u8.to(torch.float32) / 255.0

    @property
    def alpha_mask(self) -> Tensor | None:
        """(1, H, W) float32, 1 where a pixel counts in the loss; None where all do.

        With `train_test_exp` a test view counts half: the left one where it trains, else the right.
        """
        if self._trained_half is None:
            return None if self.mask_u8 is None else self.mask_u8.to(torch.float32)
        half = torch.zeros((1, self.image_height, self.image_width), device=self.data_device)
        half[..., self._trained_half] = 1.0
        return half if self.mask_u8 is None else half * self.mask_u8

    @property
    def is_masked(self) -> bool:
        """Whether some pixels do not count in the loss."""
        return self.mask_u8 is not None or self._trained_half is not None

    def counted(self, image: Tensor) -> Tensor:
        """`image` (C, H, W), black where the photo's mask excludes pixels."""
        return image if self.mask_u8 is None else image * self.mask_u8.to(image.device)

    def over(self, background: Tensor) -> "Camera":
        """This camera, its photo's transparent parts over `background` (3,) RGB in 0..1."""
        if self.opacity_u8 is None:
            return self
        transparency = 1.0 - self.opacity_u8 / 255.0
        shift = background.to(self.data_device).view(3, 1, 1) - self.photo_background
        image = self.image_u8 + 255.0 * transparency * shift
        camera = copy.copy(self)
        camera.image_u8 = image.round().clamp(0, 255).to(torch.uint8)
        return camera

    def _set_depths(self, depths: npt.NDArray | None, params: Mapping[str, float] | None) -> None:
        self.invdepthmap = self.depth_mask = None
        self.depth_reliable = False
        if depths is None:
            return
        size = self.image_width, self.image_height
        scaled, self.depth_reliable = scaled_depth_map(depths, size, params)
        self.invdepthmap = scaled.to(self.data_device)
        mask = self.alpha_mask
        counts = torch.ones_like(self.invdepthmap) if mask is None else mask
        self.depth_mask = counts if self.depth_reliable else torch.zeros_like(counts)

    def _set_matrices(self, device: torch.device) -> None:
        world_to_camera = torch.from_numpy(getWorld2View2(self.R, self.T, self.trans, self.scale))
        projection = getProjectionMatrix(
            self.znear, self.zfar, self.FoVx, self.FoVy, self.principal_point
        )
        view = world_to_camera.T.contiguous()
        self.world_view_transform = view.to(device)
        self.projection_matrix = projection.T.contiguous().to(device)
        self.full_proj_transform = (view @ projection.T).to(device)
        self.camera_center = view.inverse()[3, :3].contiguous().to(device)


class MiniCam:
    """A camera without a photo, as the network viewer describes it. Matrices for row vectors."""

    def __init__(
        self,
        width: int,
        height: int,
        fovy: float,
        fovx: float,
        znear: float,
        zfar: float,
        world_view_transform: Tensor,
        full_proj_transform: Tensor,
    ):
        self.image_width = width
        self.image_height = height
        self.FoVy = fovy
        self.FoVx = fovx
        self.znear = znear
        self.zfar = zfar
        self.world_view_transform = world_view_transform
        self.full_proj_transform = full_proj_transform
        self.camera_center: Tensor = torch.inverse(world_view_transform)[3, :3]
