# SPDX-License-Identifier: Apache-2.0
"""Cameras with a photo, and cameras without one, as the network viewer sends them.

Matrices are stored transposed, for row vectors: a point p is mapped to `[p 1] @ M`.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from scene.depth_maps import scaled_depth_map
from scene.photo_cache import CachedPhoto, Pixels, expect_photos
from utils import ranks
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

    The photo is kept as `image_u8`, uint8 (3, H, W): a quarter of the memory of floats. A camera
    made with `photo` decodes it, and its mask, when it is used.
    `mask_u8` (1, H, W), 1 where a pixel counts, is None where all do. `opacity_u8` (1, H, W) is
    0 where the photo is transparent, and None for an opaque photo. `invdepthmap` (1, H, W), inverse
    depths in inverse world units, is None without a map.

    `exposure` (3, 4), if set, changes the colours of renders before they are compared with the
    photo (scene.exposure). Scores count the columns from `scored_from` on: with `train_test_exp`
    the right half, on which no exposure is fitted.
    """

    exposure: Tensor | None
    invdepthmap: Tensor | None

    _image: Tensor | None = None
    _depth_mask: Tensor | None = None

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
        photo: CachedPhoto | None = None,
        photo_background: float = 0.0,
        principal_point: tuple[float, float] = (0.5, 0.5),
        mask_u8: Tensor | None = None,
        device: str | torch.device | None = None,
    ):
        """Takes the photo as `image_u8` (3, H, W), or as `image`, which is resized to `resolution`.

        Or as `photo`, which stays on the CPU. An `image` that is a tensor, (3, H, W) in 0..1, is
        taken as it is, of any size.

        R: (3, 3) camera-to-world rotation; T: (3,) world-to-camera translation; FoVx, FoVy in
        radians; resolution: (width, height); `principal_point` in fractions of width and height.
        `invdepthmap` (H', W') is resized too, and scaled by the entries scale and offset of
        `depth_params` if they are given. `photo_background`, 0 or 1, is the colour under the
        transparent parts of `image_u8`. `device` holds the matrices, `data_device` the pixels.
        """
        super().__init__()
        if image_u8 is None and photo is None:
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
        self._photo = photo
        if photo is not None:
            self.image_width, self.image_height = photo.size
            self.data_device = torch.device("cpu")
        else:
            assert image_u8 is not None
            pixels = Pixels(image_u8, opacity_u8, mask_u8)
            self._pixels = pixels.to(self.data_device)
            self.image_height, self.image_width = image_u8.shape[1:]
        self.photo_background = photo_background
        if isinstance(image, Tensor):
            self.original_image = image.clamp(0.0, 1.0)
        self.zfar = 100.0
        self.znear = 0.01
        self.trans = np.asarray(trans, np.float64)
        self.scale = scale
        self.principal_point = principal_point
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
    def image_u8(self) -> Tensor:
        """(3, H, W) uint8 photo on `data_device`."""
        return self._loaded().image

    @image_u8.setter
    def image_u8(self, image: Tensor) -> None:
        self._pixels, self._photo = self._loaded()._replace(image=image), None

    @property
    def opacity_u8(self) -> Tensor | None:
        """(1, H, W) uint8, 0 where the photo is transparent; None for an opaque photo."""
        return self._loaded().opacity

    @property
    def mask_u8(self) -> Tensor | None:
        """(1, H, W) uint8, 1 where a pixel counts; None where all do."""
        return self._loaded().mask

    @mask_u8.setter
    def mask_u8(self, mask: Tensor | None) -> None:
        self._pixels, self._photo = self._loaded()._replace(mask=mask), None

    @property
    def is_cached(self) -> bool:
        """Whether the photo is decoded when it is used."""
        return self._photo is not None

    def _loaded(self) -> Pixels:
        return self._pixels if self._photo is None else self._photo.pixels()

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
    def depth_mask(self) -> Tensor | None:
        """(1, H, W) float32, 1 where `invdepthmap` counts; None without a map.

        That is nowhere if the map is not `depth_reliable`. It is computed at each access, because
        the photo's mask may not be decoded yet. It can be set, and is then kept.
        """
        if self._depth_mask is not None or self.invdepthmap is None:
            return self._depth_mask
        if not self.depth_reliable:
            return torch.zeros_like(self.invdepthmap)
        mask = self.alpha_mask
        return torch.ones_like(self.invdepthmap) if mask is None else mask

    @depth_mask.setter
    def depth_mask(self, mask: Tensor | None) -> None:
        self._depth_mask = mask

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
        camera._image = None
        camera.image_u8 = image.round().clamp(0, 255).to(torch.uint8)
        return camera

    def _set_depths(self, depths: npt.NDArray | None, params: Mapping[str, float] | None) -> None:
        self.invdepthmap = None
        self.depth_reliable = False
        if depths is None:
            return
        size = self.image_width, self.image_height
        scaled, self.depth_reliable = scaled_depth_map(depths, size, params)
        self.invdepthmap = scaled.to(self.data_device)

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


def announce(cameras: Sequence[Any]) -> None:
    """The photos of these cameras are used next, in this order: decode them meanwhile.

    Cameras with decoded photos are ignored, and all are where several ranks share the views.
    """
    photos = [getattr(camera, "_photo", None) for camera in cameras]
    if ranks.count() == 1:
        expect_photos([photo for photo in photos if photo is not None])


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
