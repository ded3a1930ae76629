# SPDX-License-Identifier: Apache-2.0
"""How far Gaussians are from others, row by row, in units that can be judged. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_formats.axes import unit_quaternions
from splat_formats.scene import NO_ORIGIN, Origin
from splat_formats.splats import FloatArray, Splats

Floats = npt.NDArray[np.float64]

SH_DC = 0.28209479177387814  # the constant spherical harmonic
_LEVELS = 255.0  # of an 8-bit colour
_DEGREES = 180 / np.pi


@dataclass(frozen=True, eq=False)
class Differences:
    """Of n Gaussians, all of them 0 or more."""

    distance: Floats
    """(n,) between the centres, world units."""
    scale: Floats
    """(n, 3) change of the standard deviations, as a fraction of them."""
    angle: Floats
    """(n,) of the rotation from one to the other, degrees."""
    opacity: Floats
    """(n,) of 0 to 1."""
    colour: Floats
    """(n, 3) of the degree-0 colour, 8-bit levels."""
    sh: Floats
    """(n, 3) of the other spherical harmonics: root mean square over directions, 8-bit levels.
    Coefficients that one of the two lacks count as 0 there."""


def differences(a: Splats, b: Splats, shift: Origin = NO_ORIGIN) -> Differences:
    """How far each Gaussian of `b`, moved by `shift`, is from the same row of `a`."""
    with np.errstate(over="ignore", invalid="ignore"):
        offset = b.xyz.astype(np.float64) - a.xyz + np.array(shift)
        dc = b.features_dc[:, 0].astype(np.float64) - a.features_dc[:, 0]
        return Differences(
            distance=np.linalg.norm(offset, axis=1),
            scale=np.abs(np.expm1(b.scaling.astype(np.float64) - a.scaling)),
            angle=_angles(a.rotation, b.rotation),
            opacity=np.abs(alpha_of(a) - alpha_of(b))[:, 0],
            colour=_LEVELS * SH_DC * np.abs(dc),
            sh=_LEVELS * _over_directions(a.features_rest, b.features_rest),
        )


def alpha_of(splats: Splats) -> Floats:
    """(N, 1) opacities from 0 to 1."""
    return 1 / (1 + np.exp(-np.clip(splats.opacity.astype(np.float64), -700, 700)))


def _angles(a: FloatArray, b: FloatArray) -> Floats:
    """(n,) degrees. By the chord between unit quaternions, which is exact for small angles too."""
    p, q = (unit_quaternions(rotation).astype(np.float64) for rotation in (a, b))
    p, q = (unit / np.linalg.norm(unit, axis=1, keepdims=True) for unit in (p, q))
    chord = np.minimum(np.linalg.norm(p - q, axis=1), np.linalg.norm(p + q, axis=1))
    return 4 * _DEGREES * np.arcsin(np.minimum(chord / 2, 1))


def _over_directions(a: FloatArray, b: FloatArray) -> Floats:
    """(n, 3) root mean square over all directions; the basis is orthonormal on the sphere."""
    common = min(a.shape[1], b.shape[1])
    both = b[:, :common].astype(np.float64) - a[:, :common]
    energy = np.square(both).sum(axis=1)
    for rest in (a[:, common:], b[:, common:]):
        energy += np.square(rest, dtype=np.float64).sum(axis=1)
    return np.sqrt(energy / (4 * np.pi))
