# SPDX-License-Identifier: Apache-2.0
"""The points that training starts from: their types, missing ones, and those out of view."""

import struct
from pathlib import Path

import numpy as np
import pytest
from made_datasets import make_colmap, options

from scene.dataset_readers import (
    CameraInfo,
    fetchPly,
    getNerfppNorm,
    readSceneInfo,
    storePly,
    write_input_ply,
)
from utils.errors import InputError

COLOURS = np.array([[0.0, 0.5, 1.0], [0.25, 0.75, 0.5]])


def write_ply(path: Path, names: list[str], kind: str, values: np.ndarray) -> Path:
    """Two points with the given columns of a PLY type."""
    header = ["ply", "format ascii 1.0", "element vertex 2"]
    header += [f"property float {name}" for name in "xyz"]
    header += [f"property {kind} {name}" for name in names]
    rows = [" ".join(map(str, row)) for row in np.hstack([np.full((2, 3), 2.0), values]).tolist()]
    path.write_text("\n".join([*header, "end_header", *rows, ""]))
    return path


@pytest.mark.parametrize(
    ("kind", "largest", "names"),
    [
        ("uchar", 255, "red green blue"),
        ("uchar", 255, "r g b"),
        ("uchar", 255, "diffuse_red diffuse_green diffuse_blue"),
        ("uchar", 255, "Red Green Blue"),
        ("ushort", 65535, "red green blue"),
        ("ushort", 255, "red green blue"),
        ("int", 255, "red green blue"),
        ("float", 1, "red green blue"),
        ("double", 1, "r g b"),
        ("float", 255, "red green blue"),
        ("float", 65535, "red green blue"),
    ],
)
def test_colours_of_every_type(tmp_path: Path, kind: str, largest: int, names: str) -> None:
    values = COLOURS * largest
    if kind not in ("float", "double"):
        values = values.round()
    cloud = fetchPly(write_ply(tmp_path / "p.ply", names.split(), kind, values))
    np.testing.assert_allclose(cloud.colors, COLOURS, atol=0.003)


def test_intensity_and_no_colours(tmp_path: Path) -> None:
    values = np.array([[0.0], [255.0]])
    cloud = fetchPly(write_ply(tmp_path / "a.ply", ["intensity"], "float", values))
    np.testing.assert_array_equal(cloud.colors, [[0, 0, 0], [1, 1, 1]])
    plain = fetchPly(write_ply(tmp_path / "b.ply", [], "float", np.zeros((2, 0))))
    np.testing.assert_array_equal(plain.colors, np.full((2, 3), 0.5))


@pytest.mark.parametrize("value", [-1.0, float("nan"), 1e6])
def test_invalid_colours_are_refused(tmp_path: Path, value: float) -> None:
    path = write_ply(tmp_path / "p.ply", ["r", "g", "b"], "float", np.full((2, 3), value))
    with pytest.raises(InputError, match=r"p\.ply: r, g, b must be"):
        fetchPly(path)


def points_bin(path: Path, positions: list[tuple[float, float, float]]) -> None:
    rows = [struct.pack("<Q3d3BdQ", i, *p, 9, 9, 9, 0.5, 0) for i, p in enumerate(positions)]
    path.write_bytes(struct.pack("<Q", len(rows)) + b"".join(rows))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e300])
