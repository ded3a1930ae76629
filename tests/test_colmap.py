# SPDX-License-Identifier: Apache-2.0
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scene import colmap_loader
from utils.errors import InputError

Reader = Callable[[Path], Any]
SHARED = Path(__file__).parents[1].parent / "shared" / "data"

CAMERAS = struct.pack("<Q", 2)
CAMERAS += struct.pack("<iiQQ4d", 1, 1, 640, 480, 500.0, 510.0, 320.0, 240.0)
CAMERAS += struct.pack("<iiQQ3d", 7, 0, 100, 50, 80.0, 50.0, 25.0)
IMAGES = struct.pack("<Q", 2)
IMAGES += struct.pack("<i7di", 3, 1, 0, 0, 0, 0.5, -1, 2, 7) + "sub/é 1.png\0".encode()
IMAGES += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.5, 2.5, -1, 3.5, 4.5, 8)
IMAGES += struct.pack("<i7di", 4, 0, 1, 0, 0, 1, 2, 3, 1) + b"b.png\0" + struct.pack("<Q", 0)
POINTS = struct.pack("<Q", 3)
POINTS += struct.pack("<Q3d3BdQ", 8, 1, 2, 3, 10, 20, 255, 0.5, 2) + struct.pack("<4i", 3, 0, 4, 1)
POINTS += struct.pack("<Q3d3BdQ", 9, -1, -2, -3, 1, 2, 3, 0.25, 0)
POINTS += struct.pack("<Q3d3BdQ", 1, 7, 8, 9, 4, 5, 6, 1.5, 1) + struct.pack("<2i", 4, 0)

CAMERAS_TXT = """# comment
1 PINHOLE 640 480 500 510 320 240
7 SIMPLE_PINHOLE 100 50 80 50 25
"""
IMAGES_TXT = """# comment
3 1 0 0 0 0.5 -1 2 7 sub/é 1.png
1.5 2.5 -1 3.5 4.5 8
4 0 1 0 0 1 2 3 1 b.png

"""
POINTS_TXT = """# comment
8 1 2 3 10 20 255 0.5 3 0 4 1
9 -1 -2 -3 1 2 3 0.25
1 7 8 9 4 5 6 1.5 4 0
"""


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (CAMERAS, colmap_loader.read_intrinsics_binary),
        (CAMERAS_TXT, colmap_loader.read_intrinsics_text),
    ],
)
def test_cameras(tmp_path: Path, content: bytes | str, read: Reader) -> None:
    cameras = read(write(tmp_path / "cameras", content))
    assert list(cameras) == [1, 7]
    assert cameras[1][:4] == (1, "PINHOLE", 640, 480)
    np.testing.assert_array_equal(cameras[1].params, [500, 510, 320, 240])
    assert cameras[7].model == "SIMPLE_PINHOLE"
    np.testing.assert_array_equal(cameras[7].params, [80, 50, 25])


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (IMAGES, colmap_loader.read_extrinsics_binary),
        (IMAGES_TXT, colmap_loader.read_extrinsics_text),
        (IMAGES_TXT.rstrip("\n"), colmap_loader.read_extrinsics_text),
    ],
)
def test_images(tmp_path: Path, content: bytes | str, read: Reader) -> None:
    images = read(write(tmp_path / "images", content))
    assert list(images) == [3, 4]
    assert (images[3].name, images[3].camera_id) == ("sub/é 1.png", 7)
    np.testing.assert_array_equal(images[3].qvec, [1, 0, 0, 0])
    np.testing.assert_array_equal(images[3].tvec, [0.5, -1, 2])
    np.testing.assert_array_equal(images[3].xys, [[1.5, 2.5], [3.5, 4.5]])
    np.testing.assert_array_equal(images[3].point3D_ids, [-1, 8])
    assert images[4].xys.shape == (0, 2)
    np.testing.assert_array_equal(images[4].qvec2rotmat(), np.diag([1, -1, -1]))


