# SPDX-License-Identifier: Apache-2.0
"""Cameras with a photo, and cameras without one, as the network viewer sends them.

Matrices are stored transposed, for row vectors: a point p is mapped to `[p 1] @ M`.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from utils.errors import InputError
from utils.graphics_utils import getProjectionMatrix, getWorld2View2
from utils.photos import planar_u8


def _in_todays_order(init: Callable[..., None]) -> Callable[..., None]:
    """`Camera.__init__` that also takes the arguments of 2023.

    These are (colmap_id, R, T, FoVx, FoVy, image, gt_alpha_mask, image_name, uid, trans, scale,
    data_device), by position or name; `image` (3, H, W) in 0..1 is multiplied by the mask (1, H, W)
    if there is one.
    """
    names = (
        *("colmap_id", "R", "T", "FoVx", "FoVy", "image", "gt_alpha_mask", "image_name", "uid"),
        *("trans", "scale", "data_device"),
    )

    @functools.wraps(init)
    def initialise(self: Any, *args: Any, **options: Any) -> None:
        earlier = "gt_alpha_mask" in options or (
            not isinstance(args[0], (tuple, list)) if args else "resolution" not in options
        )
        if not earlier:
            init(self, *args, **options)
            return
        if len(args) > len(names):
            raise TypeError(f"Camera takes the {len(names)} arguments {', '.join(names)}")
        given = {**dict(zip(names, args, strict=False)), **options}
        mask = given.pop("gt_alpha_mask", None)
        image = given.get("image")
        if mask is not None and image is not None:
            given["image"] = image * mask.to(image)
            given["opacity_u8"] = _as_u8(mask.reshape(1, *image.shape[1:]))
        size = None if image is None else (image.shape[2], image.shape[1])
        init(self, resolution=size, depth_params=None, invdepthmap=None, **given)

    return initialise


def _as_u8(image: Tensor) -> Tensor:
    """uint8 of floats in 0..1, rounded."""
    return (image.detach() * 255.0).round().clamp(0, 255).to(torch.uint8)


class Camera(nn.Module):
    """A photo and the pinhole camera that took it.

    The photo is kept as `image_u8`, uint8 (3, H, W): a quarter of the memory of floats.
    `alpha_mask` (1, H, W), 1 where a pixel counts, is None where all do. `opacity_u8` (1, H, W) is
    0 where the photo is transparent, and None for an opaque photo. `invdepthmap`, `depth_mask` and
    `depth_reliable` exist for code that reads them: there is no depth supervision.
    """

    alpha_mask: Tensor | None
    opacity_u8: Tensor | None
    invdepthmap: Tensor | None
    depth_mask: Tensor | None

    _image: Tensor | None = None

    @_in_todays_order
    def __init__(
        self,
        resolution: tuple[int, int],
        colmap_id: int,
        R: npt.NDArray,
        T: npt.NDArray,
        FoVx: float,
        FoVy: float,
        depth_params: Mapping[str, float] | None,
        image: Image.Image | Tensor | None,
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
        device: str | torch.device | None = None,
    ):
        """Takes the photo as `image_u8` (3, H, W), or as `image`, which is resized to `resolution`.

        An `image` that is a tensor, (3, H, W) in 0..1, is taken as it is, of any size.
        R: (3, 3) camera-to-world rotation; T: (3,) world-to-camera translation; FoVx, FoVy in
        radians; resolution: (width, height); `principal_point` in fractions of width and height.
        `photo_background`, 0 or 1, is the colour under the transparent parts of `image_u8`.
        `device` holds the matrices, `data_device` the pixels.
        """
        super().__init__()
        if invdepthmap is not None:
            raise InputError(f"camera {image_name}: depth maps are not supported")
        if image_u8 is None:
            if image is None:
                raise InputError(f"camera {image_name}: expected a photo, got none")
            image_u8 = _as_u8(image) if isinstance(image, Tensor) else planar_u8(image, resolution)
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
        if isinstance(image, Tensor):
            self.original_image = image.clamp(0.0, 1.0)
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
    def original_image(self) -> Tensor:
        """(3, H, W) float32 photo in 0..1 on `data_device`, computed at each access.

        It can be set, and is then kept as it is; this project's own losses round it to 8 bits.
        """
        return self.image_u8.to(torch.float32) / 255.0 if self._image is None else self._image

    @original_image.setter
    def original_image(self, image: Tensor) -> None:
        if image.dim() != 3:
            raise InputError(
                f"camera {self.image_name}: expected an image (3, H, W), got the shape "
                f"{tuple(image.shape)}"
            )
        self._image = image.detach().to(self.data_device, torch.float32)
        self.image_u8 = _as_u8(self._image)

    def over(self, background: Tensor) -> "Camera":
        """This camera, its photo's transparent parts over `background` (3,) RGB in 0..1."""
        if self.opacity_u8 is None:
            return self
        transparency = 1.0 - self.opacity_u8 / 255.0
        shift = background.to(self.data_device).view(3, 1, 1) - self.photo_background
        image = self.image_u8 + 255.0 * transparency * shift
        camera = copy.copy(self)
        camera._image = None
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
