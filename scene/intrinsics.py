# SPDX-License-Identifier: Apache-2.0
"""Intrinsics of ideal pinhole cameras, from COLMAP's camera models and from transforms files.

Lens distortion is refused: the rasteriser draws pinhole images only. Pixel coordinates are those of
COLMAP, (0, 0) at the outer corner of the top left pixel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scene.colmap_loader import UNDISTORT, PathLike, camera_model_error
from scene.colmap_loader import Camera as ColmapCamera
from utils.errors import InputError
from utils.graphics_utils import focal2fov, fov2focal
from utils.photos import Size

_CENTRE = (0.5, 0.5)
# Number of focal lengths, and the names of the coefficients, of the models that are pinhole cameras
# if all coefficients are 0. A fisheye camera is never a pinhole camera.
_COLMAP_MODELS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": (1, ()),
    "PINHOLE": (2, ()),
    "SIMPLE_RADIAL": (1, ("k",)),
    "RADIAL": (1, ("k1", "k2")),
    "OPENCV": (2, ("k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (2, ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "FOV": (2, ("omega",)),
}
_TRANSFORMS_MODELS = frozenset({*_COLMAP_MODELS, "PERSPECTIVE"})
_TRANSFORMS_COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: image size in pixels, fields of view in radians.

    The fields of view are those of an image of this size with a central principal point;
    `principal_point` is in fractions of width and height.
    """

    width: int
    height: int
    fov_x: float
    fov_y: float
    principal_point: tuple[float, float] = _CENTRE


def colmap_intrinsics(camera: ColmapCamera, model_folder: PathLike) -> Intrinsics:
    """The pinhole camera of a COLMAP camera; `InputError` for lens distortion or bad numbers."""
    if camera.model not in _COLMAP_MODELS:
        raise camera_model_error(model_folder, camera.model)
    focal_count, coefficient_names = _COLMAP_MODELS[camera.model]
    values = [float(value) for value in camera.params]
    focal_x, focal_y = values[0], values[focal_count - 1]
    centre_x, centre_y, *coefficients = values[focal_count:]
    for name, value in zip(coefficient_names, coefficients, strict=True):
        if value != 0:
            raise camera_model_error(
                model_folder, f"{camera.model} with lens distortion ({name} = {value:g})"
            )
    where = f"camera {camera.id} in {model_folder}"
    size = _whole(camera.width, where), _whole(camera.height, where)
    return Intrinsics(
        *size,
        focal2fov(_positive(focal_x, "focal length", where), size[0]),
        focal2fov(_positive(focal_y, "focal length", where), size[1]),
        _principal_point(centre_x, centre_y, size, where),
    )


def transforms_size(frame: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> Size | None:
    """Width and height in a frame of a transforms file, or else in the whole file."""
    width, height = _value("w", frame, shared), _value("h", frame, shared)
    if width is None or height is None:
        return None
    return _whole(width, where), _whole(height, where)


def transforms_intrinsics(
    frame: Mapping[str, Any], shared: Mapping[str, Any], photo: Size, where: str
) -> Intrinsics:
    """The camera of one frame: its own values override those `shared` by the file.

    `photo` is the photograph's size, for files that give none; `where` is for messages.
    """
    _refuse_distortion(frame, shared, where)
    given = transforms_size(frame, shared, where)
    width, height = given or photo
    source = frame if any(frame.get(key) is not None for key in _FOCAL_KEYS) else shared
    fov_x = _field_of_view(source, "x", width, given is not None, where)
    fov_y = _field_of_view(source, "y", height, given is not None, where)
    if fov_x is None and fov_y is None:
        raise InputError(f"{where}: expected fl_x or camera_angle_x, found neither")
    # One focal length serves both directions: pixels are square.
    if fov_x is None and fov_y is not None:
        fov_x = focal2fov(fov2focal(fov_y, height), width)
    if fov_y is None and fov_x is not None:
        fov_y = focal2fov(fov2focal(fov_x, width), height)
    assert fov_x is not None and fov_y is not None
    centre_x, centre_y = _value("cx", frame, shared), _value("cy", frame, shared)
    return Intrinsics(
        width,
        height,
        fov_x,
        fov_y,
        _principal_point(
            width / 2 if centre_x is None else centre_x,
            height / 2 if centre_y is None else centre_y,
            (width, height),
            where,
        ),
    )


def _refuse_distortion(frame: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> None:
    model = _value("camera_model", frame, shared)
    if model is not None and str(model).upper() not in _TRANSFORMS_MODELS:
        raise InputError(f"{where}: camera model {model} is not a pinhole camera. {UNDISTORT}")
    if _value("is_fisheye", frame, shared):
        raise InputError(f"{where}: a fisheye camera is not a pinhole camera. {UNDISTORT}")
    listed = _value("distortion_params", frame, shared)
    coefficients = {name: _value(name, frame, shared) for name in _TRANSFORMS_COEFFICIENTS}
    if isinstance(listed, Sequence):
        coefficients |= {f"distortion_params[{i}]": value for i, value in enumerate(listed)}
    for name, value in coefficients.items():
        if value is not None and value != 0:
            raise InputError(f"{where}: the lens has distortion ({name} = {value}). {UNDISTORT}")


def _value(key: str, frame: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    value = frame.get(key)
    return shared.get(key) if value is None else value


def _field_of_view(
    source: Mapping[str, Any], axis: str, pixels: int, size_is_given: bool, where: str
) -> float | None:
    """From the focal length, or from the angle: a focal length needs the image size in the file."""
    focal, angle = source.get(f"fl_{axis}"), source.get(f"camera_angle_{axis}")
    if focal is not None and (size_is_given or angle is None):
        return focal2fov(_positive(focal, f"fl_{axis}", where), pixels)
    if angle is None:
        return None
    field = _positive(angle, f"camera_angle_{axis}", where)
    if field >= math.pi:
        raise InputError(f"{where}: camera_angle_{axis} must be below pi, got {field:g}")
    return field


def _principal_point(x: Any, y: Any, size: Size, where: str) -> tuple[float, float]:
    x, y = _number(x, "cx", where), _number(y, "cy", where)
    return x / size[0], y / size[1]


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {name} must be a number, got {value!r}")
    return float(value)


def _positive(value: Any, name: str, where: str) -> float:
    number = _number(value, name, where)
    if number <= 0:
        raise InputError(f"{where}: {name} must be positive, got {number:g}")
    return number


def _whole(value: Any, where: str) -> int:
    number = _positive(value, "an image side", where)
    if number != int(number):
        raise InputError(f"{where}: an image side must be a whole number of pixels, got {number:g}")
    return int(number)
