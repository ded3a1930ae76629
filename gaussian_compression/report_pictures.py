# SPDX-License-Identifier: Apache-2.0
"""The pictures of the report: which views they show, and how errors become colours. No PyTorch.

Pillow is imported where pictures are made: to put those that are there into a page needs none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gaussian_compression.report import (
    CompressionReport,
    ShownView,
    ViewFigures,
    picture_name,
)
from gaussian_compression.rounds import MOST_PSNR
from utils.errors import InputError
from utils.optional_modules import load, load_required

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = {
    "photograph": "Photograph",
    "original": "Original model",
    "compressed": "Compressed model",
    "original_error": "Error of the original model",
    "compressed_error": "Error of the compressed model",
}
"""What a picture shows, and its title."""
MOST_ERROR = 64
"""8-bit levels: the error that gets the last colour of the map, as do all greater ones."""
ERROR_COLOURS = (
    (0, 0, 0),
    (60, 15, 110),
    (170, 35, 95),
    (240, 110, 30),
    (250, 215, 60),
    (255,) * 3,
)
"""RGB at equal distances from no error to MOST_ERROR; ever lighter, for readers who do not see
colours too."""
MOST_PIXELS = 1200
"""In a row or a column."""
_QUALITY = 90
_MOST_BYTES = 16_000_000  # of a picture; one of MOST_PIXELS has less than 2 MB

U8 = npt.NDArray[np.uint8]


def chosen_views(views: Sequence[ViewFigures]) -> dict[str, ViewFigures]:
    """The worst and the median view by role: test views, or guard views where there are none.

    The one view of a set is its worst.
    """
    test = [view for view in views if view.views == "test"]
    ordered = sorted(test or views, key=_compressed_psnr)
    if not ordered:
        return {}
    median = ordered[len(ordered) // 2]
    return {"worst": ordered[0]} | ({"median": median} if median is not ordered[0] else {})


def _compressed_psnr(view: ViewFigures) -> float:
    psnr = view.compressed.psnr
    return MOST_PSNR if psnr is None else min(psnr, MOST_PSNR)


def fault_of_pillow() -> str | None:
    """Why this installation can make no pictures, as a sentence."""
    features = load("PIL.features", instead="the report has no pictures")
    if features is None:
        return "the report has no pictures, because Pillow cannot be imported: pip install pillow"
    if features.check("webp"):
        return None
    return "the report has no pictures, because the installed Pillow cannot write WebP"


def view_pictures(photograph: U8, original: U8, compressed: U8) -> dict[str, bytes]:
    """The pictures of a view by kind, as WebP files; from images (H, W, 3) of one size."""
    errors = (_error_map(render, photograph) for render in (original, compressed))
    images = (*map(_small, (photograph, original, compressed)), *errors)
    return {kind: _webp(image) for kind, image in zip(KINDS, images, strict=True)}


def shown_view(role: str, view: ViewFigures, pictures: Mapping[str, bytes]) -> ShownView:
    """The view in the report, whose pictures these are."""
    digests = {kind: _digest(picture) for kind, picture in pictures.items()}
    return ShownView(role, view.views, view.image_name, digests)


def stored_pictures(folder: Path, report: CompressionReport) -> dict[str, bytes]:
    """The report's pictures in `folder`, by file name.

    InputError where one is missing or belongs to another report.
    """
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    found = {}
    for view in report.shown_views:
        for kind, digest in view.pictures.items():
            name = picture_name(view.role, kind)
            if name not in names:  # a name with a path in it is none of them
                raise InputError(f"the picture {folder / name} is missing")
            found[name] = _stored(folder / name, digest)
    return found


def is_own_folder(folder: Path) -> bool:
    """Whether a compression wrote everything in `folder`, so that it may be replaced."""
    own = {picture_name(role, kind) for role in ("worst", "median") for kind in KINDS}
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= own


def _stored(path: Path, digest: str) -> bytes:
    content = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
    if _digest(content) != digest:
        raise InputError(f"the picture {path} is not the one that this report describes")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _pillow() -> ModuleType:
    return load_required("PIL.Image", "a picture of the report", "pip install pillow")


def _error_map(render: U8, photograph: U8) -> Image:
    """The mean absolute difference over the channels of each pixel, in colours."""
    difference = np.abs(render.astype(np.int16) - photograph).mean(axis=2, dtype=np.float32)
    levels = np.asarray(_small(difference), np.float32) * (255 / MOST_ERROR)
    at = np.linspace(0, 255, len(ERROR_COLOURS))
    table = [np.interp(np.arange(256), at, channel) for channel in np.transpose(ERROR_COLOURS)]
    colours = np.round(np.stack(table, axis=1)).astype(np.uint8)
    return _pillow().fromarray(colours[np.clip(np.round(levels), 0, 255).astype(np.uint8)])


def _small(pixels: U8 | npt.NDArray[np.float32]) -> Image:
    """The image with at most MOST_PIXELS on each side, each the mean of those it covers."""
    image = _pillow().fromarray(pixels)
    longest = max(image.size)
    if longest <= MOST_PIXELS:
        return image
    width, height = (max(1, round(side * MOST_PIXELS / longest)) for side in image.size)
    return image.resize((width, height), _pillow().Resampling.BOX)


def _webp(image: Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, method=4)
    return file.getvalue()
