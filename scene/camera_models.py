# SPDX-License-Identifier: Apache-2.0
"""Lens distortion of COLMAP's camera models, and the pinhole camera that replaces each.

A model maps the point (u, v) = (x / z, y / z) of a ray to a distorted point, which focal lengths
and principal point map to pixels. Names and order of the parameters: COLMAP's documentation,
https://colmap.github.io/cameras.html. Formulas: OpenCV's documentation of `calib3d` (radial,
tangential, rational, fisheye), Devernay and Faugeras 2001 (FOV), Weng et al. 1992 (thin prism),
Project Aria's documentation (fisheye with radial, tangential and thin prism terms), Fitzgibbon 2001
(division), Khomutenko et al. 2016 (EUCM). All are compared with pycolmap's results in the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from utils.errors import InputError

FloatArray = npt.NDArray[np.float64]
Points = tuple[FloatArray, FloatArray]
"""u and v of some points."""

LEAST_SCALE, MOST_SCALE = 0.2, 2.0
"""Limits of the undistorted image's width and height, in parts of the photograph's, as COLMAP's."""

_NEWTON_STEPS = 40
_NEWTON_DELTA = 1e-6
_CONVERGED, _FOUND = 1e-9, 1e-7  # in units of the focal length
_WIDEST_START = 1.4  # radians
_RADIUS_SAMPLES = 2000
_DIRECTIONS = 8
_LEAST_SIDE = 8  # pixels


class Pinhole(NamedTuple):
    """A pinhole camera: image size, focal lengths and principal point, in pixels."""

    width: int
    height: int
    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float


# --- The models -----------------------------------------------------------------------------------


def _series(square: FloatArray, coefficients: tuple[float, ...]) -> FloatArray:
    """1 + c1 s + c2 s^2 + ... of the squared radius s."""
    total, power = np.ones_like(square), np.ones_like(square)
    for coefficient in coefficients:
        power = power * square
        total = total + coefficient * power
    return total


def _tangential(u: FloatArray, v: FloatArray, along_v: float, along_u: float) -> Points:
    square = u * u + v * v
    return (
        2 * along_v * u * v + along_u * (square + 2 * u * u),
        2 * along_u * u * v + along_v * (square + 2 * v * v),
    )


def _equidistant(u: FloatArray, v: FloatArray) -> Points:
    """The point at the same direction whose radius is the angle between ray and optical axis."""
    radius = np.hypot(u, v)
    scale = np.where(radius > 0, np.arctan(radius) / np.where(radius > 0, radius, 1.0), 1.0)
    return u * scale, v * scale


def _polynomial(u: FloatArray, v: FloatArray, *radial: float) -> Points:
    scale = _series(u * u + v * v, radial)
    return u * scale, v * scale


def _opencv(u: FloatArray, v: FloatArray, k1: float, k2: float, p1: float, p2: float) -> Points:
    scale = _series(u * u + v * v, (k1, k2))
    shift_u, shift_v = _tangential(u, v, p1, p2)
    return u * scale + shift_u, v * scale + shift_v


def _full_opencv(u: FloatArray, v: FloatArray, *c: float) -> Points:
    k1, k2, p1, p2, k3, k4, k5, k6 = c
    square = u * u + v * v
    scale = _series(square, (k1, k2, k3)) / _series(square, (k4, k5, k6))
    shift_u, shift_v = _tangential(u, v, p1, p2)
    return u * scale + shift_u, v * scale + shift_v


def _fov(u: FloatArray, v: FloatArray, omega: float) -> Points:
    radius = np.hypot(u, v)
    safe = np.where(radius > 0, radius, 1.0)
    slope = 2 * np.tan(omega / 2)
    scale = np.where(radius > 0, np.arctan(safe * slope) / (safe * omega), slope / omega)
    return u * scale, v * scale


def _fisheye(u: FloatArray, v: FloatArray, *radial: float) -> Points:
    return _polynomial(*_equidistant(u, v), *radial)


def _thin_prism_fisheye(u: FloatArray, v: FloatArray, *c: float) -> Points:
    k1, k2, p1, p2, k3, k4, prism_u, prism_v = c
    u, v = _equidistant(u, v)
    square = u * u + v * v
    scale = _series(square, (k1, k2, k3, k4))
    shift_u, shift_v = _tangential(u, v, p1, p2)
    return u * scale + shift_u + prism_u * square, v * scale + shift_v + prism_v * square


def _radial_tangential_thin_prism_fisheye(u: FloatArray, v: FloatArray, *c: float) -> Points:
    radial, (p0, p1), (s0, s1, s2, s3) = c[:6], c[6:8], c[8:]
    u, v = _polynomial(*_equidistant(u, v), *radial)
    square = u * u + v * v
    shift_u, shift_v = _tangential(u, v, p1, p0)
    return (
        u + shift_u + s0 * square + s1 * square**2,
        v + shift_v + s2 * square + s3 * square**2,
    )


def _division(u: FloatArray, v: FloatArray, k: float) -> Points:
    """The solution d of d / (1 + k |d|^2) = (u, v); not finite where there is none."""
    scale = 2 / (1 + np.sqrt(1 - 4 * k * (u * u + v * v)))
    return u * scale, v * scale


