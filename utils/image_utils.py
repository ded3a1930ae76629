# SPDX-License-Identifier: Apache-2.0
"""Errors between images, and images as 8-bit PNG files."""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.files import atomic_path
from utils.photos import open_photo, to_rgb


def mse(img1: Tensor, img2: Tensor) -> Tensor:
    """(N, 1) mean squared differences of the N slices along the first dimension.

    Of single images (3, H, W) the slices are the channels.
    """
    return ((img1 - img2) ** 2).reshape(img1.shape[0], -1).mean(1, keepdim=True)


def psnr(img1: Tensor, img2: Tensor) -> Tensor:
    """(N, 1) peak signal-to-noise ratios in dB of the N slices; images in 0..1."""
    return 20 * torch.log10(1.0 / torch.sqrt(mse(img1, img2)))


def to_u8(image: Tensor) -> Tensor:
    """uint8 of a float image in 0..1, rounded half up; a uint8 image as it is."""
    if image.dtype == torch.uint8:
        return image
    if image.device.type != "cpu":
        return (image * 255 + 0.5).clamp(0, 255).to(torch.uint8)
    # In NumPy: PyTorch's threads would wait for each other longer than they work.
    scaled = image.detach().numpy() * np.float32(255) + np.float32(0.5)
    with np.errstate(invalid="ignore"):  # NaN becomes any colour, as on other devices
        return torch.from_numpy(np.clip(scaled, 0, 255, out=scaled).astype(np.uint8))


def save_png(path: str | os.PathLike[str], image: Tensor) -> None:
    """Writes `image`, (3, H, W), uint8 or float in 0..1, as an 8-bit PNG, whole or not at all."""
    pixels = to_u8(image.detach()).permute(1, 2, 0).cpu().numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")


def load_png(path: str | os.PathLike[str]) -> Tensor:
    """(3, H, W) uint8 pixels of an image file; `InputError` where it cannot be read."""
    pixels = np.array(to_rgb(open_photo(path)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
