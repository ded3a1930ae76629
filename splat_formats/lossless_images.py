# SPDX-License-Identifier: Apache-2.0
"""Arrays of bytes as lossless images, for SOG. Needs Pillow.

The header of an image is checked before the image is decoded: a small file can declare a large one.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile
from utils.errors import InputError
from utils.optional_modules import load_required

ByteArray = npt.NDArray[np.uint8]

MAX_SIDE = 16383
"""Texels, of a WebP image."""
_PNG = b"\x89PNG\r\n\x1a\n"
_RIFF = 12  # bytes of the header, which ends in "WEBP"
# libwebp's effort. 100 takes a hundred times as long for bytes within 0.3 %, more or fewer.
_QUALITY, _METHOD = 75, 6


@dataclass(frozen=True)
class ImageSize:
    """Texels."""

    width: int
    height: int

    @property
    def texels(self) -> int:
        """Of the whole image."""
        return self.width * self.height


def encoded(texels: ByteArray) -> bytes:
    """A lossless WebP image of texels (height, width, 3 or 4)."""
    pillow = required_pillow()
    file = io.BytesIO()
    image = pillow.fromarray(np.ascontiguousarray(texels))
    # Without `exact`, the encoder replaces the colours of texels whose alpha is 0.
    image.save(file, "WEBP", lossless=True, exact=True, quality=_QUALITY, method=_METHOD)
    return file.getvalue()


def image_size(data: bytes, name: str) -> ImageSize:
    """The size that the header of a lossless WebP or PNG image declares. Raises CorruptFile."""
    if data.startswith(_PNG):
        return _png_size(data, name)
    if data[:4] != b"RIFF" or data[8:_RIFF] != b"WEBP":
        raise CorruptFile(name, f"a WebP or PNG image is expected, it begins with {data[:12]!r}")
    for kind, place in _riff_chunks(data):
        if kind == b"VP8L":
            return _webp_size(data, place, name)
        if kind == b"ANIM":
            raise CorruptFile(name, "a still image is expected, this one is animated")
        if kind == b"VP8 ":
            raise CorruptFile(name, "a lossless WebP image is expected, this one is lossy")
    raise CorruptFile(name, "a WebP image with a VP8L chunk is expected, none is found")


def decoded(data: bytes, name: str) -> ByteArray:
    """RGBA texels (height, width, 4) of a lossless image, whose size the caller has checked.

    Raises CorruptFile.
    """
    pillow = required_pillow()
    size = image_size(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            image = pillow.open(io.BytesIO(data), formats=("WEBP", "PNG"))
            if image.mode not in ("RGB", "RGBA"):
                raise CorruptFile(name, f"8-bit RGB or RGBA is expected, it is {image.mode}")
            texels = np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, struct.error, pillow.DecompressionBombError) as error:
        if isinstance(error, CorruptFile):
            raise
        raise CorruptFile(name, f"a damaged image: {error}") from error
    if texels.shape != (size.height, size.width, 4):
        came = f"{texels.shape[1]} x {texels.shape[0]}"
        raise CorruptFile(name, f"{size.width} x {size.height} texels declared, decoded {came}")
    return texels


def required_pillow() -> ModuleType:
    """PIL.Image. Raises InputError without Pillow, and where it was built without WebP."""
    image, features = (
        load_required(f"PIL.{name}", "SOG", "pip install pillow") for name in ("Image", "features")
    )
    if not features.check("webp"):
        raise InputError("SOG needs Pillow with WebP, which this Pillow lacks: pip install pillow")
    return image


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The kind and the place of the content of each chunk of a RIFF file."""
    place = _RIFF
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        yield kind, place + 8
        place += 8 + length + length % 2


def _webp_size(data: bytes, place: int, name: str) -> ImageSize:
    """From the header of the VP8L chunk: 14 bits each (RFC 9649, section 3.4)."""
    if len(data) < place + 5 or data[place] != 0x2F:
        raise CorruptFile(name, "a damaged WebP image: no VP8L header")
    (bits,) = struct.unpack_from("<I", data, place + 1)
    return ImageSize((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)


def _png_size(data: bytes, name: str) -> ImageSize:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise CorruptFile(name, "a damaged PNG image: no IHDR chunk")
    return ImageSize(*struct.unpack_from(">II", data, 16))
