# SPDX-License-Identifier: Apache-2.0
""".splat files: 32 bytes a Gaussian and nothing else; no spherical harmonics beyond degree 0.

Layout: README of github.com/antimatter15/splat. Files have no magic number: they are recognised by
their name, their length and plausible numbers.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile
from splat_formats.byte_codes import (
    alpha_bytes,
    colours,
    dc_of_colours,
    logits,
    outside,
    rounded_bytes,
    unit_quaternions,
)
from splat_formats.prepared import clipped_notices, origin_notices
from splat_formats.repairs import gaussians, showable
from splat_formats.scene import SplatScene, Written
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.files import atomic_path

ENDING = ".splat"

_ROW = np.dtype([("xyz", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
_FIRST_ROWS = 128
_LARGEST = 1e9  # a greater position or size in each of the first rows is no model's
# Linear scales in float32: neither 0, which no logarithm stands for, nor infinite.
_LEAST_SCALE, _MOST_SCALE = -87.0, 88.0
_ROWS_AT_ONCE = 1 << 16


def is_splat_path(path: Path) -> bool:
    """Whether the file has the name and the length of a .splat file, and plausible numbers."""
    if not path.is_file() or path.suffix.lower() != ENDING:
        return False
    size = path.stat().st_size
    if not size or size % _ROW.itemsize:
        return False
    rows = np.fromfile(path, _ROW, _FIRST_ROWS)
    is_position = np.isfinite(rows["xyz"]) & (np.abs(rows["xyz"]) < _LARGEST)
    is_scale = (rows["scale"] >= 0) & (rows["scale"] < _LARGEST)
    return bool(np.mean(is_position & is_scale) > 0.5)


def read_splat(path: Path) -> SplatScene:
    """The scene in a .splat file. Raises CorruptFile if the last Gaussian is cut short."""
    size = path.stat().st_size
    if not size or size % _ROW.itemsize:
        raise CorruptFile(
            "rows", f"{size} bytes, a multiple of {_ROW.itemsize} above 0 is expected"
        )
    rows = np.fromfile(path, _ROW)
    with np.errstate(divide="ignore", invalid="ignore"):  # of 0: flat, see repairs.py
        scaling = np.log(rows["scale"])
    return SplatScene(
        Splats(
            xyz=np.ascontiguousarray(rows["xyz"], np.float32),
            features_dc=dc_of_colours(rows["rgba"][:, :3] / np.float32(255)),
            features_rest=np.empty((len(rows), 0, 3), np.float32),
            opacity=logits(rows["rgba"][:, 3]),
            scaling=scaling.astype(np.float32),
            rotation=np.asarray(rows["rotation"] / 128 - 1, np.float32),
        )
    )


def write_splat(path: Path, scene: SplatScene) -> Written:
    """Writes the scene, the Gaussians that cover most first, whole or not at all.

    Raises InputError if there are none: a file of no bytes could not be recognised.
    """
    shown = showable(scene.splats)
    if not shown.splats.count:
        raise InputError(f"{path}: a .splat file holds at least one Gaussian, the model has none")
    order = _order(shown.splats)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for start in range(0, len(order), _ROWS_AT_ONCE):
            file.write(_rows(shown.splats.rows(order[start : start + _ROWS_AT_ONCE])).tobytes())
    notices = (*shown.notices, *origin_notices(scene), *_losses(shown.splats, scene))
    return Written(notices, shown.rows[order])


def _order(splats: Splats) -> npt.NDArray[np.intp]:
    """By volume times opacity, as viewers that show a file while it loads expect."""
    weights = splats.scaling.sum(axis=1, dtype=np.float64)
    weights -= np.logaddexp(0, -splats.opacity[:, 0].astype(np.float64))
    return np.argsort(-weights, kind="stable")


def _rows(splats: Splats) -> npt.NDArray:
    rows = np.empty(splats.count, _ROW)
    rows["xyz"] = splats.xyz
    rows["scale"] = np.exp(np.clip(splats.scaling, _LEAST_SCALE, _MOST_SCALE))
    rows["rgba"][:, :3] = rounded_bytes(255 * colours(splats.features_dc))
    rows["rgba"][:, 3] = alpha_bytes(splats.opacity)
    rows["rotation"] = rounded_bytes(128 * unit_quaternions(splats.rotation) + 128)
    return rows


def _losses(splats: Splats, scene: SplatScene) -> tuple[str, ...]:
    """A sentence for everything that the format cannot hold."""
    dropped = []
    if splats.sh_degree:
        dropped.append(
            f"spherical harmonics of degrees 1 to {splats.sh_degree} of "
            f"{gaussians(splats.count)} are dropped: the format has none"
        )
    if scene.metadata.antialiasing:
        dropped.append("the format does not record that the model is rendered with antialiasing")
    clipped = {
        "base colours (outside 0 to 1)": outside(colours(splats.features_dc), 0, 1),
        "scales": outside(splats.scaling, _LEAST_SCALE, _MOST_SCALE),
    }
    return (*dropped, *clipped_notices(clipped))