def _extended_unified(u: FloatArray, v: FloatArray, alpha: float, beta: float) -> Points:
    depth = alpha * np.sqrt(beta * (u * u + v * v) + 1) + 1 - alpha
    return u / depth, v / depth


_FISHEYE_DISTORTIONS = (_fisheye, _thin_prism_fisheye, _radial_tangential_thin_prism_fisheye)


@dataclass(frozen=True)
class Model:
    """A camera model: number of focal lengths, names of the coefficients, and the distortion.

    `distort` is None for the two pinhole models. With `is_pinhole_at_zero` the model is a pinhole
    camera if all coefficients are 0.
    """

    focal_lengths: int
    coefficients: tuple[str, ...] = ()
    distort: Callable[..., Points] | None = None
    is_pinhole_at_zero: bool = True


_FIRST_6 = ("k1", "k2", "p1", "p2", "k3", "k4")
_RADIAL_6 = ("k0", "k1", "k2", "k3", "k4", "k5")

MODELS: dict[str, Model] = {
    "SIMPLE_PINHOLE": Model(1),
    "PINHOLE": Model(2),
    "SIMPLE_RADIAL": Model(1, ("k",), _polynomial),
    "RADIAL": Model(1, ("k1", "k2"), _polynomial),
    "OPENCV": Model(2, ("k1", "k2", "p1", "p2"), _opencv),
    "OPENCV_FISHEYE": Model(2, ("k1", "k2", "k3", "k4"), _fisheye, False),
    "FULL_OPENCV": Model(2, (*_FIRST_6, "k5", "k6"), _full_opencv),
    "FOV": Model(2, ("omega",), _fov),
    "SIMPLE_RADIAL_FISHEYE": Model(1, ("k",), _fisheye, False),
    "RADIAL_FISHEYE": Model(1, ("k1", "k2"), _fisheye, False),
    "THIN_PRISM_FISHEYE": Model(2, (*_FIRST_6, "sx1", "sy1"), _thin_prism_fisheye, False),
    "RAD_TAN_THIN_PRISM_FISHEYE": Model(
        2,
        (*_RADIAL_6, "p0", "p1", "s0", "s1", "s2", "s3"),
        _radial_tangential_thin_prism_fisheye,
        False,
    ),
    "SIMPLE_DIVISION": Model(1, ("k",), _division),
    "DIVISION": Model(2, ("k",), _division),
    "SIMPLE_FISHEYE": Model(1, (), _fisheye, False),
    "FISHEYE": Model(2, (), _fisheye, False),
    "EUCM": Model(2, ("alpha", "beta"), _extended_unified, False),
}
"""All of COLMAP's models but EQUIRECTANGULAR: no pinhole image can replace a panorama."""


# --- A camera with distortion ---------------------------------------------------------------------


@dataclass(frozen=True)
class Lens:
    """A camera with lens distortion: one of the `MODELS`, its image size and parameters in pixels.

    `parameters` are in COLMAP's order: focal lengths, principal point, coefficients.
    """

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    @property
    def focal(self) -> tuple[float, float]:
        """The focal lengths along x and y, in pixels."""
        return self.parameters[0], self.parameters[MODELS[self.model].focal_lengths - 1]

    @property
    def centre(self) -> tuple[float, float]:
        """The principal point, in pixels from the outer corner of the top left pixel."""
        count = MODELS[self.model].focal_lengths
        return self.parameters[count], self.parameters[count + 1]

    @property
    def is_pinhole(self) -> bool:
        """Whether the photographs are images of a pinhole camera: no coefficient has an effect."""
        model = MODELS[self.model]
        coefficients = self.parameters[model.focal_lengths + 2 :]
        return model.distort is None or (model.is_pinhole_at_zero and not any(coefficients))

    def distort(self, u: FloatArray, v: FloatArray) -> Points:
        """The distorted points of rays (u, v, 1); not finite where the model has none."""
        model = MODELS[self.model]
        if model.distort is None:
            return u, v
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return model.distort(u, v, *self.parameters[model.focal_lengths + 2 :])

    def pixels(self, u: FloatArray, v: FloatArray) -> Points:
        """Where the photograph shows the rays (u, v, 1), in pixels."""
        x, y = self.distort(u, v)
        return x * self.focal[0] + self.centre[0], y * self.focal[1] + self.centre[1]


