# SPDX-License-Identifier: Apache-2.0
"""COLMAP's sparse models, binary and text: cameras, images, points.

Layouts: COLMAP's documentation, https://colmap.github.io/format.html. Everything is little-endian
and unpadded. Every length is checked before it is used; errors name the file and the offset.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from utils.errors import InputError

FloatArray = npt.NDArray[np.float64]
PathLike = str | os.PathLike[str]


class CameraModel(NamedTuple):
    """A COLMAP camera model and its number of parameters."""

    model_id: int
    model_name: str
    num_params: int


CAMERA_MODELS = (
    CameraModel(0, "SIMPLE_PINHOLE", 3),
    CameraModel(1, "PINHOLE", 4),
    CameraModel(2, "SIMPLE_RADIAL", 4),
    CameraModel(3, "RADIAL", 5),
    CameraModel(4, "OPENCV", 8),
    CameraModel(5, "OPENCV_FISHEYE", 8),
    CameraModel(6, "FULL_OPENCV", 12),
    CameraModel(7, "FOV", 5),
    CameraModel(8, "SIMPLE_RADIAL_FISHEYE", 4),
    CameraModel(9, "RADIAL_FISHEYE", 5),
    CameraModel(10, "THIN_PRISM_FISHEYE", 12),
    CameraModel(11, "RAD_TAN_THIN_PRISM_FISHEYE", 16),
    CameraModel(12, "SIMPLE_DIVISION", 4),
    CameraModel(13, "DIVISION", 5),
    CameraModel(14, "SIMPLE_FISHEYE", 3),
    CameraModel(15, "FISHEYE", 4),
    CameraModel(16, "EUCM", 6),
    CameraModel(17, "EQUIRECTANGULAR", 2),
)


class Camera(NamedTuple):
    """Intrinsics: image size in pixels, and the model's parameters in pixels."""

    id: int
    model: str
    width: int
    height: int
    params: FloatArray


class Image(NamedTuple):
    """A registered photo: its world-to-camera pose and its keypoints.

    qvec: (4,) w, x, y, z; tvec: (3,); xys: (M, 2) pixels; point3D_ids: (M,), -1 for none.
    """

    id: int
    qvec: FloatArray
    tvec: FloatArray
    camera_id: int
    name: str
    xys: FloatArray
    point3D_ids: npt.NDArray[np.int64]

    def qvec2rotmat(self) -> FloatArray:
        """(3, 3) world-to-camera rotation."""
        return qvec2rotmat(self.qvec)


class Points3D(NamedTuple):
    """Triangulated points: ids (N,), positions (N, 3), colours (N, 3) 0..255, errors (N, 1)."""

    ids: npt.NDArray[np.int64]
    xyz: FloatArray
    rgb: npt.NDArray[np.uint8]
    error: FloatArray


def camera_model_error(path: PathLike, model: str | int) -> InputError:
    """The error for a camera model that cannot be used."""
    return InputError(
        f"Colmap camera model not handled: {model} in {path}: expected one of COLMAP's models "
        "whose photographs can be undistorted: all known to version 4.2 but EQUIRECTANGULAR"
    )


def qvec2rotmat(qvec: npt.ArrayLike) -> FloatArray:
    """(3, 3) rotation of a quaternion w, x, y, z of any length but 0."""
    w, x, y, z = np.asarray(qvec, np.float64) / np.linalg.norm(qvec)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotmat2qvec(R: npt.ArrayLike) -> FloatArray:
    """(4,) unit quaternion w, x, y, z, with w >= 0, of a rotation.

    The dominant eigenvector of a symmetric matrix made of R's entries: it averages the rounding
    errors of a matrix that is not quite orthogonal (Bar-Itzhack 2000).
    """
    m = np.asarray(R, np.float64)
    trace = np.trace(m)
    skew = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    k = np.empty((4, 4))
    k[0, 0] = trace
    k[0, 1:] = k[1:, 0] = skew
    k[1:, 1:] = m + m.T - trace * np.eye(3)
    qvec = np.linalg.eigh(k)[1][:, -1]
    return -qvec if qvec[0] < 0 else qvec


