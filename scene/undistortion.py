# SPDX-License-Identifier: Apache-2.0
"""Photographs without their lens distortion, computed once and kept in a folder of the user.

The rasteriser draws the image of a pinhole camera. A photograph of another camera is resampled,
bilinearly, to the image that `camera_models.undistorted_camera` describes. Nothing is written into
a data set: results are in `cache_folder()`, each under a hash of the photograph's content and of
the camera. They may be removed at any time. Two runs that need the same one write the same file,
whole or not at all.
"""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from scene.camera_info import CameraInfo
from scene.camera_models import Lens, undistorted_camera
from scene.photo_hashes import content_digest
from utils.errors import InputError
from utils.files import atomic_path
from utils.logged_once import log_once
from utils.photos import Size, open_photo, photo_size, same_shape, to_rgb

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "FAST3DGS_CACHE"
_METHOD = "1"  # part of the hashes: to be changed whenever the pixels change
_STRIPE_PIXELS = 1 << 20
_JPEG = {"quality": 95, "subsampling": 0}
_PNG = {"compress_level": 1}
_JPEG_FORMATS = ("JPEG", "MPO")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def cache_folder() -> Path:
    """Where undistorted photographs are: in $FAST3DGS_CACHE, else in the user's cache folder."""
    chosen, home = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "undistorted"
    return (Path(home) if home else Path.home() / ".cache") / "fast3dgs" / "undistorted"


def picture_size(path: str | os.PathLike[str], camera: CameraInfo) -> Size:
    """Width and height of what `open_picture` returns, from the file's header alone.

    Raises `InputError` if its aspect ratio is not the camera's.
    """
    lens = camera.lens
    taken_at = (camera.width, camera.height) if lens is None else (lens.width, lens.height)
    size = photo_size(path, taken_at)
    if not same_shape(size, taken_at):
        raise InputError(
            f"{path} has {size[0]}x{size[1]} pixels, but its camera has "
            f"{taken_at[0]}x{taken_at[1]}, which is another aspect ratio"
        )
    return size if lens is None else undistorted_size(lens, size)


def open_picture(path: str | os.PathLike[str], camera: CameraInfo) -> Image.Image:
    """The photograph of a camera, or a mask of it, decoded, and undistorted if it must be.

    Raises `InputError` if it cannot be used.
    """
    picture_size(path, camera)
    if camera.lens is not None:
        return undistorted_photo(path, camera.lens)
    return open_photo(path, (camera.width, camera.height))


def undistorted_size(lens: Lens, photo: Size) -> Size:
    """Width and height of the undistorted image of a photograph that has the size `photo`.

    The photograph may be a scaled one: the image is scaled in the same way.
    """
    pinhole = undistorted_camera(lens)
    return (
        max(1, round(pinhole.width * photo[0] / lens.width)),
        max(1, round(pinhole.height * photo[1] / lens.height)),
    )


def undistorted_photo(path: str | os.PathLike[str], lens: Lens) -> Image.Image:
    """The photograph at `path` without distortion, RGB or RGBA; from the cache if it is there.

    Raises `InputError` if the photograph cannot be used, or the cache cannot be written.
    """
    size = undistorted_size(lens, photo_size(path, (lens.width, lens.height)))
    target = cache_folder() / f"{_digest(Path(path), lens)}.image"
    kept = _kept(target, size)
    if kept is not None:
        return kept
    log_once(
        logger,
        f"Photographs of the camera model {lens.model} are undistorted, once, into {target.parent}",
    )
    photo = open_photo(path, (lens.width, lens.height))
    has_loss = photo.format in _JPEG_FORMATS
    _write(target, undistort(photo, lens), has_loss)
    kept = _kept(target, size)
    if kept is None:
        raise InputError(f"{target}: the undistorted photograph that was just written is damaged")
    return kept


def undistort(photo: Image.Image, lens: Lens) -> Image.Image:
    """`photo`, of any mode, without distortion: RGB, or RGBA if it has transparency."""
    is_opaque = not photo.has_transparency_data
    source = np.asarray(to_rgb(photo) if is_opaque else photo.convert("RGBA"))
    width, height = undistorted_size(lens, photo.size)
    result = np.empty((height, width, source.shape[2]), np.uint8)
    rows = max(1, _STRIPE_PIXELS // width)
    for first in range(0, height, rows):
        stripe = np.arange(first, min(first + rows, height))
        x, y = _positions(lens, photo.size, (width, height), stripe)
        result[stripe] = _sampled(source, x, y)
    return Image.fromarray(result)


def _positions(
    lens: Lens, photo: Size, undistorted: Size, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where the photograph shows these rows of the undistorted image: x and y (rows, width).

    In pixels of the photograph, from the outer corner of its top left pixel.
    """
    pinhole = undistorted_camera(lens)
    columns = (np.arange(undistorted[0]) + 0.5) * (pinhole.width / undistorted[0])
    lines = (rows + 0.5) * (pinhole.height / undistorted[1])
    u, v = np.meshgrid(
        (columns - pinhole.centre_x) / pinhole.focal_x, (lines - pinhole.centre_y) / pinhole.focal_y
    )
    x, y = lens.pixels(u, v)
    return x * (photo[0] / lens.width), y * (photo[1] / lens.height)


def _sampled(
    source: Bytes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """(h, w, C) pixels of `source` (H, W, C) at the positions x, y (h, w), bilinear.

    Colours are weighted by their opacity, the fourth channel if there is one.
    """
    height, width = source.shape[:2]
    first = int(np.clip(np.floor(y.min()) - 1, 0, height - 1))
    last = int(np.clip(np.ceil(y.max()) + 1, first + 1, height))
    part = torch.from_numpy(source[first:last].transpose(2, 0, 1).astype(np.float32))
    if len(part) == 4:
        part[:3] *= part[3:] / 255
    grid = np.stack([2 * x / width - 1, 2 * (y - first) / (last - first) - 1], axis=-1)
    positions = torch.from_numpy(grid.astype(np.float32))
    found = grid_sample(part[None], positions[None], padding_mode="border", align_corners=False)[0]
    if len(found) == 4:
        found[:3] *= 255 / found[3:].clamp(min=1e-3)
    return found.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


# --- The cache ------------------------------------------------------------------------------------


def _digest(path: Path, lens: Lens) -> str:
    try:
        content = content_digest(path, cache_folder().with_name("photo_hashes"))
    except OSError as error:
        raise InputError(f"image {path.name} in {path.parent} cannot be read: {error}") from error
    return hashlib.sha256(f"{_METHOD} {content} {lens}".encode()).hexdigest()[:40]


def _kept(target: Path, size: Size) -> Image.Image | None:
    """The image in the cache, decoded; None if there is none of this size, or it is damaged."""
    if not target.is_file():
        return None
    try:
        image = open_photo(target)
    except InputError:
        return None
    return image if image.size == size else None


def _write(target: Path, image: Image.Image, has_loss: bool) -> None:
    """A JPEG of a photograph that was one, else a PNG: lossless, and with opacities."""
    as_jpeg = has_loss and image.mode == "RGB"
    try:
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            image.save(file, "JPEG" if as_jpeg else "PNG", **(_JPEG if as_jpeg else _PNG))
    except OSError as error:
        raise InputError(
            f"the undistorted photograph cannot be written to {target.parent} ({error}): set "
            f"{CACHE_VARIABLE} to a folder with enough space"
        ) from error
