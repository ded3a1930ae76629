# SPDX-License-Identifier: Apache-2.0
"""Photos from files of any common kind as 8-bit RGB tensors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from utils.errors import InputError

Size = tuple[int, int]
"""Width and height in pixels."""


def open_photo(path: str | os.PathLike[str]) -> Image.Image:
    """The image file at `path`, decoded, and the file closed.

    Raises `InputError` where it is missing, broken, or no image.
    """
    with _readable(path), Image.open(path) as image:
        image.load()
        return image


def photo_size(path: str | os.PathLike[str]) -> Size:
    """Width and height of the image file at `path`, from its header alone. Errors as above."""
    with _readable(path), Image.open(path) as image:
        return image.size


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what Pillow raises for the file at `path` into an `InputError` that names it."""
    path = Path(path)
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"image {path.name} is missing in {path.parent}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
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


def planar_u8(image: Image.Image, size: Size, white_background: bool = False) -> Tensor:
    """(3, H, W) uint8 contiguous tensor of `image`, resized bicubically to `size`."""
    rgb = to_rgb(image, white_background)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()
