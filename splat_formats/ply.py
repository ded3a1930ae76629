# SPDX-License-Identifier: Apache-2.0
"""`point_cloud.ply`, the format that 3D Gaussian Splatting writes and every viewer reads.

The writer's header and layout are exactly the usual ones, byte for byte: SIBR reads packed records
and ignores the names. The reader accepts what other programs write (docs/ply.md).
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from splat_formats.ply_header import is_ply
from splat_formats.ply_table import PlyTable, read_ply_table
from splat_formats.positions import Placed, place, relative_to
from splat_formats.repairs import flat_scale, gaussians, zero_rows
from splat_formats.scene import NO_ORIGIN, Origin, SplatMetadata, SplatScene, Written
from splat_formats.smoothing import with_smoothing
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, FloatArray, Splats
from utils.errors import InputError
from utils.files import atomic_path

__all__ = [
    "RENDER_MODE_LINE",
    "in_short",
    "is_antialiased",
    "is_ply",
    "ply_parts",
    "read_ply",
    "read_ply_scene",
    "scene_of_table",
    "write_ply",
    "write_ply_scene",
]

_XYZ = ["x", "y", "z"]
_NORMAL = ["nx", "ny", "nz"]
_DC = ["f_dc_0", "f_dc_1", "f_dc_2"]
_OPACITY = ["opacity"]
_SCALE = ["scale_0", "scale_1", "scale_2"]
_ROTATION = ["rot_0", "rot_1", "rot_2", "rot_3"]
_SMOOTHING = "filter_3D"  # of Mip-Splatting
_REST = "f_rest_"
_ROWS_PER_WRITE = 1 << 12  # 1 MB of rows: large enough for the disk, and stays in the cache
# Comments that Brush and Postshot write; the last one counts.
_RENDER_MODE = re.compile(r"(?:SplatRenderMode:\s*(\w+)|antialiased:?\s+(\w+))$", re.IGNORECASE)
_ANTIALIASED = ("mip", "1", "true")
_BYTES_PER_MOVE = 1 << 26
_NUMBER_DIGITS = 9
RENDER_MODE_LINE = "comment SplatRenderMode: mip"


def read_ply_scene(path: str | os.PathLike[str]) -> SplatScene:
    """The Gaussians in the PLY file at `path`; a file with none is valid and gives N = 0.

    The degree of the spherical harmonics follows from the number of `f_rest_*` properties. Raises
    `InputError` if the file is no PLY, is truncated, or lacks a property of a Gaussian.
    """
    return scene_of_table(read_ply_table(path))


def scene_of_table(table: PlyTable, origin: Origin | None = None) -> SplatScene:
    """The Gaussians in the vertices of a PLY file, relative to `origin`.

    None: to the one that float32 needs, if any. Raises `InputError` where a property is missing.
    """
    _check_properties(table)
    scaling, scaling_notices = _scaling(table)
    rest, rest_notices = _features_rest(table)
    placed = _placed(table, scaling, origin)
    splats = Splats(
        xyz=placed.xyz,
        features_dc=table.stack(_DC).reshape(table.count, 1, 3),
        features_rest=rest,
        opacity=opacity_of(table),
        scaling=scaling,
        rotation=table.stack(_ROTATION),
    )
    splats, smoothing_notices = _smoothed(table, splats)
    notices = (
        *filter(None, [placed.notice]),
        *scaling_notices,
        *rest_notices,
        *smoothing_notices,
        *zeros_notices(zero_rows(splats)),
        *_ignored_notices(table),
    )
    return SplatScene(splats, SplatMetadata(is_antialiased(table), placed.origin, notices))


def _placed(table: PlyTable, scaling: FloatArray, origin: Origin | None) -> Placed:
    xyz = xyz_of(table)
    if origin is None:
        return place(xyz, scaling)
    return Placed(relative_to(xyz, origin), origin, None)


def xyz_of(table: PlyTable) -> npt.NDArray[np.floating]:
    """(N, 3) positions in float64 where the file has doubles, else in float32."""
    has_doubles = any(table.columns[axis].dtype.itemsize > 4 for axis in _XYZ)
    return table.stack(_XYZ, np.float64 if has_doubles else np.float32)


def opacity_of(table: PlyTable) -> FloatArray:
    """(N, 1) logits, as they are in the file."""
    return table.stack(_OPACITY)


def read_ply(path: str | os.PathLike[str]) -> Splats:
    """The Gaussians alone, for files that lie near their origin."""
    return read_ply_scene(path).splats


def _check_properties(table: PlyTable) -> None:
    if any(name.startswith("packed_") for name in table.columns):
        raise InputError(
            f"{table.path}: this is a compressed PLY (PlayCanvas), a plain one is expected: "
            "convert it with convert_splats.py"
        )
    wanted = [*_XYZ, *_DC, *_OPACITY, *_SCALE[:2], *_ROTATION]
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise InputError(
            f"{table.path}: not a Gaussian splat PLY: no property {', '.join(missing)}"
        )
    used = [name for name in table.columns if _is_known(name) and name not in _NORMAL]
    integers = [name for name in used if table.columns[name].dtype.kind != "f"]
    if integers:
        kind = table.columns[integers[0]].dtype
        raise InputError(
            f"{table.path}: property {integers[0]} has the type {kind}, but a floating-point "
            "number is expected: the meaning of the integers is unknown"
        )


def _is_known(name: str) -> bool:
    known = (*_XYZ, *_NORMAL, *_DC, *_OPACITY, *_SCALE, *_ROTATION, _SMOOTHING)
    return name in known or name.startswith(_REST)


def _scaling(table: PlyTable) -> tuple[FloatArray, tuple[str, ...]]:
    """(N, 3) log scales; of 2D Gaussians, whose files have two, the third is very small."""
    if _SCALE[2] in table.columns:
        return table.stack(_SCALE), ()
    two = table.stack(_SCALE[:2])
    notice = "2D Gaussians (no property scale_2): read as flat 3D Gaussians"
    return np.concatenate([two, flat_scale(two)], axis=1), (notice,)


def _features_rest(table: PlyTable) -> tuple[FloatArray, tuple[str, ...]]:
    """(N, K, 3) higher coefficients; of a degree above the greatest supported, the lower bands."""
    found = sum(name.startswith(_REST) for name in table.columns)
    degree = round((found / 3 + 1) ** 0.5) - 1
    in_file = (degree + 1) ** 2 - 1
    if found != 3 * in_file:
        raise InputError(
            f"{table.path}: {found} f_rest_* properties fit no spherical-harmonic degree "
            f"from 0 to {MAX_SH_DEGREE}, which have {[3 * rest for rest in REST_COEFFICIENTS]}"
        )
    kept = min(in_file, REST_COEFFICIENTS[-1])
    # Channel-major in the file (all red coefficients, then all green, ...), RGB inner in memory.
    names = [f"{_REST}{channel * in_file + k}" for k in range(kept) for channel in range(3)]
    rest = table.stack(names).reshape(table.count, kept, 3)
    if degree <= MAX_SH_DEGREE:
        return rest, ()
    return rest, (f"SH degree {degree}: bands above degree {MAX_SH_DEGREE} are left out",)


def _smoothed(table: PlyTable, splats: Splats) -> tuple[Splats, tuple[str, ...]]:
    """Mip-Splatting's filter as part of sizes and opacities, where the file has one."""
    if _SMOOTHING not in table.columns:
        return splats, ()
    if _SCALE[2] not in table.columns:
        raise InputError(
            f"{table.path}: {_SMOOTHING} of 2D Gaussians (no property scale_2) is not supported: "
            "its meaning is unknown"
        )
    smoothed = with_smoothing(splats, table.columns[_SMOOTHING])
    notice = f"{_SMOOTHING} (Mip-Splatting) is fused into scales and opacities"
    return smoothed, (notice,)


