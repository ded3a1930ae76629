# SPDX-License-Identifier: Apache-2.0
"""PLY files as other programs write them: lists, other types, other line ends, other elements."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from splat_formats.files import read_splats
from splat_formats.ply import read_ply_scene, write_ply
from splat_formats.ply_table import read_ply_table
from splat_formats.splats import Splats
from tests.test_ply import as_table, assert_equal, names_in_order, random_splats, write_with_plyfile
from utils.errors import InputError

SPLATS = random_splats(3, 0)
NAMES = names_in_order(0)


def header(*lines: str, encoding: str = "binary_little_endian", end: str = "\n") -> bytes:
    whole = ["ply", f"format {encoding} 1.0", *lines, "end_header"]
    return "".join(line + end for line in whole).encode()


def vertex_lines(splats: Splats = SPLATS, kind: str = "float") -> list[str]:
    return [f"element vertex {splats.count}", *(f"property {kind} {name}" for name in NAMES)]


def matrix(splats: Splats = SPLATS) -> np.ndarray:
    columns = as_table(splats)
    return np.stack([columns[name] for name in NAMES], axis=1)


def text_rows() -> list[str]:
    return [" ".join(repr(float(x)) for x in row) for row in matrix()]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_line_ends_of_any_system(tmp_path: Path, end: str, encoding: str) -> None:
    body = end.join(text_rows()).encode() if encoding == "ascii" else matrix().tobytes()
    lines = ["comment end_header is not here", "", *vertex_lines(), "comment one more"]
    path = write(tmp_path / "a.ply", header(*lines, encoding=encoding, end=end) + body)
    assert_equal(SPLATS, read_splats(path).splats)


def test_text_with_blank_lines_and_comments(tmp_path: Path) -> None:
    rows = text_rows()
    body = "\n".join(["", rows[0], "comment x", "", "  ", rows[1], rows[2], ""])
    path = write(tmp_path / "a.ply", header(*vertex_lines(), encoding="ascii") + body.encode())
    assert_equal(SPLATS, read_splats(path).splats)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row + " 1", "vertex 1 does not hold 17 numbers: it holds 18"),
        (lambda row: row[:-3] + "x", "is none"),
        (lambda row: "1 2", "it holds 2"),
    ],
)
def test_text_rows_of_another_width_are_refused(tmp_path: Path, change, message: str) -> None:
    rows = text_rows()
    rows[1] = change(rows[1])
    body = "\n".join(rows).encode()
    path = write(tmp_path / "a.ply", header(*vertex_lines(), encoding="ascii") + body)
    with pytest.raises(InputError, match=message):
        read_splats(path)


@pytest.mark.parametrize("order", "<>")
def test_binary_lists_before_the_vertices(tmp_path: Path, order: str) -> None:
    face = ["element face 2", "property uchar flag", "property list uchar int corners",
            "property list int double weights"]  # fmt: skip
    rows = b""
    for length in (3, 4):
        rows += b"\7" + bytes([length]) + np.arange(length).astype(order + "i4").tobytes()
        rows += np.array([1], order + "i4").tobytes() + bytes(8)
    encoding = "binary_little_endian" if order == "<" else "binary_big_endian"
    content = header(*face, *vertex_lines(), encoding=encoding) + rows
    content += matrix().astype(order + "f4").tobytes()
    scene = read_splats(write(tmp_path / "a.ply", content))
    assert_equal(SPLATS, scene.splats)
    assert scene.metadata.notices == ("not used: element face",)
    for cut in (len(content) - 1, content.index(b"end_header\n") + 12):
        with pytest.raises(InputError, match="truncated"):
            read_splats(write(tmp_path / "cut.ply", content[:cut]))


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_lists_in_the_vertices(tmp_path: Path, encoding: str) -> None:
    lines = vertex_lines()
    lines.insert(4, "property list uchar short tags")
    front, back = matrix()[:, :3], matrix()[:, 3:]

    def content(lengths: tuple[int, ...]) -> bytes:
        if encoding == "ascii":
            rows = [" ".join(map(repr, [*map(float, a), n, *range(n), *map(float, b)]))
                    for a, b, n in zip(front, back, lengths, strict=True)]  # fmt: skip
            return header(*lines, encoding=encoding) + "\n".join(rows).encode()
        rows = [a.tobytes() + bytes([n]) + bytes(2 * n) + b.tobytes()
                for a, b, n in zip(front, back, lengths, strict=True)]  # fmt: skip
        return header(*lines) + b"".join(rows)

    scene = read_splats(write(tmp_path / "a.ply", content((2, 2, 2))))
    assert_equal(SPLATS, scene.splats)
    assert scene.metadata.notices == ("not used: the list tags",)
    with pytest.raises(InputError, match=r"different lengths|does not hold|truncated"):
        read_splats(write(tmp_path / "b.ply", content((2, 1, 2))))


@pytest.mark.parametrize("length", ["255", "uint64"])
def test_lists_longer_than_the_file_are_refused(tmp_path: Path, length: str) -> None:
    count_type = "uchar" if length == "255" else length
    lines = ["element face 1", f"property list {count_type} double corners", *vertex_lines()]
    path = write(tmp_path / "a.ply", header(*lines) + b"\xff" * 8)
    with pytest.raises(InputError, match="truncated"):
        read_splats(path)
    first = ["element vertex 1", f"property list {count_type} double corners"]
    with pytest.raises(InputError, match="truncated"):
        read_ply_table(write(tmp_path / "b.ply", header(*first) + b"\xff" * 8))


@pytest.mark.parametrize("line", ["element face 999999999999999999", "element face 9999999"])
def test_elements_longer_than_the_file_are_refused(tmp_path: Path, line: str) -> None:
    lines = [line, "property double a", *vertex_lines()]
    with pytest.raises(InputError, match="truncated"):
        read_splats(write(tmp_path / "a.ply", header(*lines) + matrix().tobytes()))


def test_half_floats_are_read_and_integers_are_not(tmp_path: Path) -> None:
    halves = matrix().astype("<f2")
    content = header(*vertex_lines(kind="half")) + halves.tobytes()
    read = read_splats(write(tmp_path / "a.ply", content)).splats
    np.testing.assert_array_equal(read.xyz, halves[:, :3].astype(np.float32))
    for name, kind in (("opacity", "u1"), ("x", "i4"), ("scale_1", "i2"), ("rot_3", "i1")):
        write_with_plyfile(tmp_path / "b.ply", as_table(SPLATS), {name: kind})
        with pytest.raises(InputError, match=rf"property {name} has the type .*int"):
            read_splats(tmp_path / "b.ply")


def test_a_property_twice_is_refused(tmp_path: Path) -> None:
    lines = vertex_lines()
    lines.insert(3, "property float y")
    content = header(*lines) + bytes(72 * 3)
    with pytest.raises(InputError, match="the property 'y' of element 'vertex' twice"):
        read_splats(write(tmp_path / "a.ply", content))
    twice = header(*vertex_lines(), *vertex_lines())
    with pytest.raises(InputError, match="2 elements named 'vertex'"):
        read_splats(write(tmp_path / "b.ply", twice + bytes(2 * 68 * 3)))


def test_properties_without_a_meaning_here_are_named_once(tmp_path: Path) -> None:
    columns = as_table(SPLATS) | {"red": np.zeros(3), "semantic_0": np.ones(3)}
    columns |= {f"language_{i}": np.zeros(3) for i in range(12)}
    write_with_plyfile(tmp_path / "a.ply", columns, {"red": "u1"})
    notices = read_splats(tmp_path / "a.ply").metadata.notices
    assert notices == (
        "not used: the property red, the property semantic_0, the property language_0 ... "
        "language_11",
    )


def test_degree_four_is_read_without_its_last_band(tmp_path: Path) -> None:
    columns = as_table(random_splats(3, 0)) | {f"f_rest_{i}": np.full(3, i) for i in range(72)}
    write_with_plyfile(tmp_path / "a.ply", columns)
    scene = read_splats(tmp_path / "a.ply")
    assert scene.splats.sh_degree == 3
    np.testing.assert_array_equal(scene.splats.features_rest[0, 14], [14, 24 + 14, 48 + 14])
    assert scene.metadata.notices == ("SH degree 4: bands above degree 3 are left out",)


def test_2d_gaussians_are_flat(tmp_path: Path) -> None:
    columns = as_table(SPLATS)
    del columns["scale_2"]
    write_with_plyfile(tmp_path / "a.ply", columns)
    scene = read_splats(tmp_path / "a.ply")
    thickness = scene.splats.scaling[:, 2] - scene.splats.scaling[:, :2].max(axis=1)
    np.testing.assert_allclose(thickness, -12, atol=1e-5)
    assert "2D Gaussians" in scene.metadata.notices[0]
    write_with_plyfile(tmp_path / "b.ply", columns | {"filter_3D": np.ones(3)})
    with pytest.raises(InputError, match="filter_3D of 2D Gaussians"):
        read_splats(tmp_path / "b.ply")


@pytest.mark.parametrize(
    ("comments", "antialiased"),
    [
        ([], False),
        (["SplatRenderMode: mip"], True),
        (["splatrendermode: MIP"], True),
        (["SplatRenderMode: default"], False),
        (["antialiased 1"], True),
        (["antialiased 0"], False),
        (["antialiased 0", "SplatRenderMode: mip"], True),
        (["SplatRenderMode: mip", "antialiased 0"], False),
        (["made without SplatRenderMode: mip"], False),
    ],
)
def test_the_render_mode(tmp_path: Path, comments: list[str], antialiased: bool) -> None:
    lines = [*(f"comment {line}" for line in comments), *vertex_lines()]
    content = header(*lines) + matrix().tobytes()
    scene = read_ply_scene(write(tmp_path / "a.ply", content))
    assert scene.metadata.antialiasing is antialiased


def test_zeros_from_an_unfinished_file_are_reported(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(5, 1))
    data = (tmp_path / "a.ply").read_bytes()
    write(tmp_path / "a.ply", data[: -2 * 104] + bytes(2 * 104))
    scene = read_splats(tmp_path / "a.ply")
    assert scene.splats.count == 5
    assert "2 Gaussians with zeros only" in scene.metadata.notices[0]


_PIECES = [b"list", b"uchar", b"double", b"half", b"999999999", b"vertex", b"x", b"nan", b"-1",
           b"uint64", b"\n", b"ascii", b"binary_big_endian", b"element a 3\n", b"1e400",
           b"property list uint64 double q\n"]  # fmt: skip


def test_any_change_is_read_or_refused(tmp_path: Path) -> None:
    faces = ["element face 2", "property uchar flag", "property list uchar int corners"]
    rows = b"\7\3" + bytes(12) + b"\7\2" + bytes(8)
    text = header(*vertex_lines(), encoding="ascii") + "\n".join(text_rows()).encode()
    binary = header(*faces, *vertex_lines()) + rows + matrix().tobytes()
    generator = random.Random(0)
    results = set()
    for number in range(150):
        data = bytearray((text, binary, gzip.compress(binary, 1))[number % 3])
        at = generator.randrange(min(len(data), 700))
        data[at : at + generator.randrange(10)] = generator.choice([*_PIECES, b"", b"\xff"])
        try:
            results.add(read_splats(write(tmp_path / "a.ply", bytes(data))).splats.count)
        except InputError:
            results.add("refused")
    assert {3, "refused"} <= results


def test_a_gzip_file_cannot_hold_an_absurd_number_of_rows(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(3, 0))
    content = (tmp_path / "a.ply").read_bytes().replace(b"vertex 3", b"vertex 99999999999")
    (tmp_path / "a.ply.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match="99999999999 vertices, more than"):
        read_splats(tmp_path / "a.ply.gz")