@pytest.mark.parametrize("content", [POINTS, POINTS_TXT])
def test_points(tmp_path: Path, content: bytes | str) -> None:
    suffix = ".bin" if isinstance(content, bytes) else ".txt"
    points = colmap_loader.read_points3D(write(tmp_path / f"points{suffix}", content))
    np.testing.assert_array_equal(points.ids, [8, 9, 1])
    np.testing.assert_array_equal(points.xyz, [[1, 2, 3], [-1, -2, -3], [7, 8, 9]])
    np.testing.assert_array_equal(points.rgb, [[10, 20, 255], [1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(points.error, [[0.5], [0.25], [1.5]])
    assert points.rgb.dtype == np.uint8


def test_no_points(tmp_path: Path) -> None:
    assert colmap_loader.read_points3D_binary(write(tmp_path / "p.bin", bytes(8)))[0].shape == (
        0,
        3,
    )
    assert colmap_loader.read_points3D_text(write(tmp_path / "p.txt", ""))[1].shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (CAMERAS, colmap_loader.read_intrinsics_binary),
        (IMAGES, colmap_loader.read_extrinsics_binary),
        (POINTS, colmap_loader.read_points3D_binary),
    ],
)
def test_every_truncation_names_the_file_and_the_offset(
    tmp_path: Path, content: bytes, read: Reader
) -> None:
    path = tmp_path / "model.bin"
    for length in range(len(content)):
        with pytest.raises(InputError, match=r"model\.bin: truncated or corrupt at byte \d+"):
            read(write(path, content[:length]))


@pytest.mark.parametrize("offset", [0, 4])
def test_a_false_count_allocates_nothing(tmp_path: Path, offset: int) -> None:
    content = bytearray(POINTS)
    content[offset : offset + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(InputError, match="truncated or corrupt"):
        colmap_loader.read_points3D_binary(write(tmp_path / "p.bin", bytes(content)))


def test_unknown_camera_models_are_named(tmp_path: Path) -> None:
    content = struct.pack("<Q", 1) + struct.pack("<iiQQ", 1, 18, 640, 480)
    with pytest.raises(InputError, match=r"Colmap camera model not handled: 18 in .*cameras\.bin"):
        colmap_loader.read_intrinsics_binary(write(tmp_path / "cameras.bin", content))
    with pytest.raises(InputError, match="Colmap camera model not handled: STEREO"):
        colmap_loader.read_intrinsics_text(write(tmp_path / "c.txt", "1 STEREO 10 10 1\n"))


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("1 PINHOLE 640 480 500 510 320\n", colmap_loader.read_intrinsics_text),
        ("1 PINHOLE 640\n", colmap_loader.read_intrinsics_text),
        ("1 PINHOLE 640 x 1 2 3 4\n", colmap_loader.read_intrinsics_text),
        ("1 1 0 0 0 0 0 0 1\n\n", colmap_loader.read_extrinsics_text),
        ("1 1 0 0 0 0 0 0 x a.png\n\n", colmap_loader.read_extrinsics_text),
        ("1 1 0 0 0 0 0 0 1 a.png\n1 2\n", colmap_loader.read_extrinsics_text),
        ("1 2 3\n", colmap_loader.read_points3D_text),
        ("1 2 3 4 5 6 7 x\n", colmap_loader.read_points3D_text),
    ],
)
def test_broken_text_names_the_line(tmp_path: Path, content: str, read: Reader) -> None:
    with pytest.raises(InputError, match=r"model\.txt, line [23]: expected .*, got '"):
        read(write(tmp_path / "model.txt", "# comment\n" + content))


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 1e-2))
def test_quaternions_and_matrices(components: tuple[float, ...]) -> None:
    qvec = np.array(components) / np.linalg.norm(components)
    matrix = colmap_loader.qvec2rotmat(qvec)
    reference = Rotation.from_quat(np.roll(qvec, -1)).as_matrix()
    np.testing.assert_allclose(matrix, reference, atol=1e-12)
    back = colmap_loader.rotmat2qvec(matrix)
    assert back[0] >= 0
    assert abs(abs(back @ qvec) - 1) < 1e-12


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real captures are not here")
def test_text_and_binary_of_a_real_capture_agree() -> None:
    folder = SHARED / "snowmiku" / "sparse" / "0"
    binary = colmap_loader.read_extrinsics_binary(folder / "images.bin")
    text = colmap_loader.read_extrinsics_text(folder / "images.txt")
    assert len(binary) == 97
    for image_id, image in binary.items():
        assert image.name == text[image_id].name
        np.testing.assert_allclose(image.qvec, text[image_id].qvec, rtol=1e-12)
        np.testing.assert_allclose(image.tvec, text[image_id].tvec, rtol=1e-12)
    assert len(colmap_loader.read_points3D(folder / "points3D.bin").xyz) == 25_784