def zeros_notices(count: int) -> tuple[str, ...]:
    """A sentence on so many Gaussians with zeros only, where there are any."""
    if not count:
        return ()
    return (f"{gaussians(count)} with zeros only: the file may be incomplete",)


def _ignored_notices(table: PlyTable) -> tuple[str, ...]:
    names = [name for name in table.columns if not _is_known(name)]
    left_out = [f"the property {name}" for name in in_short(names)] + list(table.left_out)
    return (f"not used: {', '.join(left_out)}",) if left_out else ()


def in_short(names: list[str]) -> list[str]:
    """The names, with "a_0 ... a_9" for numbered ones that follow each other."""
    runs: list[list[str]] = []
    for name in names:
        stem, _, number = name.rpartition("_")
        is_number = number.isdecimal() and len(number) < _NUMBER_DIGITS
        if runs and is_number and runs[-1][-1] == f"{stem}_{int(number) - 1}":
            runs[-1].append(name)
        else:
            runs.append([name])
    return [run[0] if len(run) == 1 else f"{run[0]} ... {run[-1]}" for run in runs]


def is_antialiased(table: PlyTable) -> bool:
    """Whether the file's comments declare a model for rendering with antialiasing."""
    modes = [found for line in table.comments if (found := _RENDER_MODE.match(line))]
    return bool(modes) and (modes[-1][1] or modes[-1][2]).lower() in _ANTIALIASED


