# SPDX-License-Identifier: Apache-2.0
"""`point_cloud.ply`, the format that 3D Gaussian Splatting writes and every viewer reads.

The writer's header and layout are exactly the usual ones, byte for byte: SIBR reads packed records
without looking at the names. The reader accepts what is found in the wild: properties in any order
and type, extra ones, no normals, ascii, either byte order.
"""

import os

import numpy as np

from splat_formats.ply_table import PlyTable, read_ply_table
from splat_formats.scene import SplatScene
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, FloatArray, Splats
from utils.errors import InputError
from utils.files import atomic_path

_XYZ = ["x", "y", "z"]
_NORMAL = ["nx", "ny", "nz"]
_DC = ["f_dc_0", "f_dc_1", "f_dc_2"]
_OPACITY = ["opacity"]
_SCALE = ["scale_0", "scale_1", "scale_2"]
_ROTATION = ["rot_0", "rot_1", "rot_2", "rot_3"]
_ROWS_PER_WRITE = 1 << 16  # 16 MB of rows: large enough for the disk, small beside the model


def is_ply(head: bytes) -> bool:
    """Whether a file that begins with `head` is a PLY."""
    return head.split(maxsplit=1)[:1] == [b"ply"]


def read_ply_scene(path: str | os.PathLike[str]) -> SplatScene:
    """The Gaussians in the PLY file at `path`, and what else its header holds."""
    return SplatScene(read_ply(path))


def write_ply_scene(path: str | os.PathLike[str], scene: SplatScene) -> tuple[str, ...]:
    """Writes the scene to `path`, whole or not at all."""
    write_ply(path, scene.splats)
    return ()


def read_ply(path: str | os.PathLike[str]) -> Splats:
    """The Gaussians in the PLY file at `path`; a file with none is valid and gives N = 0.

    The degree of the spherical harmonics follows from the number of `f_rest_*` properties. Raises
    `InputError` if the file is no PLY, is truncated, or lacks a property of a Gaussian.
    """
    table = read_ply_table(path)
    missing = [
        name for name in _XYZ + _DC + _OPACITY + _SCALE + _ROTATION if name not in table.columns
    ]
    if missing:
        raise InputError(
            f"{table.path}: not a Gaussian splat PLY: no property {', '.join(missing)}"
        )
    n = table.count
    rest = _rest_count(table)
    # Channel-major in the file (all red coefficients, then all green, ...), RGB inner in memory.
    rest_names = [f"f_rest_{channel * rest + k}" for k in range(rest) for channel in range(3)]
    return Splats(
        xyz=table.stack(_XYZ),
        features_dc=table.stack(_DC).reshape(n, 1, 3),
        features_rest=table.stack(rest_names).reshape(n, rest, 3),
        opacity=table.stack(_OPACITY),
        scaling=table.stack(_SCALE),
        rotation=table.stack(_ROTATION),
    )


def write_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Writes `splats` to `path`, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_header(splats))
        for start in range(0, splats.count, _ROWS_PER_WRITE):
            rows(splats, start, start + _ROWS_PER_WRITE).tofile(file)


def rows(splats: Splats, start: int, stop: int) -> FloatArray:
    """(n, 17 + 3 K) little-endian records of the Gaussians start..stop-1, in the file's order."""
    part = slice(start, min(stop, splats.count))
    n = part.stop - part.start
    columns = (
        splats.xyz[part],
        np.zeros((n, 3), np.float32),
        splats.features_dc[part, 0],
        splats.features_rest[part].transpose(0, 2, 1).reshape(n, -1),
        splats.opacity[part],
        splats.scaling[part],
        splats.rotation[part],
    )
    return np.concatenate(columns, axis=1).astype("<f4", copy=False)


def _rest_count(table: PlyTable) -> int:
    """K, coefficients per channel beyond degree 0."""
    found = sum(name.startswith("f_rest_") for name in table.columns)
    if found not in (3 * rest for rest in REST_COEFFICIENTS):
        raise InputError(
            f"{table.path}: {found} f_rest_* properties fit no spherical-harmonic degree "
            f"from 0 to {MAX_SH_DEGREE}, which have {[3 * rest for rest in REST_COEFFICIENTS]}"
        )
    return found // 3


def _header(splats: Splats) -> bytes:
    rest_names = [f"f_rest_{i}" for i in range(3 * splats.features_rest.shape[1])]
    names = [*_XYZ, *_NORMAL, *_DC, *rest_names, *_OPACITY, *_SCALE, *_ROTATION]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {splats.count}",
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    return "".join(line + "\n" for line in lines).encode("ascii")
