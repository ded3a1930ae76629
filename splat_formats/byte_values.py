# SPDX-License-Identifier: Apache-2.0
"""Opacities in 8 bits, and quaternions without their largest component."""

import numpy as np
import numpy.typing as npt

from splat_formats.axes import unit_quaternions
from splat_formats.splats import FloatArray

ByteArray = npt.NDArray[np.uint8]

ROOT_HALF = float(np.sqrt(0.5))
"""No component but the largest of a unit quaternion is beyond this."""
_STEPS = 255
# Row i: the components beside component i.
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def bytes_of_logits(logits: FloatArray) -> ByteArray:
    """255 times the opacities of these logits, rounded; any shape."""
    with np.errstate(over="ignore"):
        alpha = _STEPS / (1 + np.exp(-logits))
    return np.rint(alpha).astype(np.uint8)


def logits_of_bytes(values: ByteArray) -> FloatArray:
    """The logits of opacities that were rounded to 1/255.

    Of 0 and 1, whose logits are infinite, those half a step away: no opacity that is rounded to
    them differs from that by more than half a step.
    """
    alpha = np.clip(values / _STEPS, 0.5 / _STEPS, 1 - 0.5 / _STEPS)
    return np.log(alpha / (1 - alpha)).astype(np.float32)


def smallest_three(rotation: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Of quaternions (N, 4): the index (N,) of the largest component, and the others (N, 3).

    The quaternion is a unit one, with the sign that makes the largest component positive.
    """
    unit = unit_quaternions(rotation)
    largest = np.abs(unit).argmax(axis=1)
    signs = np.sign(np.take_along_axis(unit, largest[:, None], axis=1))
    return largest, np.take_along_axis(unit, _OTHERS[largest], axis=1) * signs


def with_largest(largest: npt.NDArray[np.intp], three: npt.NDArray[np.floating]) -> FloatArray:
    """The unit quaternions (N, 4) whose largest component was left out: of `smallest_three`."""
    found = np.empty((len(three), 4), np.float32)
    np.put_along_axis(found, _OTHERS[largest], three, axis=1)
    rest = np.sqrt(np.maximum(0, 1 - (three**2).sum(axis=1, keepdims=True)))
    np.put_along_axis(found, largest[:, None], rest, axis=1)
    return found
