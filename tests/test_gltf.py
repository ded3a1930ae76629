# SPDX-License-Identifier: Apache-2.0
import base64
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_formats.files import read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from splat_formats.turns import HALF_TURN_Z, quaternion_of, turned
from tests.other_programs import alphas, angles, gltf_issues, write_by_splat_transform
from tests.test_ply import random_splats
from utils.errors import InputError

PREFIX = "KHR_gaussian_splatting:"
CODES = {np.int8: 5120, np.uint8: 5121, np.int16: 5122, np.uint16: 5123, np.float32: 5126}

Json = dict[str, Any]


def parts_of(data: bytes) -> tuple[Json, bytes]:
    """The JSON object and the buffer of a .glb file."""
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def glb(document: Json, binary: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I", len(text)) + b"JSON" + text
    chunks += struct.pack("<I", len(binary)) + b"BIN\0" + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def read_glb(path: Path, document: Json, binary: bytes) -> SplatScene:
    path.write_bytes(glb(document, binary))
    return read_splats(path)


@pytest.fixture
def splats() -> Splats:
    return random_splats(20, 1)


@pytest.fixture
def model(tmp_path: Path, splats: Splats) -> tuple[Json, bytes]:
    """The parts of a file with these Gaussians."""
    write_splats(tmp_path / "model.glb", SplatScene(splats))
    return parts_of((tmp_path / "model.glb").read_bytes())


def accessor_of(document: Json, name: str) -> int:
    return document["meshes"][0]["primitives"][0]["attributes"][name]


def with_attribute(
    model: tuple[Json, bytes], name: str, values: np.ndarray, normalised: bool = False
) -> tuple[Json, bytes]:
    """The file with other content of an attribute, at the end of the buffer."""
    document, binary = model
    index, view = accessor_of(document, name), len(document["bufferViews"])
    content = values.tobytes()
    entry = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(content)}
    document["bufferViews"].append(entry)
    document["accessors"][index] |= {
        "bufferView": view,
        "componentType": CODES[values.dtype.type],
        "normalized": normalised,
    }
    document["buffers"][0]["byteLength"] = len(binary) + len(content)
    return document, binary + content


def assert_same(found: Splats, expected: Splats, tolerance: float = 2e-6) -> None:
    for name in ("xyz", "features_dc", "features_rest", "scaling"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=tolerance, err_msg=name
        )
    assert np.abs(alphas(found) - alphas(expected)).max(initial=0) <= 1e-7 + tolerance / 10
    np.testing.assert_allclose(covariances(found), covariances(expected), rtol=1e-4, atol=1e-4)


def covariances(splats: Splats) -> np.ndarray:
    """(N, 3, 3), scaled to a largest entry of 1: the same for all forms of an ellipsoid."""
    unit = splats.rotation / np.linalg.norm(splats.rotation, axis=1, keepdims=True)
    w, x, y, z = unit.T.astype(np.float64)
    columns = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
               2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
               2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    axes = np.stack(columns, 1).reshape(-1, 3, 3) * np.exp(splats.scaling)[:, None, :]
    found = axes @ axes.transpose(0, 2, 1)
    return found / np.abs(found).max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 300])
def test_round_trip(tmp_path: Path, count: int, degree: int) -> None:
    scene = SplatScene(random_splats(count, degree))
    assert write_splats(tmp_path / "a.glb", scene) == ()
    found = read_splats(tmp_path / "a.glb")
    assert found.metadata == SplatMetadata()
    if count:
        assert_same(found.splats, scene.splats)
        for name in ("xyz", "features_dc", "features_rest"):
            np.testing.assert_array_equal(getattr(found.splats, name), getattr(scene.splats, name))


def test_the_file_follows_the_specification(model: tuple[Json, bytes], splats: Splats) -> None:
    document, binary = model
    assert len(binary) % 4 == 0
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    (primitive,) = document["meshes"][0]["primitives"]
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    assert primitive["mode"] == 0
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    up = splats.xyz * np.float32([-1, -1, 1])
    assert position["min"] == up.min(axis=0).tolist()
    assert position["max"] == up.max(axis=0).tolist()
    views = document["bufferViews"]
    ends = [view["byteOffset"] + view["byteLength"] for view in views]
    assert [view["byteOffset"] for view in views] == [0, *ends[:-1]]
    assert all(view["byteOffset"] % 4 == 0 for view in views)
    assert ends[-1] == document["buffers"][0]["byteLength"] == len(binary)


