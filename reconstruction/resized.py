# SPDX-License-Identifier: Apache-2.0
"""The folders images_2, images_4 and images_8: the images at a half, a quarter, an eighth."""

import logging
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from utils.errors import InputError
from utils.files import atomic_folder
from utils.photos import Size, open_photo, photo_size

logger = logging.getLogger(__name__)

DIVISORS = (2, 4, 8)
_JPEG_QUALITY = 95
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")  # of which a mean of pixels is a pixel


def resize_images(source: Path, names: list[str]) -> None:
    """Writes the folders beside images/; a folder that is complete is skipped.

    Bicubic with antialiasing, as `train.py -r` resizes; no metadata is copied, so that no viewer
    turns the pixels.
    """
    for divisor in DIVISORS:
        folder = source / f"images_{divisor}"
        if folder.exists():
            _check_complete(source / "images", folder, names, divisor)
            logger.info("%s is complete: skipped", folder)
            continue
        with atomic_folder(folder) as unfinished:
            for name in tqdm(names, f"images_{divisor}", unit=" images"):
                _write_resized(source / "images" / name, unfinished / name, divisor)


def resized_size(size: Size, divisor: int) -> Size:
    """Width and height divided, halves rounded up, at least 1."""
    width, height = ((2 * side + divisor) // (2 * divisor) for side in size)
    return max(1, width), max(1, height)


def _check_complete(images: Path, folder: Path, names: list[str], divisor: int) -> None:
    for name in names:
        expected = resized_size(photo_size(images / name), divisor)
        found = photo_size(folder / name) if (folder / name).is_file() else None
        if found != expected:
            got = "no file" if found is None else f"{found[0]}x{found[1]} pixels"
            raise InputError(
                f"{folder / name}: expected {expected[0]}x{expected[1]} pixels, found {got}; "
                f"remove {folder} to make it again"
            )


def _write_resized(path: Path, target: Path, divisor: int) -> None:
    image = open_photo(path)
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode not in _PLAIN_MODES and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    small = image.resize(resized_size(image.size, divisor), Image.Resampling.BICUBIC)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif"):
        small.save(target, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        small.save(target)
