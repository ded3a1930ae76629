# SPDX-License-Identifier: Apache-2.0
"""Numbers as the small integers that several formats share. NumPy only."""

import numpy as np
import numpy.typing as npt

from splat_formats.splats import FloatArray
from utils.sh_terms import C0

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

ROOT_HALF = float(np.sqrt(0.5))
"""The largest size that a component of a unit quaternion can have if another one is larger."""
ALPHA_STEP = 1 / 255


def rounded(values: npt.NDArray, largest: int) -> npt.NDArray[np.uint32]:
    """The nearest integers, clipped to 0..largest. NaN becomes 0."""
    limited = np.clip(np.nan_to_num(values, nan=0.0), 0, largest)
    return np.floor(limited + 0.5).astype(np.uint32)


def rounded_bytes(values: npt.NDArray) -> Bytes:
    """The nearest integers, clipped to 0..255. NaN becomes 0."""
    return rounded(values, 255).astype(np.uint8)


def outside(values: npt.NDArray, low: float, high: float) -> int:
    """In how many rows a number is outside of low..high."""
    rows = values.reshape(len(values), -1) if values.size else np.zeros((len(values), 1))
    return int(np.count_nonzero(((rows < low) | (rows > high)).any(axis=1)))


def alpha_bytes(opacity: FloatArray) -> Bytes:
    """(N,) opacities of 0..1 in steps of 1/255, of logits (N, 1)."""
    with np.errstate(over="ignore"):
        return rounded_bytes(255 / (1 + np.exp(-opacity[:, 0].astype(np.float64))))


def logits(alpha: Bytes) -> FloatArray:
    """(N, 1) logits of alpha_bytes: finite, because 0 and 255 are read as the middle of the
    opacities that are rounded to them."""
    return _LOGITS[alpha].reshape(-1, 1)


_SHARES = np.clip(np.arange(256) * ALPHA_STEP, ALPHA_STEP / 4, 1 - ALPHA_STEP / 4)
_LOGITS = np.log(_SHARES / (1 - _SHARES)).astype(np.float32)


def colours(features_dc: FloatArray) -> npt.NDArray[np.float64]:
    """(N, 3) colours, mostly within 0..1, of coefficients of degree 0 (N, 1, 3)."""
    return features_dc[:, 0].astype(np.float64) * C0 + 0.5


def dc_of_colours(rgb: Floats) -> FloatArray:
    """The inverse of `colours`."""
    return ((rgb - 0.5) / C0).astype(np.float32)[:, None]


def unit_quaternions(rotation: Floats) -> npt.NDArray[np.float64]:
    """(N, 4) quaternions of length 1; those of zeros become 1, 0, 0, 0."""
    exact = rotation.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.where(length > 0, exact / np.where(length > 0, length, 1), [1.0, 0, 0, 0])


def three_smallest(rotation: Floats) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Of quaternions (N, 4) of any length, in any order of components: the index (N,) of the
    largest component, and the others (N, 3) of the unit quaternion whose largest is positive.
    """
    unit = unit_quaternions(rotation)
    index = np.abs(unit).argmax(axis=1)
    largest = np.take_along_axis(unit, index[:, None], axis=1)
    others = np.take_along_axis(unit, _OTHERS[index], axis=1)
    return index.astype(np.uint32), np.where(largest < 0, -others, others)


def quaternions(index: npt.NDArray, three: Floats) -> FloatArray:
    """(N, 4) quaternions: the inverse of three_smallest."""
    found = np.empty((len(three), 4), np.float32)
    largest = np.sqrt(np.maximum(0, 1 - np.square(three).sum(axis=1)))
    np.put_along_axis(found, _OTHERS[index], three.astype(np.float32), axis=1)
    np.put_along_axis(found, index[:, None].astype(np.intp), largest[:, None].astype(np.float32), 1)
    return found


_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
