# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from splat_formats.ply import read_ply, write_ply
from splat_formats.ply_table import read_ply_table
from splat_formats.splats import Splats
from utils.errors import InputError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
NAMES = ("xyz", "features_dc", "features_rest", "opacity", "scaling", "rotation")


def random_splats(count: int, degree: int, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    rest = (degree + 1) ** 2 - 1
    shapes = ((3,), (1, 3), (rest, 3), (1,), (3,), (4,))
    return Splats(*(rng.normal(size=(count, *shape)).astype(np.float32) for shape in shapes))


def assert_equal(a: Splats, b: Splats) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
        assert getattr(b, name).flags.c_contiguous


def names_in_order(degree: int) -> list[str]:
    rest = 3 * ((degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def as_table(splats: Splats) -> dict[str, np.ndarray]:
    """Columns by name, by the format's description, without the writer."""
    columns = {f"n{axis}": np.zeros(splats.count, np.float32) for axis in "xyz"}
    columns |= {axis: splats.xyz[:, i] for i, axis in enumerate("xyz")}
    columns |= {f"f_dc_{i}": splats.features_dc[:, 0, i] for i in range(3)}
    k_count = splats.features_rest.shape[1]
    for channel in range(3):
        for k in range(k_count):
            columns[f"f_rest_{channel * k_count + k}"] = splats.features_rest[:, k, channel]
    columns["opacity"] = splats.opacity[:, 0]
    columns |= {f"scale_{i}": splats.scaling[:, i] for i in range(3)}
    columns |= {f"rot_{i}": splats.rotation[:, i] for i in range(4)}
    return columns


def write_with_plyfile(
    path: Path,
    columns: dict[str, np.ndarray],
    types: dict[str, str] | None = None,
    **options: object,
) -> None:
    types = types or {}
    dtype = [(name, types.get(name, "f4")) for name in columns]
    rows = np.empty(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        rows[name] = values
    PlyData([PlyElement.describe(rows, "vertex")], **options).write(path)


@pytest.mark.parametrize("degree", range(4))
def test_written_file_is_the_one_plyfile_writes(tmp_path: Path, degree: int) -> None:
    splats = random_splats(70, degree)
    columns = as_table(splats)
    write_with_plyfile(
        tmp_path / "theirs.ply", {name: columns[name] for name in names_in_order(degree)}
    )
    write_ply(tmp_path / "ours.ply", splats)
    assert (tmp_path / "ours.ply").read_bytes() == (tmp_path / "theirs.ply").read_bytes()
    assert_equal(splats, read_ply(tmp_path / "ours.ply"))
    assert read_ply(tmp_path / "ours.ply").sh_degree == degree


def test_the_third_line_holds_the_count_as_sibr_expects(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(5, 3))
    assert (tmp_path / "a.ply").read_bytes().split(b"\n")[2] == b"element vertex 5"


def test_more_rows_than_one_write_holds(tmp_path: Path) -> None:
    splats = random_splats((1 << 16) + 3, 0)
    write_ply(tmp_path / "a.ply", splats)
    assert_equal(splats, read_ply(tmp_path / "a.ply"))


def test_no_gaussians_are_a_valid_file(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(0, 3))
    splats = read_ply(tmp_path / "a.ply")
    assert (splats.count, splats.sh_degree) == (0, 3)


@pytest.mark.parametrize(
    "options", [{"byte_order": ">"}, {"text": True}, {"byte_order": "<"}], ids=str
)
def test_encodings_orders_and_extra_properties(tmp_path: Path, options: dict[str, object]) -> None:
    splats = random_splats(9, 2)
    columns = as_table(splats)
    for normal in ("nx", "ny", "nz"):
        del columns[normal]
    columns = dict(reversed(columns.items())) | {"label": np.arange(9)}
    write_with_plyfile(tmp_path / "a.ply", columns, {"label": "i2", "x": "f8"}, **options)
    assert_equal(splats, read_ply(tmp_path / "a.ply"))


def test_doubles_are_rounded_to_floats(tmp_path: Path) -> None:
    columns = as_table(random_splats(4, 0))
    columns["x"] = np.array([0.1, 1 / 3, 1e-40, 2.0])
    write_with_plyfile(tmp_path / "a.ply", columns, {"x": "f8"})
    np.testing.assert_array_equal(
        read_ply(tmp_path / "a.ply").xyz[:, 0], columns["x"].astype(np.float32)
    )


@pytest.mark.parametrize("text", [False, True])
def test_other_elements_around_the_vertices(tmp_path: Path, text: bool) -> None:
    splats = random_splats(3, 0)
    rows = np.zeros(3, [(name, "f4") for name in names_in_order(0)])
    for name, values in as_table(splats).items():
        rows[name] = values
    camera = np.zeros(2, [("a", "i4"), ("b", "f8")])
    elements = [
        PlyElement.describe(camera, "camera"),
        PlyElement.describe(rows, "vertex"),
        PlyElement.describe(camera, "after"),
    ]
    PlyData(elements, text=text, comments=["a comment"], obj_info=["x y"]).write(tmp_path / "a.ply")
    assert_equal(splats, read_ply(tmp_path / "a.ply"))


def test_a_truncated_file_is_refused_with_its_row_count(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, random_splats(10, 3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="states 10 vertices, the file has 9"):
        read_ply(path)


def test_a_false_count_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, random_splats(1, 0))
    path.write_bytes(path.read_bytes().replace(b"vertex 1", b"vertex 999999999999999"))
    with pytest.raises(InputError, match="the file has 1"):
        read_ply(path)


def test_truncated_text(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_with_plyfile(path, as_table(random_splats(4, 0)), text=True)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match="states 4 vertices, the file has 3"):
        read_ply(path)
    path.write_text("\n".join([*lines[:-1], "1 2 x"]))
    with pytest.raises(InputError, match="does not hold 17 numbers"):
        read_ply(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY"),
        (b"\x89PNG\r\n", "not a PLY"),
        (b"ply\nformat binary_little_endian 1.0\n", "no 'end_header'"),
        (b"ply\n" + b"\0" * 3000000, "no 'end_header'"),
        (b"ply\nformat binary_middle_endian 1.0\nend_header\n", "unknown PLY format"),
        (b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n", "unknown line"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "unknown line"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no vertices"),
        (b"ply\nelement vertex 1\nend_header\n", "no 'format' line"),
        (b"ply\nformat ascii 1.0\nformat ascii 1.0\nend_header\n", "unknown line"),
        (b"ply\nformat ascii 1.0\nelement vertex " + b"9" * 5000 + b"\n", "unknown line"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n",
            "the first vertex has 'nothing' as a list's length|truncated",
        ),
        (
            b"ply\nformat binary_little_endian 1.0\nelement face 1\nproperty list uchar int x\n"
            b"element vertex 0\nend_header\n",
            "truncated: the file ends within element 'face'",
        ),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
            "not a Gaussian splat PLY: no property y, z, f_dc_0",
        ),
    ],
)
def test_files_that_hold_no_splats(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_ply(tmp_path / "a.ply")


def test_a_coefficient_count_of_no_degree_is_refused(tmp_path: Path) -> None:
    columns = as_table(random_splats(2, 1))
    del columns["f_rest_8"]
    write_with_plyfile(tmp_path / "a.ply", columns)
    with pytest.raises(InputError, match="8 f_rest_"):
        read_ply(tmp_path / "a.ply")


def test_a_missing_coefficient_is_refused(tmp_path: Path) -> None:
    columns = as_table(random_splats(2, 1))
    columns["f_rest_99"] = columns.pop("f_rest_4")
    write_with_plyfile(tmp_path / "a.ply", columns)
    with pytest.raises(InputError, match="f_rest_4"):
        read_ply(tmp_path / "a.ply")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ply(tmp_path / "none.ply")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, random_splats(2, 0))
    before = path.read_bytes()

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splat_formats.ply.rows", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_ply(path, random_splats(3, 0))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("name", NAMES)
def test_splats_check_their_shapes_and_types(name: str) -> None:
    arrays = {field: getattr(random_splats(4, 1), field) for field in NAMES}
    with pytest.raises(InputError, match=name):
        Splats(**{**arrays, name: arrays[name].astype(np.float64)})
    with pytest.raises(InputError):
        Splats(**{**arrays, name: arrays[name][:-1]})
    with pytest.raises(InputError, match=name):
        Splats(**{**arrays, name: arrays[name][..., :-1]})


def test_splats_of_a_degree_that_does_not_exist() -> None:
    arrays = {field: getattr(random_splats(4, 1), field) for field in NAMES}
    with pytest.raises(InputError, match="K in"):
        Splats(**{**arrays, "features_rest": np.zeros((4, 4, 3), np.float32)})


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real captures are not here")
class TestRealFiles:
    def test_round_trip_is_byte_identical(self, tmp_path: Path) -> None:
        folder = SHARED / "snowmiku_model" / "point_cloud" / "iteration_12000"
        splats = read_ply(folder / "point_cloud.ply")
        assert (splats.count, splats.sh_degree) == (115_016, 3)
        write_ply(tmp_path / "a.ply", splats)
        assert (tmp_path / "a.ply").read_bytes() == (folder / "point_cloud.ply").read_bytes()

    def test_files_of_other_programs_agree_with_plyfile(self) -> None:
        paths = sorted((SHARED / "inria_ply_small").rglob("*.ply"))
        assert len(paths) == 3
        for path in paths:
            splats, theirs = read_ply(path), PlyData.read(path)["vertex"]
            columns = as_table(splats)
            fused = {"opacity", "scale_0", "scale_1", "scale_2"} if "filter_3D" in theirs else set()
            for name in set(columns) - {"nx", "ny", "nz"} - fused:
                np.testing.assert_array_equal(columns[name], theirs[name], f"{path} {name}")

    def test_point_clouds_can_be_read_as_tables(self) -> None:
        table = read_ply_table(SHARED / "fox_model" / "input.ply")
        assert table.count == 11_245
        assert table.columns["red"].dtype == np.uint8
