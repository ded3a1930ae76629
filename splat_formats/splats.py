# SPDX-License-Identifier: Apache-2.0
"""The six raw tensors of a trained Gaussian model as one value."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from utils.errors import InputError

FloatArray = npt.NDArray[np.float32]

MAX_SH_DEGREE = 3
# Spherical-harmonic coefficients per channel beyond degree 0, by degree.
REST_COEFFICIENTS = tuple((degree + 1) ** 2 - 1 for degree in range(MAX_SH_DEGREE + 1))


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians as they are stored: before exp, sigmoid and normalisation.

    All arrays are float32. Raises `InputError` if a shape or a type is wrong.
    """

    xyz: FloatArray
    """(N, 3) centres, world units."""
    features_dc: FloatArray
    """(N, 1, 3) spherical harmonics of degree 0, RGB."""
    features_rest: FloatArray
    """(N, K, 3) higher spherical harmonics, RGB; K = (degree + 1)^2 - 1."""
    opacity: FloatArray
    """(N, 1) logits."""
    scaling: FloatArray
    """(N, 3) natural logarithms of the standard deviations, world units."""
    rotation: FloatArray
    """(N, 4) quaternions w, x, y, z of any length."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_float32(field.name, getattr(self, field.name))
        n = len(self.xyz)
        rest = self.features_rest.shape[1] if self.features_rest.ndim == 3 else -1
        if rest not in REST_COEFFICIENTS:
            raise InputError(
                f"features_rest must have shape (N, K, 3) with K in {REST_COEFFICIENTS}, "
                f"got {self.features_rest.shape}"
            )
        expected = {
            "xyz": (n, 3),
            "features_dc": (n, 1, 3),
            "features_rest": (n, rest, 3),
            "opacity": (n, 1),
            "scaling": (n, 3),
            "rotation": (n, 4),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"{name} must have shape {shape}, got {getattr(self, name).shape}")

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return len(self.xyz)

    def columns(self) -> dict[str, FloatArray]:
        """Every attribute as a matrix (N, C), by name; no copies."""
        widths = {"features_dc": 3, "features_rest": 3 * self.features_rest.shape[1]}
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array.reshape(self.count, widths.get(name, array.shape[-1]))
                for name, array in arrays.items()}  # fmt: skip

    def rows(self, rows: slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Splats":
        """The chosen Gaussians."""
        if isinstance(rows, slice):
            return Splats(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})
        numbers = rows.nonzero()[0] if rows.dtype == np.bool_ else rows
        return Splats(**{field.name: getattr(self, field.name).take(numbers, axis=0)
                         for field in fields(self)})  # fmt: skip

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return REST_COEFFICIENTS.index(self.features_rest.shape[1])


def no_splats(sh_degree: int) -> Splats:
    """A model of this degree without Gaussians."""
    rest = REST_COEFFICIENTS[sh_degree]
    shapes = {"xyz": (0, 3), "features_dc": (0, 1, 3), "features_rest": (0, rest, 3),
              "opacity": (0, 1), "scaling": (0, 3), "rotation": (0, 4)}  # fmt: skip
    return Splats(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def joined(parts: Sequence[Splats]) -> Splats:
    """The Gaussians of all parts; higher spherical harmonics that some of them lack are 0."""
    if len(parts) == 1:
        return parts[0]
    most = max(part.features_rest.shape[1] for part in parts)
    columns: dict[str, list[FloatArray]] = {field.name: [] for field in fields(Splats)}
    for part in parts:
        for name, arrays in columns.items():
            array = getattr(part, name)
            if name == "features_rest":
                array = np.pad(array, ((0, 0), (0, most - array.shape[1]), (0, 0)))
            arrays.append(array)
    return Splats(**{name: np.concatenate(arrays) for name, arrays in columns.items()})


def _require_float32(name: str, array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim == 0:
        came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{name} must be a float32 array, got {came}")
