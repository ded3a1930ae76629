# SPDX-License-Identifier: Apache-2.0
"""Metadata entries from a compression's settings and views (docs/format.md). NumPy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_DIGITS = 4


def changed_settings(settings: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """The entries of nested dictionaries that differ from the preset's."""
    changed = {}
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(preset[name], dict):
            value = changed_settings(value, preset[name])
            if value:
                changed[name] = value
        elif value != preset[name]:
            changed[name] = value
    return changed


def up_axis(rotations: Sequence[npt.NDArray]) -> list[float] | None:
    """The cameras' mean up direction in the world, a unit vector; None where they do not agree.

    `rotations` (3, 3) turn camera axes (x right, y down, z forward) to the world's.
    """
    if not rotations:
        return None
    mean = -np.mean([rotation[:, 1] for rotation in rotations], axis=0)
    length = float(np.linalg.norm(mean))
    if length < 0.5:  # the unit vectors point in very different directions
        return None
    return [round(float(x), _DIGITS) for x in mean / length]