def test_extreme_values(tmp_path: Path) -> None:
    splats = random_splats(8, 1)
    splats.xyz[:2] = [[3e38, -3e38, 0], [np.nan, 0, 0]]
    splats.opacity[:3] = [[1e30], [-1e30], [np.inf]]
    splats.scaling[2:5] = [[-100, 0, 0], [0, 100, 0], [-np.inf, 0, 0]]
    splats.rotation[3] = 0
    notices = write_splats(tmp_path / "a.glb", SplatScene(splats))
    assert any("sizes beyond those of float32 of 2 Gaussians" in notice for notice in notices)
    found = read_splats(tmp_path / "a.glb").splats
    assert found.count == 7
    assert all(np.isfinite(values).all() for values in found.columns().values())


def test_antialiasing_is_lost_and_the_origin_travels(tmp_path: Path, splats: Splats) -> None:
    small = replace(splats, scaling=splats.scaling - 4)
    scene = SplatScene(small, SplatMetadata(antialiasing=True, origin=(4e6, -3e5, 12.5)))
    (notice,) = write_splats(tmp_path / "a.glb", scene)
    assert "antialiasing" in notice
    found = read_splats(tmp_path / "a.glb")
    world = [np.array(s.metadata.origin) + s.splats.xyz for s in (found, scene)]
    np.testing.assert_allclose(*world, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "largest", "normalised"),
    [
        ("ROTATION", np.int8, 127, True),
        ("ROTATION", np.int16, 32767, True),
        ("SCALE", np.uint8, 255, True),
        ("SCALE", np.uint16, 65535, True),
        ("SCALE", np.uint8, 1, False),
        ("SCALE", np.uint16, 1, False),
        ("OPACITY", np.uint8, 255, True),
        ("OPACITY", np.uint16, 65535, True),
    ],
)
def test_component_types(
    tmp_path: Path, model: tuple[Json, bytes], splats: Splats,
    name: str, kind: Any, largest: int, normalised: bool,
) -> None:  # fmt: skip
    generator = np.random.default_rng(0)
    columns = {"ROTATION": 4, "SCALE": 3, "OPACITY": 1}[name]
    info = np.iinfo(kind)
    raw = generator.integers(max(info.min, 1), info.max, (20, columns), endpoint=True).astype(kind)
    found = read_glb(tmp_path / "a.glb", *with_attribute(model, PREFIX + name, raw, normalised))
    values = raw / largest
    if name == "ROTATION":
        back = turned(found.splats, HALF_TURN_Z).rotation
        wanted = replace(splats, rotation=np.roll(values, 1, axis=1).astype(np.float32))
        np.testing.assert_allclose(
            covariances(replace(splats, rotation=back, scaling=splats.scaling)),
            covariances(wanted), atol=1e-5,
        )  # fmt: skip
    elif name == "SCALE":
        np.testing.assert_allclose(found.splats.scaling, np.log(values), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(alphas(found.splats), values, atol=1e-6)


def test_positions_in_integers(tmp_path: Path, model: tuple[Json, bytes]) -> None:
    raw = np.arange(60, dtype=np.int16).reshape(20, 3) * 500 - 15000
    document, binary = with_attribute(model, "POSITION", raw)
    document["extensionsRequired"] = ["KHR_gaussian_splatting", "KHR_mesh_quantization"]
    found = read_glb(tmp_path / "a.glb", document, binary).splats
    np.testing.assert_array_equal(found.xyz, raw * [-1.0, -1, 1])


def test_byte_strides_and_offsets(
    tmp_path: Path, model: tuple[Json, bytes], splats: Splats
) -> None:
    """Positions and opacities interleaved in one view."""
    document, binary = model
    table = np.zeros((20, 5), np.float32)
    table[:, :3] = splats.xyz * [-1, -1, 1]
    table[:, 3] = 0.25
    start = len(binary)
    document["bufferViews"].append(
        {"buffer": 0, "byteOffset": start, "byteLength": table.nbytes, "byteStride": 20}
    )
    view = len(document["bufferViews"]) - 1
    for name, offset in (("POSITION", 0), (f"{PREFIX}OPACITY", 12)):
        entry = document["accessors"][accessor_of(document, name)]
        entry |= {"bufferView": view, "byteOffset": offset}
    document["buffers"][0]["byteLength"] += table.nbytes
    found = read_glb(tmp_path / "a.glb", document, binary + table.tobytes()).splats
    np.testing.assert_array_equal(found.xyz, splats.xyz)
    np.testing.assert_allclose(alphas(found), 0.25, atol=1e-6)


@pytest.mark.parametrize("has_view", [True, False])
def test_sparse_accessors(
    tmp_path: Path, model: tuple[Json, bytes], splats: Splats, has_view: bool
) -> None:
    document, binary = model
    rows, values = np.array([3, 17], "<u2"), np.array([[1, 2, 3], [4, 5, 6]], "<f4")
    views = document["bufferViews"]
    for content in (rows, values):
        entry = {"buffer": 0, "byteOffset": len(binary), "byteLength": content.nbytes}
        views.append(entry)
        binary += content.tobytes()
    document["buffers"][0]["byteLength"] = len(binary)
    accessor = document["accessors"][accessor_of(document, f"{PREFIX}SH_DEGREE_1_COEF_0")]
    accessor["sparse"] = {
        "count": 2,
        "indices": {"bufferView": len(views) - 2, "componentType": 5123},
        "values": {"bufferView": len(views) - 1},
    }
    if not has_view:
        del accessor["bufferView"]
    found = read_glb(tmp_path / "a.glb", document, binary).splats.features_rest[:, 0]
    expected = -splats.features_rest[:, 0] if has_view else np.zeros((20, 3), np.float32)
    expected[[3, 17]] = values
    np.testing.assert_array_equal(found, -expected)  # y changes its sign in the turn
    accessor["sparse"]["indices"]["componentType"] = 5121  # 3, 0
    with pytest.raises(InputError, match="must ascend"):
        read_glb(tmp_path / "b.glb", document, binary)


def some_rotation() -> np.ndarray:
    found, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return found * np.sign(np.linalg.det(found))


@pytest.mark.parametrize("as_matrix", [True, False])
def test_nodes_move_turn_and_scale(
    tmp_path: Path, model: tuple[Json, bytes], splats: Splats, as_matrix: bool
) -> None:
    document, binary = model
    rotation = some_rotation()
    if as_matrix:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = 3 * rotation, [1, 2, 3]
        child: Json = {"matrix": matrix.T.reshape(-1).tolist(), "mesh": 0}
    else:
        quaternion = np.roll(quaternion_of(rotation), -1)
        child = {"rotation": quaternion.tolist(), "scale": [3, 3, 3], "translation": [1, 2, 3],
                 "mesh": 0}  # fmt: skip
    document["nodes"] = [{"children": [1], "translation": [0, 0, 7], "scale": [2, 2, 2]}, child]
    found = read_glb(tmp_path / "a.glb", document, binary).splats
    inside = turned(splats, HALF_TURN_Z)
    moved = turned(inside, rotation)
    xyz = 2 * (3 * moved.xyz + [1, 2, 3]) + [0, 0, 7]
    scaled = replace(
        moved, xyz=xyz.astype(np.float32), scaling=moved.scaling + np.log(6).astype("f")
    )
    assert_same(found, turned(scaled, HALF_TURN_Z), 1e-5)


def test_several_primitives_are_merged(tmp_path: Path, model: tuple[Json, bytes]) -> None:
    document, binary = model
    second = json.loads(json.dumps(document["meshes"][0]["primitives"][0]))
    for n in range(3):
        del second["attributes"][f"{PREFIX}SH_DEGREE_1_COEF_{n}"]
    document["meshes"].append({"primitives": [second, {"attributes": {}}]})
    document["nodes"] = [{"mesh": 0}, {"mesh": 1, "translation": [0, -5, 0]}, {"mesh": 0}]
    document["scenes"] = [{"nodes": [0, 1]}]
    scene = read_glb(tmp_path / "a.glb", document, binary)
    found = scene.splats
    assert scene.metadata.notices == ("points or triangles without Gaussians are left out",)
    assert (found.count, found.sh_degree) == (40, 1)
    np.testing.assert_allclose(found.xyz[20:], found.xyz[:20] + np.float32([0, 5, 0]), atol=1e-6)
    assert not found.features_rest[20:].any()
    del document["scenes"], document["scene"]
    assert read_glb(tmp_path / "a.glb", document, binary).splats.count == 60


def test_negative_sizes_are_the_logarithms_of_a_draft(
    tmp_path: Path, model: tuple[Json, bytes], splats: Splats
) -> None:
    found = read_glb(tmp_path / "a.glb", *with_attribute(model, f"{PREFIX}SCALE", splats.scaling))
    np.testing.assert_array_equal(found.splats.scaling, splats.scaling)
    assert "draft" in found.metadata.notices[0]


def test_files_beside_a_gltf_and_data_uris(
    tmp_path: Path, model: tuple[Json, bytes], splats: Splats
) -> None:
    document, binary = model
    (tmp_path / "in side").mkdir()
    (tmp_path / "in side" / "data.bin").write_bytes(binary + b"more")
    text = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    for uri in ("in%20side/data.bin", text):
        document["buffers"][0]["uri"] = uri
        (tmp_path / "a.gltf").write_text(json.dumps(document))
        assert_same(read_splats(tmp_path / "a.gltf").splats, splats)


@pytest.mark.parametrize(
    "uri",
    ["../secret.bin", "/etc/passwd", "http://example.org/a.bin", "file:///etc/passwd", "a/../b",
     "%2e%2e/secret.bin", "link.bin", "gone.bin", "", "C:\\a.bin", "data:text/plain,hello",
     "data:application/octet-stream;base64,***", "a.bin?x", "."],
)  # fmt: skip
def test_no_other_file_is_opened(tmp_path: Path, model: tuple[Json, bytes], uri: str) -> None:
    document, binary = model
    (tmp_path / "secret.bin").write_bytes(binary)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    document["buffers"][0]["uri"] = uri
    (folder / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"a\.gltf: corrupt file: section JSON"):
        read_splats(folder / "a.gltf")


def in_place(*keys: Any, value: Any) -> Callable[[Json], object]:
    """Sets an entry deep in the object."""

    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return edit


PRIMITIVE = ("meshes", 0, "primitives", 0)
NODE = ("nodes", 0)
WRONG: dict[str, tuple[Callable[[Json], object], str]] = {
    "version": (in_place("asset", "version", value="1.0"), "asset.version: 2.0 expected"),
    "asset": (in_place("asset", value=[]), "asset: an object expected"),
    "required": (in_place("extensionsRequired", value=["EXT_x"]), "not supported: EXT_x"),
    "nothing": (in_place(*PRIMITIVE, "extensions", value={}), "holds no Gaussians"),
    "lines": (in_place(*PRIMITIVE, "mode", value=1), r"mode: 0 \(points\) expected, got 1"),
    "kernel": (
        in_place(*PRIMITIVE, "extensions", "KHR_gaussian_splatting", "kernel", value="box"),
        "kernel: ellipse expected, got 'box'",
    ),
    "spz": (
        in_place(*PRIMITIVE, "extensions", "KHR_gaussian_splatting", "extensions",
                 value={"KHR_gaussian_splatting_compression_spz_2": {}}),
        "no further extension",
    ),
    "attribute": (in_place(*PRIMITIVE, "attributes", value={"POSITION": 0}), "no attribute KHR"),
    "degree": (
        lambda d: d["meshes"][0]["primitives"][0]["attributes"].pop(f"{PREFIX}SH_DEGREE_1_COEF_1"),
        "no attribute KHR_gaussian_splatting:SH_DEGREE_1_COEF_1",
    ),
    "accessor": (in_place(*PRIMITIVE, "attributes", "POSITION", value=99), "accessor 99 is named"),
    "negative": (in_place(*PRIMITIVE, "attributes", "POSITION", value=-1), "an integer from 0"),
    "type": (in_place("accessors", 0, "type", value="VEC4"), "VEC3 expected, got 'VEC4'"),
    "component": (in_place("accessors", 0, "componentType", value=5124), "componentType"),
    "fewer": (in_place("accessors", 0, "count", value=19), "count: 19 expected, got 20"),
    "more": (in_place("accessors", 0, "count", value=21), "count: 21 expected, got 20"),
    "absurd": (in_place("accessors", 0, "count", value=2**40), "count: an integer from 0 to"),
    "view": (in_place("accessors", 0, "bufferView", value=77), "bufferView 77 is named"),
    "short": (in_place("bufferViews", 0, "byteLength", value=239), "need 240 bytes, it has 239"),
    "length": (in_place("bufferViews", 0, "byteLength", value=10**6), "of buffer 0, which has"),
    "offset": (in_place("bufferViews", 0, "byteOffset", value=10**6), "of buffer 0, which has"),
    "stride": (in_place("bufferViews", 0, "byteStride", value=4), "byteStride: 12 or more"),
    "buffer": (in_place("bufferViews", 0, "buffer", value=3), "buffer 3 is named, there are 1"),
    "longer": (in_place("buffers", 0, "byteLength", value=10**9), "1,000,000,000 bytes are decl"),
    "lists": (in_place("accessors", value={}), "accessors: a list of objects"),
    "loop": (in_place(*NODE, "children", value=[0]), "node 0 is below two nodes"),
    "child": (in_place(*NODE, "children", value=[5]), "children: an integer from 0 to 0"),
    "mesh": (in_place(*NODE, "mesh", value=4), "mesh 4 is named, there are 1"),
    "scene": (in_place("scene", value=4), "scene: an integer from 0 to 0"),
    "uneven": (in_place(*NODE, "scale", value=[1, 1, 2]), "node 0: Gaussians can be rotated and"),
    "mirror": (in_place(*NODE, "scale", value=[-1, 1, 1]), "node 0: Gaussians can be rotated and"),
    "flat": (in_place(*NODE, "scale", value=[0, 0, 0]), "node 0: Gaussians can be rotated and"),
    "shear": (
        in_place(*NODE, "matrix", value=[1, 0, 0, 0, 0.5, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
        "node 0: Gaussians can be rotated and",
    ),
    "matrix": (in_place(*NODE, "matrix", value=[1] * 16), "the last row of the matrix"),
    "unit": (in_place(*NODE, "rotation", value=[0, 0, 0, 2]), "a unit quaternion is expected"),
    "nan": (in_place(*NODE, "translation", value=[0, 0, float("nan")]), "3 finite numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_descriptions(tmp_path: Path, model: tuple[Json, bytes], name: str) -> None:
    edit, message = WRONG[name]
    edit(model[0])
    with pytest.raises(InputError, match=message):
        read_glb(tmp_path / "a.glb", *model)


def test_many_copies_of_a_mesh(tmp_path: Path, model: tuple[Json, bytes]) -> None:
    document, binary = model
    document["nodes"] = [{"mesh": 0}] * 60_000
    document["scenes"] = [{"nodes": list(range(60_000))}]
    with pytest.raises(InputError, match="more than 1,048,576 Gaussians"):
        read_glb(tmp_path / "a.glb", document, binary)


def test_other_colour_spaces_are_named(tmp_path: Path, model: tuple[Json, bytes]) -> None:
    edit = in_place(*PRIMITIVE, "extensions", "KHR_gaussian_splatting", "colorSpace",
                    value="lin_rec709_display")  # fmt: skip
    edit(model[0])
    (notice,) = read_glb(tmp_path / "a.glb", *model).metadata.notices
    assert "lin_rec709_display" in notice


def test_cut_at_every_byte(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.glb", SplatScene(random_splats(2, 0)))
    for length in reversed(range((tmp_path / "a.glb").stat().st_size)):
        os.truncate(tmp_path / "a.glb", length)
        with pytest.raises(InputError):
            read_splats(tmp_path / "a.glb")


def test_changed_bytes_are_an_error_or_other_numbers(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.glb", SplatScene(random_splats(2, 0)))
    data = (tmp_path / "a.glb").read_bytes()
    generator, read = np.random.default_rng(0), 0
    for place in range(0, len(data), 2):
        changed = bytearray(data)
        changed[place] ^= 1 << int(generator.integers(8))
        (tmp_path / "a.glb").write_bytes(changed)
        try:
            read += read_splats(tmp_path / "a.glb").splats.count
        except InputError:
            continue
    assert read > 50


def test_the_same_scene_as_splat_transform_writes(tmp_path: Path) -> None:
    splats = random_splats(400, 3)
    write_by_splat_transform(splats, tmp_path / "theirs.glb")
    found = read_splats(tmp_path / "theirs.glb")
    assert found.metadata == SplatMetadata()
    order = np.lexsort(splats.xyz.T)
    again = np.lexsort(found.splats.xyz.T)
    assert_same(found.splats.rows(again), splats.rows(order))
    write_splats(tmp_path / "ours.glb", SplatScene(splats.rows(order)))
    ours = read_splats(tmp_path / "ours.glb").splats
    assert angles(ours, splats.rows(order)).max() < 0.01


@pytest.mark.parametrize("count", [0, 30])
def test_the_validator_of_khronos_finds_nothing(tmp_path: Path, count: int) -> None:
    path = tmp_path / "ä.glb"
    write_splats(path, SplatScene(random_splats(count, 3), SplatMetadata(origin=(5e5, 4e6, 0))))
    document, binary = parts_of(path.read_bytes())
    # It does not know the extension: the names of its attributes become those of an application.
    own = json.loads(json.dumps(document).replace('"KHR_gaussian_splatting:', '"_'))
    assert (own != document) == bool(count)
    path.write_bytes(glb(own, binary) if count else path.read_bytes())
    assert [issue["code"] for issue in gltf_issues(path)] == ["UNSUPPORTED_EXTENSION"]
    if count:
        own["accessors"][0]["count"] += 1
        path.write_bytes(glb(own, binary))
        assert len(gltf_issues(path)) > 1