class _Bytes:
    """A whole file with a read position; every read is checked against the file's end."""

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.data = self.path.read_bytes()
        self.offset = 0

    def unpack(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + layout)
        self.require(size)
        values = struct.unpack_from("<" + layout, self.data, self.offset)
        self.offset += size
        return values

    def array(self, dtype: Any, count: int) -> npt.NDArray:
        dtype = np.dtype(dtype)
        self.require(dtype.itemsize * count)
        values = np.frombuffer(self.data, dtype, count, self.offset)
        self.offset += dtype.itemsize * count
        return values

    def name(self) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise self.error("an image name has no terminating zero byte")
        name = os.fsdecode(self.data[self.offset : end])
        self.offset = end + 1
        return name

    def require(self, size: int) -> None:
        if size > len(self.data) - self.offset:
            raise self.error(f"{size} bytes expected, {len(self.data) - self.offset} left")

    def error(self, problem: str) -> InputError:
        return InputError(f"{self.path}: truncated or corrupt at byte {self.offset}: {problem}")


def read_intrinsics_binary(path_to_model_file: PathLike) -> dict[int, Camera]:
    """Cameras by id from a cameras.bin."""
    file = _Bytes(path_to_model_file)
    (count,) = file.unpack("Q")
    cameras = {}
    for _ in range(count):
        camera_id, model_id, width, height = file.unpack("iiQQ")
        if not 0 <= model_id < len(CAMERA_MODELS):
            raise camera_model_error(file.path, model_id)
        model = CAMERA_MODELS[model_id]
        params = file.array("<f8", model.num_params)
        cameras[camera_id] = Camera(camera_id, model.model_name, width, height, params)
    return cameras


def read_extrinsics_binary(path_to_model_file: PathLike) -> dict[int, Image]:
    """Images by id from an images.bin."""
    file = _Bytes(path_to_model_file)
    (count,) = file.unpack("Q")
    images = {}
    for _ in range(count):
        image_id, *pose, camera_id = file.unpack("i7di")
        name = file.name()
        (keypoint_count,) = file.unpack("Q")
        keypoints = file.array([("xy", "<f8", 2), ("point3D_id", "<i8")], keypoint_count)
        images[image_id] = _image(
            image_id, pose, camera_id, name, keypoints["xy"], keypoints["point3D_id"]
        )
    return images


def count_images(path: PathLike) -> int:
    """The number of images in an images.bin or images.txt."""
    if Path(path).suffix == ".txt":
        return len(read_extrinsics_text(path))
    with Path(path).open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _image(
    image_id: int,
    pose: list[float],
    camera_id: int,
    name: str,
    xys: FloatArray,
    point3D_ids: npt.NDArray[np.int64],
) -> Image:
    qvec, tvec = np.array(pose[:4]), np.array(pose[4:])
    return Image(image_id, qvec, tvec, camera_id, name, xys, point3D_ids)


_POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)
_TRACK_ELEMENT_BYTES = 8  # image id and keypoint index, int32 each
_POINT_LINE = "POINT3D_ID X Y Z R G B ERROR TRACK..."
_IMAGE_LINE = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"


def read_points3D(path: PathLike) -> Points3D:
    """The points of a points3D.bin or points3D.txt, with their ids."""
    return _points3D_text(path) if Path(path).suffix == ".txt" else _points3D_binary(path)


def read_points3D_binary(
    path_to_model_file: PathLike,
) -> tuple[FloatArray, npt.NDArray[np.uint8], FloatArray]:
    """Positions (N, 3), colours (N, 3) and errors (N, 1) from a points3D.bin."""
    return _points3D_binary(path_to_model_file)[1:]


def read_points3D_text(path: PathLike) -> tuple[FloatArray, npt.NDArray[np.uint8], FloatArray]:
    """Positions (N, 3), colours (N, 3) and errors (N, 1) from a points3D.txt."""
    return _points3D_text(path)[1:]