def write_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Writes `splats` to `path`, whole or not at all."""
    write_ply_scene(path, SplatScene(splats))


def write_ply_scene(path: str | os.PathLike[str], scene: SplatScene) -> Written:
    """Writes the scene to `path`, whole or not at all.

    Of a model with an origin, x, y and z are doubles in world coordinates, which not all viewers
    can read: a notice is returned.
    """
    count, splats = scene.splats.count, scene.splats
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_header(str(count), splats.features_rest.shape[1], scene.metadata))
        write_records(file, splats, scene.metadata.origin)
    return Written(origin_notices(scene.metadata.origin))


def origin_notices(origin: Origin) -> tuple[str, ...]:
    """A sentence on positions that are written as doubles, where they are."""
    if origin == NO_ORIGIN:
        return ()
    return ("x, y and z are doubles, because float32 is too coarse so far from 0: SIBR and other "
            "viewers that expect floats cannot read this file",)  # fmt: skip


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Adds bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in hexadecimal digits."""
        ...


class PlyWriter:
    """Writes a model in parts; made by `ply_parts`."""

    def __init__(
        self, file: BinaryIO, coefficients: int, origin: Origin, digest: Digest | None
    ) -> None:
        self._file, self._coefficients, self._origin = file, coefficients, origin
        self._digest = digest
        self.count = 0
        """Gaussians written so far."""
        self.sha256: str | None = None
        """Of the complete file, in hexadecimal digits, after the block, if it is known."""

    def add(self, part: Splats) -> None:
        """Writes the next Gaussians, and waits until they are on the disk.

        At the end, the disk would have to write all of a big model at once.
        """
        if part.features_rest.shape[1] != self._coefficients:
            raise ValueError(
                f"{self._coefficients} SH coefficients expected, got {part.features_rest.shape[1]}"
            )
        for records in _all_records(part, self._origin):
            self._file.write(records)
            if self._digest is not None:
                self._digest.update(records)
        self.count += part.count
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def ply_parts(
    path: str | os.PathLike[str],
    most: int,
    coefficients: int,
    metadata: SplatMetadata,
    is_hashed: bool = False,
) -> Iterator[PlyWriter]:
    """A writer of a model in parts, whose file is complete, or absent, after the block.

    `most` Gaussians at most are in all parts together. Where their number has fewer digits, the
    rows move forward at the end, by as many bytes. With `is_hashed`, the writer has the file's
    digest at the end; only where `most` was not the number of Gaussians is the file read for it.
    """
    first = _header(str(most), coefficients, metadata)
    with atomic_path(path) as temporary, temporary.open("w+b") as file:
        file.write(first)
        digest: Digest | None = hashlib.sha256(first) if is_hashed else None
        writer = PlyWriter(file, coefficients, metadata.origin, digest)
        yield writer
        if writer.count > most:
            raise ValueError(f"at most {most} Gaussians expected in all parts, got {writer.count}")
        head = _header(str(writer.count), coefficients, metadata)
        if len(head) < len(first):
            _move(file, len(first), len(head))
        file.seek(0)
        if head != first:
            file.write(head)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256") if is_hashed else None
        writer.sha256 = digest.hexdigest() if digest is not None else None


