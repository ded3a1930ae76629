# SPDX-License-Identifier: Apache-2.0
"""Photos from files of any common kind as 8-bit RGB tensors."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from utils.errors import InputError

Size = tuple[int, int]
"""Width and height in pixels."""

MOST_MEGAPIXELS = 500
"""Of one photo. Pillow's limit of 89 is too low: cameras with 100 and 150 exist."""

Image.MAX_IMAGE_PIXELS = MOST_MEGAPIXELS * 1_000_000
# Above its limit Pillow only warns, and refuses from twice the limit on.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def open_photo(path: str | os.PathLike[str], camera_size: Size | None = None) -> Image.Image:
    """The image file at `path`, decoded, and the file closed.

    It is rotated by its EXIF orientation if only then its shape is that of `camera_size`. Raises
    `InputError` if the file is missing, broken, or no image.
    """
    with _readable(path), Image.open(path) as image:
        if camera_size is None or oriented_size(image, camera_size) == image.size:
            image.load()
            return image
        return ImageOps.exif_transpose(image)


def photo_size(path: str | os.PathLike[str], camera_size: Size | None = None) -> Size:
    """Width and height of the image that `open_photo` returns, from the file's header alone."""
    with _readable(path), Image.open(path) as image:
        return image.size if camera_size is None else oriented_size(image, camera_size)


def oriented_size(image: Image.Image, camera_size: Size) -> Size:
    """The size of `image` as stored, or after its EXIF rotation if only that fits `camera_size`.

    COLMAP finds poses for the pixels as stored, other tools for those of the rotated image; the
    camera's shape shows which. Rotations that keep the shape are therefore not applied.
    """
    stored, turned = image.size, image.size[::-1]
    # Shapes are compared first: EXIF data may follow the pixels, which must be decoded before.
    if same_shape(stored, camera_size) or not same_shape(turned, camera_size):
        return stored
    return turned if image.getexif().get(_ORIENTATION) in _QUARTER_TURNS else stored


def same_shape(size: Size, camera_size: Size) -> bool:
    """Whether the sizes have one aspect ratio, up to rounding to whole pixels."""
    width, height = size
    full_width, full_height = camera_size
    if width > full_width:
        return same_shape(camera_size, size)
    least = max(full_width / (width + 1), full_height / (height + 1))
    return (width - 1) * least <= full_width and (height - 1) * least <= full_height


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what Pillow raises for the file at `path` into an `InputError` that names it."""
    path = Path(path)
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"image {path.name} is missing in {path.parent}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"image {path.name} in {path.parent} has more than {MOST_MEGAPIXELS} megapixels"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's decoders report broken files with all of these.
        raise InputError(f"image {path.name} in {path.parent} cannot be read: {error}") from error


def to_rgb(image: Image.Image, white_background: bool = False) -> Image.Image:
    """`image` as 8-bit RGB: transparency composited over the background, grey replicated."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(_grey_16_to_8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        return _composite(np.asarray(image.convert("RGBA")), 255 if white_background else 0)
    if image.mode == "F":
        raise InputError("photos with floating-point pixels are not supported: use 8 or 16 bits")
    return image.convert("RGB")


def _grey_16_to_8(pixels: npt.NDArray) -> npt.NDArray[np.uint8]:
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise InputError("grey photos need 8 or 16 bits per pixel, not 32")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _composite(rgba: npt.NDArray[np.uint8], background: int) -> Image.Image:
    alpha = rgba[..., 3:].astype(np.uint16)
    over = rgba[..., :3] * alpha + background * (255 - alpha)
    return Image.fromarray(((over + 127) // 255).astype(np.uint8))


def opacity_u8(image: Image.Image, size: Size) -> Tensor | None:
    """(1, H, W) uint8 opacity of `image`, resized bicubically to `size`; None if it is opaque."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    if alpha.getextrema()[0] == 255:
        return None
    if alpha.size != size:
        alpha = alpha.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(alpha))[None]


def planar_u8(image: Image.Image, size: Size, white_background: bool = False) -> Tensor:
    """(3, H, W) uint8 contiguous tensor of `image`, resized bicubically to `size`."""
    rgb = to_rgb(image, white_background)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    # Not in PyTorch, whose threads would be started by each thread that decodes photos.
    return torch.from_numpy(np.ascontiguousarray(np.array(rgb).transpose(2, 0, 1)))
