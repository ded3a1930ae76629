# SPDX-License-Identifier: Apache-2.0
"""Intrinsics of pinhole cameras, from COLMAP's camera models and from transforms files.

A camera with lens distortion becomes the pinhole camera of its undistorted photographs. Pixel
coordinates are those of COLMAP, (0, 0) at the outer corner of the top left pixel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scene.camera_models import MODELS, Lens, undistorted_camera
from scene.colmap_loader import Camera as ColmapCamera
from scene.colmap_loader import PathLike, camera_model_error
from utils.errors import InputError
from utils.graphics_utils import focal2fov, fov2focal
from utils.photos import Size

_CENTRE = (0.5, 0.5)
_LONGEST_SIDE = 100_000
"""Pixels, of photographs with lens distortion, which is computed along their borders."""
_FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
# Names of transforms files -> the coefficients that are read, and the model that has them.
_PERSPECTIVE = ("k1", "k2", "p1", "p2", "k3")
_FISHEYE = ("k1", "k2", "k3", "k4")
_PERSPECTIVE_NAMES = (
    *("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE"),
    *("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"),
)
_FISHEYE_NAMES = ("OPENCV_FISHEYE", "FISHEYE")
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: image size in pixels, fields of view in radians.

    The fields of view are those of an image of this size with a central principal point;
    `principal_point` is in fractions of width and height. `lens` is the camera that took the
    photographs, if they must be undistorted to be images of this one.
    """

    width: int
    height: int
    fov_x: float
    fov_y: float
    principal_point: tuple[float, float] = _CENTRE
    lens: Lens | None = None


def colmap_intrinsics(camera: ColmapCamera, model_folder: PathLike) -> Intrinsics:
    """The pinhole camera of a COLMAP camera; `InputError` for bad numbers and unknown models."""
    model = MODELS.get(camera.model)
    if model is None:
        raise camera_model_error(model_folder, camera.model)
    where = f"camera {camera.id} in {model_folder}"
    names = (*("focal length",) * model.focal_lengths, "cx", "cy", *model.coefficients)
    values = tuple(
        _number(float(value), name, where) for name, value in zip(names, camera.params, strict=True)
    )
    for value in values[: model.focal_lengths]:
        _positive(value, "focal length", where)
    size = _whole(camera.width, where), _whole(camera.height, where)
    return _without_distortion(Lens(camera.model, *size, values), where)


def _without_distortion(lens: Lens, where: str) -> Intrinsics:
    """The pinhole camera of the photographs that `lens` took, undistorted if they need it."""
    if lens.is_pinhole:
        size = lens.width, lens.height
        return _pinhole(size, lens.focal, lens.centre, None, where)
    if max(lens.width, lens.height) > _LONGEST_SIDE:
        raise InputError(
            f"{where}: expected sides of at most {_LONGEST_SIDE} pixels, got "
            f"{lens.width}x{lens.height}"
        )
    try:
        found = undistorted_camera(lens)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    focal, centre = (found.focal_x, found.focal_y), (found.centre_x, found.centre_y)
    return _pinhole((found.width, found.height), focal, centre, lens, where)


def _pinhole(
    size: Size, focal: Sequence[float], centre: Sequence[float], lens: Lens | None, where: str
) -> Intrinsics:
    return Intrinsics(
        *size,
        focal2fov(focal[0], size[0]),
        focal2fov(focal[1], size[1]),
        _principal_point(centre[0], centre[1], size, where),
        lens,
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

    `photo` is the photograph's size, for files that give none; `where` is for messages. Raises
    `InputError` for a lens that cannot be undistorted.
    """
    model, coefficients = _distortion(frame, shared, where)
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
    centre = (
        width / 2 if centre_x is None else _number(centre_x, "cx", where),
        height / 2 if centre_y is None else _number(centre_y, "cy", where),
    )
    if model is None:
        return Intrinsics(
            width, height, fov_x, fov_y, _principal_point(*centre, (width, height), where)
        )
    if source.get("fl_x") is None and model in _FISHEYE_NAMES:
        raise InputError(f"{where}: expected fl_x, w and h of a fisheye camera")
    focal = fov2focal(fov_x, width), fov2focal(fov_y, height)
    return _without_distortion(Lens(model, width, height, (*focal, *centre, *coefficients)), where)


def _distortion(
    frame: Mapping[str, Any], shared: Mapping[str, Any], where: str
) -> tuple[str | None, tuple[float, ...]]:
    """The camera model of a frame and its coefficients; None for a pinhole camera."""
    name = str(_value("camera_model", frame, shared) or "PINHOLE").upper()
    if _value("is_fisheye", frame, shared):
        name = "OPENCV_FISHEYE"
    if name not in (*_PERSPECTIVE_NAMES, *_FISHEYE_NAMES):
        known = ", ".join((*_PERSPECTIVE_NAMES, *_FISHEYE_NAMES))
        raise InputError(f"{where}: expected one of the camera models {known}, got {name}")
    is_fisheye = name in _FISHEYE_NAMES
    found = _coefficients(frame, shared, where)
    used = _FISHEYE if is_fisheye else _COEFFICIENTS if name == "FULL_OPENCV" else _PERSPECTIVE
    if unused := [key for key, value in found.items() if value != 0 and key not in used]:
        # Programs differ in what k4 of a perspective camera means.
        raise InputError(
            f"{where}: the lens has distortion ({unused[0]} = {found[unused[0]]:g}) that the "
            f"camera model {name} does not have: expected {', '.join(used)} only"
        )
    if is_fisheye:
        return "OPENCV_FISHEYE", tuple(found[key] for key in _FISHEYE)
    if not any(found.values()):
        return None, ()
    return "FULL_OPENCV", tuple(found[key] for key in MODELS["FULL_OPENCV"].coefficients)


def _coefficients(
    frame: Mapping[str, Any], shared: Mapping[str, Any], where: str
) -> dict[str, float]:
    """The coefficients by name, 0 where none is given."""
    listed = _value("distortion_params", frame, shared)
    if isinstance(listed, Sequence) and any(value != 0 for value in listed):
        raise InputError(
            f"{where}: the lens has distortion_params without names: give k1, k2, p1, p2, ... "
            "instead"
        )
    values = {key: _value(key, frame, shared) for key in _COEFFICIENTS}
    return {key: 0.0 if v is None else _number(v, key, where) for key, v in values.items()}


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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
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
