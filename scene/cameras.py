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

from scene.photo_cache import CachedPhoto, Pixels
from utils.errors import InputError
from utils.graphics_utils import getProjectionMatrix, getWorld2View2
from utils.photos import planar_u8


class Camera(nn.Module):
    """A photo and the pinhole camera that took it.

    The photo is kept as `image_u8`, uint8 (3, H, W): a quarter of the memory of floats. A camera
    made with `photo` decodes it when it is used.
    `alpha_mask` (1, H, W), 1 where a pixel counts, is None where all do. `opacity_u8` (1, H, W) is
    0 where the photo is transparent, and None for an opaque photo. `invdepthmap`, `depth_mask` and
    `depth_reliable` exist for code that reads them: there is no depth supervision.
    """

    alpha_mask: Tensor | None
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
        photo: CachedPhoto | None = None,
        photo_background: float = 0.0,
        principal_point: tuple[float, float] = (0.5, 0.5),
        device: str | torch.device | None = None,
    ):
        """Takes the photo as `image_u8` (3, H, W), or as `image`, which is resized to `resolution`.

        Or as `photo`, which stays on the CPU.

        R: (3, 3) camera-to-world rotation; T: (3,) world-to-camera translation; FoVx, FoVy in
        radians; resolution: (width, height); `principal_point` in fractions of width and height.
        `photo_background`, 0 or 1, is the colour under the transparent parts of `image_u8`.
        `device` holds the matrices, `data_device` the pixels.
        """
        super().__init__()
        if invdepthmap is not None:
            raise InputError(f"camera {image_name}: depth maps are not supported")
        if image_u8 is None and photo is None:
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
        self._photo = photo
        if photo is not None:
            self.image_width, self.image_height = photo.size
            self.data_device = torch.device("cpu")
        else:
            assert image_u8 is not None
            pixels = Pixels(image_u8, opacity_u8)
            self._pixels = Pixels(*(None if t is None else t.to(self.data_device) for t in pixels))
            self.image_height, self.image_width = image_u8.shape[1:]
        self.photo_background = photo_background
        self.zfar = 100.0
        self.znear = 0.01
        self.trans = np.asarray(trans, np.float64)
        self.scale = scale
        self.principal_point = principal_point
        self.invdepthmap = self.depth_mask = self.alpha_mask = None
        self.depth_reliable = False
        if train_test_exp and is_test_view:
            self.alpha_mask = self._half_mask(left=not is_test_dataset)
        self._set_matrices(self.data_device if device is None else torch.device(device))

    @property
    def image_u8(self) -> Tensor:
        """(3, H, W) uint8 photo on `data_device`."""
        return self._loaded().image

    @image_u8.setter
    def image_u8(self, image: Tensor) -> None:
        self._pixels, self._photo = Pixels(image, self._loaded().opacity), None

    @property
    def opacity_u8(self) -> Tensor | None:
        """(1, H, W) uint8, 0 where the photo is transparent; None for an opaque photo."""
        return self._loaded().opacity

    @property
    def is_cached(self) -> bool:
        """Whether the photo is decoded when it is used."""
        return self._photo is not None

    def prefetch(self) -> None:
        """Decode the photo meanwhile, because it is used soon."""
        if self._photo is not None:
            self._photo.prefetch()

    def _loaded(self) -> Pixels:
        return self._pixels if self._photo is None else self._photo.pixels()

    @property
    def original_image(self) -> Tensor:
        """(3, H, W) float32 photo in 0..1 on `data_device`, computed at each access."""
        return self.image_u8.to(torch.float32) / 255.0

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

    def _half_mask(self, left: bool) -> Tensor:
        """1 on one half of the image: exposures are fitted on the left, evaluated on the right."""
        mask = torch.zeros((1, self.image_height, self.image_width), device=self.data_device)
        middle = self.image_width // 2
        columns = slice(0, middle) if left else slice(middle, None)
        mask[..., columns] = 1.0
        return mask

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