@pytest.mark.parametrize("as_ply", [True, False])
def test_points_with_unusable_coordinates_are_left_out(
    tmp_path: Path, value: float, as_ply: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_colmap(tmp_path / "data", 2) / "sparse" / "0"
    positions = [(0, 0, 3.0), (0, value, 3), (1, 0, 3)]
    points_bin(model / "points3D.bin", positions)
    if as_ply:
        with np.errstate(over="ignore"):
            storePly(model / "points3D.ply", np.array(positions), np.zeros((3, 3)))
    scene = readSceneInfo(options(tmp_path / "data"))
    assert scene.point_cloud is not None
    np.testing.assert_array_equal(scene.point_cloud.points, [(0, 0, 3), (1, 0, 3)])
    assert "1 of 3 points have no finite coordinates" in caplog.text
    write_input_ply(tmp_path / "input.ply", scene)
    assert len(fetchPly(tmp_path / "input.ply").points) == 2


def test_a_cloud_without_usable_coordinates_is_refused(tmp_path: Path) -> None:
    model = make_colmap(tmp_path, 2) / "sparse" / "0"
    points_bin(model / "points3D.bin", [(0, float("nan"), 3.0)])
    with pytest.raises(InputError, match=r"points3D\.bin: none of the 1 points"):
        readSceneInfo(options(tmp_path))


def test_points_out_of_every_view(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_colmap(tmp_path, 2) / "sparse" / "0"
    points_bin(model / "points3D.bin", [(0, 0, -3.0), (0, 0, 0.1)])
    with pytest.raises(InputError, match="none of the 2 initial points is in front of any camera"):
        readSceneInfo(options(tmp_path))
    points_bin(model / "points3D.bin", [(0, 30, 3.0)])
    readSceneInfo(options(tmp_path))
    assert "None of the 1 initial points is in view of any camera" in caplog.text


@pytest.mark.parametrize("content", [None, b"", bytes(8)])
def test_without_points_random_ones_in_view(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_colmap(tmp_path, 3)
    path = folder / "sparse" / "0" / "points3D.bin"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    clouds = [readSceneInfo(options(folder)).point_cloud for _ in range(2)]
    assert "has no points3D: training starts from random points" in caplog.text
    assert clouds[0] is not None and clouds[1] is not None
    np.testing.assert_array_equal(clouds[0].points, clouds[1].points)
    x, y, z = clouds[0].points.T
    # The cameras at (0..2, 0, 0) look along z, with half fields of view of 0.4 and 0.25.
    assert z.min() > 0.2
    assert (x / z > -0.41).all() and ((x - 2) / z < 0.41).all() and (abs(y / z) < 0.251).all()


def test_an_empty_binary_beside_a_good_text(tmp_path: Path) -> None:
    model = make_colmap(tmp_path, 2) / "sparse" / "0"
    (model / "points3D.ply").write_bytes(b"")
    (model / "points3D.bin").write_bytes(b"")
    (model / "points3D.txt").write_text("\ufeff# points\n7 0 0 3 255 300 nan 0.5\n", "utf-8")
    cloud = readSceneInfo(options(tmp_path)).point_cloud
    assert cloud is not None
    np.testing.assert_array_equal(cloud.points, [(0, 0, 3)])
    np.testing.assert_array_equal(cloud.colors, [(1, 1, 0)])


def test_input_ply_has_the_layout_that_viewers_read(tmp_path: Path) -> None:
    folder = make_colmap(tmp_path / "data", 2)
    ply = folder / "sparse" / "0" / "points3D.ply"
    write_ply(ply, ["red", "green", "blue"], "float", COLOURS)
    write_input_ply(tmp_path / "input.ply", readSceneInfo(options(folder)))
    assert b"property uchar red" in (tmp_path / "input.ply").read_bytes()
    np.testing.assert_allclose(fetchPly(tmp_path / "input.ply").colors, COLOURS, atol=0.003)


@pytest.mark.parametrize(("distance", "is_far"), [(5e6, True), (10.0, False)])
def test_points_too_far_away_for_float32(
    tmp_path: Path, distance: float, is_far: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_colmap(tmp_path, 3) / "sparse" / "0"
    points_bin(model / "points3D.bin", [(0, 0, distance), (1, 0, distance)])
    readSceneInfo(options(tmp_path))
    assert ("towards the origin" in caplog.text) is is_far


def test_the_extent_of_cameras_far_away_is_exact() -> None:
    zero = np.zeros(3)
    far = np.array([5e6, 5e6, 0.0])
    extents = [
        getNerfppNorm([camera_at(start), camera_at(start + np.array([1.0, 0, 0]))])["radius"]
        for start in (zero, far)
    ]
    assert extents == pytest.approx([0.55, 0.55])


def camera_at(centre: np.ndarray) -> CameraInfo:
    return CameraInfo(0, np.eye(3), -centre, 1.0, 1.0, None, "", "", "", 10, 10, False)