def _move(file: BinaryIO, start: int, to: int) -> None:
    """Moves all bytes from `start` on to an earlier place, where the file then ends sooner."""
    while True:
        file.seek(start)
        part = file.read(_BYTES_PER_MOVE)
        file.seek(to)
        if not part:
            file.truncate()
            return
        file.write(part)
        start, to = start + len(part), to + len(part)


def write_records(file: BinaryIO, splats: Splats, origin: Origin) -> None:
    """Writes the rows of a PLY file."""
    for records in _all_records(splats, origin):
        file.write(records)


def _all_records(splats: Splats, origin: Origin) -> Iterator[bytes | memoryview]:
    """The bytes of all rows, in parts."""
    for start in range(0, splats.count, _ROWS_PER_WRITE):
        yield _records(splats, origin, start, start + _ROWS_PER_WRITE)


def _records(splats: Splats, origin: Origin, start: int, stop: int) -> bytes | memoryview:
    """The bytes of the rows start..stop-1."""
    floats = rows(splats, start, stop)
    if origin == NO_ORIGIN:
        return floats.data
    records = np.empty(len(floats), [("xyz", "<f8", 3), ("others", "<f4", floats.shape[1] - 3)])
    records["xyz"] = floats[:, :3].astype(np.float64) + np.array(origin)
    records["others"] = floats[:, 3:]
    return records.tobytes()


def rows(splats: Splats, start: int, stop: int) -> FloatArray:
    """(n, 17 + 3 K) little-endian records of the Gaussians start..stop-1, in the file's order."""
    part = slice(start, min(stop, splats.count))
    n, coefficients = part.stop - part.start, splats.features_rest.shape[1]
    end = 9 + 3 * coefficients
    records = np.empty((n, end + 8), "<f4")
    records[:, :3] = splats.xyz[part]
    records[:, 3:6] = 0  # normals
    records[:, 6:9] = splats.features_dc[part, 0]
    by_channel = splats.features_rest[part].transpose(0, 2, 1)
    records[:, 9:end].reshape(n, 3, coefficients)[:] = by_channel
    records[:, end : end + 1] = splats.opacity[part]
    records[:, end + 1 : end + 4] = splats.scaling[part]
    records[:, end + 4 :] = splats.rotation[part]
    return records


def _header(count: str, coefficients: int, metadata: SplatMetadata) -> bytes:
    """The header of a file with so many Gaussians, and higher SH coefficients per channel."""
    rest_names = [f"{_REST}{i}" for i in range(3 * coefficients)]
    names = [*_NORMAL, *_DC, *rest_names, *_OPACITY, *_SCALE, *_ROTATION]
    position = "float" if metadata.origin == NO_ORIGIN else "double"
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {count}",  # SIBR expects it here, and comments after it
        *([RENDER_MODE_LINE] if metadata.antialiasing else []),
        *(f"property {position} {name}" for name in _XYZ),
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    return "".join(line + "\n" for line in lines).encode("ascii")
