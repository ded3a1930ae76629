# SPDX-License-Identifier: Apache-2.0
"""PlayCanvas' compressed PLY: layout, rounding, both variants, faults."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_formats.compressed_ply import CHUNK, read_compressed_ply, write_compressed_ply
from splat_formats.files import kind_of_file, read_splats, write_splats
from splat_formats.ply import write_ply
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from tests.format_models import VECTORS, model, needs_vectors, rows_of
from tests.other_programs import alphas, angles
from utils.errors import InputError
from utils.sh_terms import C0

BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
SCALES = [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
COLOURS = [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
FIRST_BOUNDS = [-1, 0, 2, 3, 8, 4, -5, -4, -3, -1, -4, 1]
FIRST_WORDS = [2047 << 21 | 0 << 11 | 1023, 2 << 30 | 512 << 20 | 1023 << 10 | 0, 0xFFFFFFFF,
               255 << 24 | 0 << 16 | 51 << 8 | 204]  # fmt: skip


def elements(
    colours: list[float] | None, sh: bytes
) -> dict[str, tuple[str, int, list[str], bytes]]:
    """The three elements of a file of one Gaussian: type, rows, properties, data."""
    bounds = [*BOUNDS, *SCALES, *(COLOURS if colours else [])]
    numbers = [*FIRST_BOUNDS, *(colours or [])]
    found = {
        "chunk": ("float", 1, bounds, struct.pack(f"<{len(numbers)}f", *numbers)),
        "vertex": ("uint", 1, PACKED, struct.pack("<4I", *FIRST_WORDS)),
    }
    if sh:
        found["sh"] = ("uchar", 1, [f"f_rest_{i}" for i in range(len(sh))], sh)
    return found


def file_of(parts: dict, order: list[str]) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", "comment made by hand"]
    for name in order:
        code, count, properties, _ = parts[name]
        lines += [f"element {name} {count}", *(f"property {code} {field}" for field in properties)]
    header = "".join(f"{line}\n" for line in [*lines, "end_header"])
    return header.encode() + b"".join(parts[name][3] for name in order)


@pytest.mark.parametrize("colours", [None, [0, -1, 0.5, 2, 1, 0.5]])
def test_a_file_by_hand(tmp_path: Path, colours: list[float] | None) -> None:
    sh = bytes([0, 1, 127, 128, 254, 255, 64, 65, 66])
    parts = elements(colours, sh)
    for number, order in enumerate((["chunk", "vertex", "sh"], ["sh", "vertex", "chunk"])):
        path = tmp_path / f"{number}.ply"
        path.write_bytes(file_of(parts, order))
        found = read_splats(path).splats
        # Position: the first axis at its upper bound, the second at its lower one.
        np.testing.assert_allclose(found.xyz, [[3, 0, 2 + 2 * 1023 / 2047]], rtol=1e-7)
        np.testing.assert_allclose(found.scaling, [[-1, -4, 1]])
        rgb = np.array([1, 0, 0.2]) if colours is None else np.array([2, -1, 0.5])
        np.testing.assert_allclose(found.features_dc[0, 0], (rgb - 0.5) / C0, atol=1e-6)
        assert alphas(found)[0, 0] == pytest.approx(0.8)
        w, x, z = np.sqrt(2) * (np.array([512, 1023, 0]) / 1023 - 0.5)
        y = np.sqrt(max(0, 1 - w * w - x * x - z * z))
        np.testing.assert_allclose(found.rotation, [[w, x, y, z]], atol=1e-6)
        # Red has the first three bytes: of the range -4 to 4 the middle of a 256th, or its end.
        np.testing.assert_allclose(found.features_rest[0, :, 0], [-4, -4 + 1.5 / 32, -0.5 / 32])
        np.testing.assert_allclose(found.features_rest[0, :, 1], [0.5 / 32, 4 - 1.5 / 32, 4])


def rounding_bounds(splats: Splats) -> dict[str, np.ndarray]:
    """(N, 3) the largest error that docs/formats.md states, by the chunk of each Gaussian."""
    found = {}
    columns = {
        "xyz": splats.xyz,
        "scaling": splats.scaling,
        "features_dc": splats.features_dc[:, 0],
    }
    for name, values in columns.items():
        starts = np.arange(0, len(values), CHUNK)
        extent = np.maximum.reduceat(values, starts) - np.minimum.reduceat(values, starts)
        levels = [255] * 3 if name == "features_dc" else [2047, 1023, 2047]
        bound = extent.astype(np.float64) / levels / 2 + 1e-5
        found[name] = np.repeat(bound, CHUNK, axis=0)[: len(values)]
    return found


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_round_trip_within_the_documented_bounds(tmp_path: Path, count: int, degree: int) -> None:
    splats, path = model(count, degree), tmp_path / "a.compressed.ply"
    written = write_compressed_ply(path, SplatScene(splats))
    assert written.notices == ()
    rows = rows_of(written)
    assert sorted(rows) == list(range(count))
    scene = read_splats(path)
    found, expected = scene.splats, splats.rows(rows)
    assert scene.metadata == SplatMetadata()
    assert found.sh_degree == degree
    if not count:
        return
    for name, bound in rounding_bounds(expected).items():
        difference = getattr(found, name).reshape(count, 3) - getattr(expected, name).reshape(
            count, 3
        )
        assert (np.abs(difference) <= bound).all(), name
    assert np.abs(alphas(found) - alphas(expected)).max() <= 1 / 510 + 1e-6
    assert np.abs(found.features_rest - expected.features_rest).max(initial=0) <= 1 / 64 + 1e-6
    assert angles(found, expected).max() <= 0.28


def test_sizes_and_order(tmp_path: Path) -> None:
    splats, path = model(600, 3), tmp_path / "a.compressed.ply"
    write_splats(path, SplatScene(splats))
    header, _, rest = path.read_bytes().partition(b"end_header\n")
    assert len(rest) == 3 * 72 + 600 * 16 + 600 * 45
    assert header.split(b"\n")[2] == b"element chunk 3"
    assert kind_of_file(path) == "a compressed PLY"


def test_antialiasing_and_dropped_values(tmp_path: Path) -> None:
    splats, path = model(20, 1), tmp_path / "A.Compressed.PLY"
    scaling, rest, xyz = splats.scaling.copy(), splats.features_rest.copy(), splats.xyz.copy()
    scaling[3, 1], rest[[4, 5], 0, 0], xyz[6, 0] = -30, 5, np.nan
    splats = replace(splats, scaling=scaling, features_rest=rest, xyz=xyz)
    metadata = SplatMetadata(antialiasing=True, origin=(1e6, 0.0, 0.0))
    notices = write_splats(path, SplatScene(splats, metadata))
    assert notices == (
        "dropped 1 Gaussian that no image can show: 1 with a position that is not finite",
        "the format has no origin: add (1000000, 0, 0) to positions for world coordinates",
        "clipped: log scales (beyond 20) of 1 Gaussian",
        "clipped: higher SH coefficients (beyond 4) of 2 Gaussians",
    )
    scene = read_splats(path)
    assert scene.splats.count == 19
    assert scene.metadata.antialiasing
    assert scene.splats.scaling.min() == -20


def test_extreme_numbers_stay_finite(tmp_path: Path) -> None:
    splats, path = model(4, 0), tmp_path / "a.compressed.ply"
    xyz, rotation = splats.xyz.copy(), splats.rotation.copy()
    xyz[0], rotation[0], rotation[1] = 3e38, 0, 1e30
    xyz[1] = -3e38
    dc = np.full_like(splats.features_dc, 1e30)
    splats = replace(splats, xyz=xyz, rotation=rotation, features_dc=dc)
    write_compressed_ply(path, SplatScene(splats))
    found = read_splats(path).splats
    for values in found.columns().values():
        assert np.isfinite(values).all()


def test_other_encodings(tmp_path: Path) -> None:
    parts = elements([0, 0, 0, 1, 1, 1], bytes(range(9)))
    whole = file_of(parts, ["chunk", "vertex", "sh"])
    (tmp_path / "plain.ply").write_bytes(whole)
    (tmp_path / "packed.ply").write_bytes(gzip.compress(whole))
    header, _, _ = whole.partition(b"end_header\n")
    numbers = [" ".join(map(str, [*FIRST_BOUNDS, 0, 0, 0, 1, 1, 1])),
               " ".join(map(str, FIRST_WORDS)), " ".join(map(str, range(9)))]  # fmt: skip
    text = header.replace(b"binary_little_endian", b"ascii") + b"end_header\n"
    (tmp_path / "text.ply").write_bytes(text + "\n".join(numbers).encode() + b"\n")
    crs = header.replace(b"\n", b"\r") + b"end_header\r" + whole.partition(b"end_header\n")[2]
    (tmp_path / "cr.ply").write_bytes(crs)
    swapped = [np.frombuffer(parts[name][3], code).byteswap().tobytes()
               for name, code in (("chunk", "<f4"), ("vertex", "<u4"), ("sh", "u1"))]  # fmt: skip
    big = header.replace(b"little", b"big") + b"end_header\n" + b"".join(swapped)
    (tmp_path / "big.ply").write_bytes(big)
    expected = read_splats(tmp_path / "plain.ply").splats
    for name in ("packed", "text", "big", "cr"):
        found = read_splats(tmp_path / f"{name}.ply").splats
        for column, values in expected.columns().items():
            np.testing.assert_array_equal(found.columns()[column], values, f"{name} {column}")


def test_what_is_not_used_is_reported(tmp_path: Path) -> None:
    parts = elements(None, b"")
    parts["vertex"] = ("uint", 1, [*PACKED, "label"], parts["vertex"][3] + b"\1\0\0\0")
    parts["camera"] = ("float", 1, ["fov"], bytes(4))
    path = tmp_path / "a.ply"
    path.write_bytes(file_of(parts, ["camera", "chunk", "vertex"]))
    assert read_compressed_ply(path).metadata.notices == (
        "not used: the property label, element camera",
    )


def changed(**changes: tuple) -> bytes:
    parts = elements([0] * 6, bytes(9))
    parts.update({name: value for name, value in changes.items() if value})
    return file_of(parts, [name for name in parts if changes.get(name, True)])


FAULTS = {
    "no chunks": (changed(chunk=()), "no element 'chunk'"),
    "too few chunks": (
        changed(vertex=("uint", 257, PACKED, bytes(257 * 16))),
        "need 2 chunks of 256, the file has 1",
    ),
    "absurd count": (
        changed(vertex=("uint", 10**17, PACKED, b"")),
        "truncated: the header states 1000000000000",
    ),
    "types": (changed(vertex=("float", 1, PACKED, bytes(16))), "type float32, expected uint"),
    "bounds": (changed(chunk=("int", 1, [*BOUNDS, *SCALES], bytes(48))), "expected floating point"),
    "no bounds": (changed(chunk=("float", 1, BOUNDS, bytes(24))), "no property 'min_scale_x'"),
    "half of the colours": (
        changed(chunk=("float", 1, [*BOUNDS, *SCALES, *COLOURS[:3]], bytes(60))),
        "no property 'max_r'",
    ),
    "degree": (
        changed(sh=("uchar", 1, [f"f_rest_{i}" for i in range(10)], bytes(10))),
        "10 properties f_rest",
    ),
    "rows": (
        changed(sh=("uchar", 0, [f"f_rest_{i}" for i in range(9)], b"")),
        "0 rows for 1 vertices",
    ),
    "sh types": (
        changed(sh=("short", 1, [f"f_rest_{i}" for i in range(9)], bytes(18))),
        "expected uchar",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path: Path, name: str) -> None:
    content, message = FAULTS[name]
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.ply: .*{message}"):
        read_splats(tmp_path / "a.ply")


def test_a_plain_ply_stays_a_plain_ply(tmp_path: Path) -> None:
    write_ply(tmp_path / "x.compressed.ply", model(3, 0))
    assert kind_of_file(tmp_path / "x.compressed.ply") == "a PLY"
    assert read_splats(tmp_path / "x.compressed.ply").splats.count == 3


@needs_vectors
@pytest.mark.parametrize(("name", "count"), [("biker", 152_746), ("guitar", 90_854)])
def test_files_of_supersplat(name: str, count: int) -> None:
    scene = read_splats(VECTORS / f"{name}.compressed.ply")
    assert scene.splats.count == count
    assert scene.metadata.notices == ()
    for values in scene.splats.columns().values():
        assert np.isfinite(values).all()