def _points3D_binary(path: PathLike) -> Points3D:
    """The points; the track of each point is skipped.

    Records differ in length because of their tracks, so Python finds the start of each in a loop;
    all fields are then gathered at once.
    """
    file = _Bytes(path)
    (count,) = file.unpack("Q")
    file.require(count * _POINT.itemsize)
    track_length = struct.Struct("<Q").unpack_from
    track_field, data, end = _POINT.fields["track"][1], file.data, len(file.data)  # type: ignore[index]
    offsets = np.empty(count, np.int64)
    for i in range(count):
        if file.offset + _POINT.itemsize > end:
            raise file.error(f"{count} points expected, {i} found")
        offsets[i] = file.offset
        (length,) = track_length(data, file.offset + track_field)
        file.offset += _POINT.itemsize + _TRACK_ELEMENT_BYTES * length
    if file.offset > end:
        raise file.error("the last track is incomplete")
    rows = np.frombuffer(data, np.uint8)[offsets[:, None] + np.arange(_POINT.itemsize)]
    points = rows.view(_POINT)[:, 0]
    return Points3D(
        points["id"].astype(np.int64),
        points["xyz"].astype(np.float64),
        points["rgb"].copy(),
        points["error"].astype(np.float64)[:, None],
    )


def _text_lines(path: PathLike) -> Iterator[tuple[int, str]]:
    """Numbered lines, without comments."""
    with Path(path).open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.startswith("#"):
                yield number, line.strip()


def _text_error(path: PathLike, number: int, line: str, expected: str) -> InputError:
    return InputError(f"{path}, line {number}: expected {expected}, got {line[:80]!r}")


def read_intrinsics_text(path: PathLike) -> dict[int, Camera]:
    """Cameras by id from a cameras.txt."""
    cameras = {}
    for number, line in _text_lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            camera = Camera(
                int(camera_id), model, int(width), int(height), np.array(params, np.float64)
            )
        except ValueError as error:
            raise _text_error(
                path, number, line, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS..."
            ) from error
        expected = {known.model_name: known.num_params for known in CAMERA_MODELS}.get(model)
        if expected is None:
            raise camera_model_error(path, model)
        if len(params) != expected:
            raise _text_error(path, number, line, f"{expected} parameters of {model}")
        cameras[camera.id] = camera
    return cameras


def read_extrinsics_text(path: PathLike) -> dict[int, Image]:
    """Images by id from an images.txt; names may contain spaces."""
    images = {}
    lines = _text_lines(path)
    for number, line in lines:
        if not line:
            continue
        # Each image takes two lines; the second, its keypoints, may be empty.
        keypoints_number, keypoint_line = next(lines, (number, ""))
        try:
            image_id, *pose, camera_id, name = line.split(maxsplit=9)
            values = [float(value) for value in pose]
            ids = int(image_id), int(camera_id)
        except ValueError as error:
            raise _text_error(path, number, line, _IMAGE_LINE) from error
        if len(pose) != 7:
            raise _text_error(path, number, line, _IMAGE_LINE)
        try:
            keypoints = np.array(keypoint_line.split(), np.float64).reshape(-1, 3)
        except ValueError as error:
            expected = "X Y POINT3D_ID..."
            raise _text_error(path, keypoints_number, keypoint_line, expected) from error
        xys, point3D_ids = keypoints[:, :2], keypoints[:, 2].astype(np.int64)
        images[ids[0]] = _image(ids[0], values, ids[1], name, xys, point3D_ids)
    return images


def _points3D_text(path: PathLike) -> Points3D:
    table = []
    for number, line in _text_lines(path):
        if not line:
            continue
        try:
            table.append([float(word) for word in line.split(maxsplit=8)[:8]])
        except ValueError as error:
            raise _text_error(path, number, line, _POINT_LINE) from error
        if len(table[-1]) != 8:
            raise _text_error(path, number, line, _POINT_LINE)
    values = np.array(table, np.float64).reshape(-1, 8)
    return Points3D(
        values[:, 0].astype(np.int64),
        values[:, 1:4],
        np.nan_to_num(values[:, 4:7]).clip(0, 255).astype(np.uint8),
        values[:, 7:8],
    )