@lru_cache(maxsize=4096)
def undistorted_camera(lens: Lens) -> Pinhole:
    """The pinhole camera whose image is the undistorted photograph: that of COLMAP's undistorter.

    Focal lengths stay. Width and height are scaled so that every pixel of the image is in the
    photograph (COLMAP's `blank_pixels` 0), from 0.2 to 2 times the photograph's, and the principal
    point stays at the same part of them. Unlike COLMAP's, the image also ends where the model's
    radius stops growing, from where on it would repeat what it shows. InputError if less than 8
    pixels are left.
    """
    (focal_x, focal_y), (centre_x, centre_y) = lens.focal, lens.centre
    limit = _growing_radius(lens)
    scale_x, scale_y = _scales(lens, limit)
    shrunk = min(1.0, limit / _corner_radius(lens, scale_x, scale_y))
    width, height = int(scale_x * shrunk * lens.width), int(scale_y * shrunk * lens.height)
    if min(width, height) < min(_LEAST_SIDE, lens.width, lens.height):
        raise InputError(
            f"camera model {lens.model} with the parameters {lens.parameters} distorts too much: "
            f"only {width}x{height} pixels of {lens.width}x{lens.height} can be undistorted"
        )
    return Pinhole(
        *(width, height, focal_x, focal_y),
        *(centre_x * width / lens.width, centre_y * height / lens.height),
    )


def _scales(lens: Lens, limit: float) -> tuple[float, float]:
    """Width and height of the undistorted image in parts of the photograph's.

    Rays beyond the radius `limit` are not considered.

    The pixel of a border whose undistorted position is nearest to the principal point limits the
    image there, and of two opposite borders the one with less room limits both.
    """
    scales = []
    for axis, size in enumerate((lens.width, lens.height)):
        centre = lens.centre[axis]
        reach = [_reach(lens, axis, border, limit) for border in (0.5, size - 0.5)]
        rooms = [centre, size - 0.5 - centre]
        part = min(r / room for r, room in zip(reach, rooms, strict=True) if room > 0)
        scales.append(float(np.clip(part, LEAST_SCALE, MOST_SCALE)))
    return scales[0], scales[1]


def _reach(lens: Lens, axis: int, border: float, limit: float) -> float:
    """The least distance from the principal point, along `axis`, of the border's pixels.

    In pixels, once undistorted. Infinite if no ray in front of the camera reaches the border.
    """
    across = (np.arange((lens.height, lens.width)[axis]) + 0.5).astype(np.float64)
    pixels: list[FloatArray] = [across, across]
    pixels[axis] = np.full_like(across, border)
    distorted = [(pixels[i] - lens.centre[i]) / lens.focal[i] for i in (0, 1)]
    rays = _undistort(lens, distorted[0], distorted[1])
    usable = (np.hypot(*rays) < limit) & (rays[axis] * distorted[axis] > 0)  # False for NaN
    return float(np.abs(rays[axis][usable]).min(initial=np.inf)) * lens.focal[axis]


def _undistort(lens: Lens, x: FloatArray, y: FloatArray) -> Points:
    """The rays (u, v, 1) of distorted points, by Newton's method; NaN where there are none."""
    u, v = x.copy(), y.copy()
    if MODELS[lens.model].distort in _FISHEYE_DISTORTIONS:
        angle = np.minimum(np.hypot(x, y), _WIDEST_START)
        growth = np.where(angle > 0, np.tan(angle) / np.where(angle > 0, np.hypot(x, y), 1.0), 1.0)
        u, v = u * growth, v * growth
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON_STEPS):
            at_u, at_v = lens.distort(u, v)
            beside_u, beside_v = lens.distort(u + _NEWTON_DELTA, v)
            below_u, below_v = lens.distort(u, v + _NEWTON_DELTA)
            uu, vu = (beside_u - at_u) / _NEWTON_DELTA, (beside_v - at_v) / _NEWTON_DELTA
            uv, vv = (below_u - at_u) / _NEWTON_DELTA, (below_v - at_v) / _NEWTON_DELTA
            left_u, left_v = x - at_u, y - at_v
            determinant = uu * vv - uv * vu
            u = u + (vv * left_u - uv * left_v) / determinant
            v = v + (uu * left_v - vu * left_u) / determinant
            if not (np.hypot(left_u, left_v) > _CONVERGED).any():
                break
        at_u, at_v = lens.distort(u, v)
        found = np.hypot(x - at_u, y - at_v) < _FOUND
    return np.where(found, u, np.nan), np.where(found, v, np.nan)


def _corner_radius(lens: Lens, scale_x: float, scale_y: float) -> float:
    """The largest radius of a ray (u, v, 1) in an undistorted image of this scale."""
    (focal_x, focal_y), (centre_x, centre_y) = lens.focal, lens.centre
    across = max(centre_x, lens.width - centre_x) * scale_x / focal_x
    down = max(centre_y, lens.height - centre_y) * scale_y / focal_y
    return float(np.hypot(across, down))


def _growing_radius(lens: Lens) -> float:
    """The radius up to which the distorted radius grows with it, in all directions.

    Beyond it, polynomials with strong coefficients return towards the middle: the same parts of the
    photograph would appear twice. Infinite if this is outside the largest image.
    """
    radii = np.linspace(0, _corner_radius(lens, MOST_SCALE, MOST_SCALE), _RADIUS_SAMPLES)[:, None]
    turns = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    x, y = lens.distort(radii * np.cos(turns), radii * np.sin(turns))
    grows = np.diff(x * np.cos(turns) + y * np.sin(turns), axis=0) > 0  # False for NaN
    everywhere = grows.all(axis=1)
    return np.inf if everywhere.all() else float(radii[np.argmin(everywhere), 0])
