# SPDX-License-Identifier: Apache-2.0
"""The sample scene: its files agree with its photographs, its shapes with their charts."""

import ast
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sample_scene import SceneSettings, make_scene
from scene.colmap_loader import (
    qvec2rotmat,
    read_extrinsics_binary,
    read_intrinsics_binary,
    read_points3D_binary,
)
from still_life.camera import rings
from still_life.colmap import _quaternion
from still_life.shapes import (
    Box,
    Cylinder,
    Placed,
    Pose,
    Shape,
    Sphere,
    Torus,
    combined,
    nearest,
    normalise,
    turned,
)
from utils.errors import InputError

ROOT = Path(__file__).parents[1]
TINY = SceneSettings(views=6, width=96, height=72, points=300, light_samples=4)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("still_life") / "scene"
    make_scene(folder, TINY)
    return folder


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_photograph_is_there_and_neither_black_nor_white(scene: Path) -> None:
    photographs = sorted((scene / "images").iterdir())
    assert [path.name for path in photographs] == [f"view_{i:03d}.png" for i in range(TINY.views)]
    for path in photographs:
        pixels = pixels_of(path)
        assert pixels.shape == (TINY.height, TINY.width, 3)
        assert 60 < pixels.mean() < 200
        assert pixels.std() > 25


def test_sparse_points_look_the_same_from_all_views(scene: Path) -> None:
    sparse = scene / "sparse" / "0"
    optics = read_intrinsics_binary(sparse / "cameras.bin")[1]
    focal, _, centre_x, centre_y = optics.params
    position, colour, _ = read_points3D_binary(sparse / "points3D.bin")
    assert len(position) > 200
    offsets, differences = [], []
    for image in read_extrinsics_binary(sparse / "images.bin").values():
        pixels = pixels_of(scene / "images" / image.name).astype(float)
        index = image.point3D_ids - 1
        seen = position[index] @ qvec2rotmat(image.qvec).T + image.tvec
        assert (seen[:, 2] > 0.2).all()
        x = seen[:, 0] / seen[:, 2] * focal + centre_x
        y = seen[:, 1] / seen[:, 2] * focal + centre_y
        offsets.append(np.hypot(x - image.xys[:, 0], y - image.xys[:, 1]))
        column = np.clip(x.astype(int), 0, TINY.width - 1)
        row = np.clip(y.astype(int), 0, TINY.height - 1)
        differences.append(np.abs(pixels[row, column] - colour[index]).mean(axis=1))
    # Keypoints are 0.4 pixel off per axis, points 0.2 % of their distance: about 0.7 pixel.
    assert np.median(np.concatenate(offsets)) < 1
    # The points lie on edges, which adds to the difference; a wrong pose or axis gives 50 or more.
    assert np.median(np.concatenate(differences)) < 25


def test_points_are_described_as_colmap_does(scene: Path) -> None:
    data = (scene / "sparse" / "0" / "points3D.bin").read_bytes()
    (count,) = struct.unpack_from("<Q", data)
    at = 8
    for number in range(1, count + 1):
        identity, *_, error, length = struct.unpack_from("<Q3d3BdQ", data, at)
        assert identity == number
        assert 0 < error < 10
        assert 3 <= length <= TINY.views
        track = np.frombuffer(data, "<i4", 2 * length, at + 51).reshape(-1, 2)
        assert len(set(track[:, 0])) == length
        at += 51 + 8 * length
    assert at == len(data)


def test_same_seed_same_bytes_other_seed_other_scene(scene: Path, tmp_path: Path) -> None:
    make_scene(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(scene)
    make_scene(tmp_path / "other", SceneSettings(4, 40, 30, 40, seed=7, light_samples=2))
    name = "images/view_000.png"
    assert contents(tmp_path / "other")[name] != contents(scene)[name]


def test_content_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="new or empty folder"):
        make_scene(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "flags",
    [
        *(["--size", "320"], ["--size", "00x10"], ["--views", "-3"], ["--views", "x"]),
        ["--seed", "-1"],
    ],
)
def test_bad_flags_are_named(flags: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "sample_scene.py"), str(tmp_path / "s"), *flags]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False
    )
    assert result.returncode == 2
    assert flags[0] in result.stderr
    assert not (tmp_path / "s").exists()


SHAPES = [
    Sphere(0.4),
    Box((0.2, 0.3, 0.4)),
    Box((2.0, 3.0, 1.5), inward=True),
    Cylinder(0.3, 0.2),
    Torus(0.4, 0.1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_charts_and_points_are_inverse(shape: Shape) -> None:
    rng = np.random.default_rng(3)
    for face in range(len(shape.face_sizes)):
        # Within 0.3 of the middle: a disc's square chart has corners outside the disc.
        u, v = (0.5 + rng.uniform(-0.3, 0.3, (2, 200))).astype(np.float32)
        chart = shape.chart(shape.point(face, u, v))
        assert (chart.face == face).all()
        np.testing.assert_allclose(chart.u, u, atol=1e-4)
        np.testing.assert_allclose(chart.v, v, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_rays_end_on_the_surface_and_meet_its_outer_side(shape: Shape) -> None:
    rng = np.random.default_rng(4)
    inside = isinstance(shape, Box) and shape.inward
    reach = 0.3 if inside else 3.0
    origin = normalise(rng.normal(size=(3, 4000)).astype(np.float32)) * np.float32(reach)
    target = rng.uniform(-0.5, 0.5, (3, 4000)).astype(np.float32)
    direction = normalise(target - origin)
    pose = Pose((0.1, -0.2, 0.3), combined(turned(30, "x"), turned(50)))
    distance, index = nearest((Placed(shape, pose),), origin, direction)
    hit = np.flatnonzero(index == 0)
    assert hit.size > 1000
    local = pose.point_to_local(origin[:, hit] + direction[:, hit] * distance[hit])
    chart = shape.chart(local)
    for face in range(len(shape.face_sizes)):
        at = chart.face == face
        back = shape.point(face, chart.u[at], chart.v[at])
        np.testing.assert_allclose(back, local[:, at], atol=2e-3)
    normal = pose.vector_to_room(shape.normal(local))
    assert ((normal * direction[:, hit]).sum(axis=0) < 0.02).all()


def test_the_ray_tracer_needs_numpy_and_pillow_only() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "still_life").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert outside == {"numpy", "PIL", "still_life"}


def test_quaternions_turn_as_their_matrices() -> None:
    for view in rings(12, 40, 30, seed=0):
        matrix = view.world_to_camera.astype(np.float64)
        np.testing.assert_allclose(qvec2rotmat(np.array(_quaternion(matrix))), matrix, atol=1e-6)
