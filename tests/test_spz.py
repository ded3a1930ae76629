# SPDX-License-Identifier: Apache-2.0
"""SPZ 1 to 4: layout, rounding, axes, faults."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard

from splat_codec.errors import CorruptFile
from splat_formats.files import kind_of_file, read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from splat_formats.spz import read_spz, write_spz
from splat_formats.spz_container import unpack
from splat_formats.turns import HALF_TURN_X, turned
from tests.format_models import FIXTURES, VECTORS, model, needs_vectors, rows_of
from tests.other_programs import alphas, angles, assert_near
from tests.test_compressed_ply import rounding_bounds
from utils.errors import InputError

# What docs/formats.md states; the rotation in degrees.
ROUNDING = {
    "xyz": 2**-13 + 1e-6,
    "features_dc": 1 / 510 / 0.15 + 1e-6,
    "features_rest": 17 / 256 + 1e-6,
    "scaling": 1 / 32 + 1e-6,
    "opacity": 1 / 510 + 1e-6,
    "rotation": 0.28,
}
SIGNS_X = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)


def header(version: int, count: int, degree: int = 0, bits: int = 12, flags: int = 0) -> bytes:
    return struct.pack("<4sIIBBBB", b"NGSP", version, count, degree, bits, flags, 0)


def streams(version: int, degree: int, position: bytes) -> list[bytes]:
    """The streams of one Gaussian."""
    # Half of the angle about x is 60 degrees: x is the largest, w is 1/2.
    half = round(0.5 / np.sqrt(0.5) * 511)
    rotation = struct.pack("<I", 0 << 30 | half) if version > 2 else bytes([128 + 110, 127, 128])
    harmonics = bytes(range(100, 100 + 3 * ((degree + 1) ** 2 - 1)))
    return [position, bytes([204]), bytes([255, 0, 51]), bytes([0, 160, 255]), rotation, harmonics]


def version_4(parts: list[bytes], count: int = 1, degree: int = 0, flags: int = 0) -> bytes:
    frames = [zstandard.compress(part) for part in parts]
    table = b"".join(struct.pack("<QQ", len(f), len(p)) for f, p in zip(frames, parts, strict=True))
    start = header(4, count, degree, 12, flags)[:-1] + bytes([len(parts)])
    return start + struct.pack("<I12x", 32) + table + b"".join(frames)


def by_hand(version: int, degree: int = 0, flags: int = 0) -> bytes:
    fixed = b"".join(struct.pack("<i", step)[:3] for step in (4096, -1, 2**22))
    position = struct.pack("<3e", 1, -0.25, 1024) if version == 1 else fixed
    parts = streams(version, degree, position)
    if version == 4:
        return version_4(parts if degree else parts[:-1], 1, degree, flags)
    return gzip.compress(header(version, 1, degree, 12, flags) + b"".join(parts))


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", range(5))
def test_a_file_by_hand(tmp_path: Path, version: int, degree: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(by_hand(version, degree, flags=1))
    assert kind_of_file(path) == "an SPZ file"
    scene = read_splats(path)
    found = scene.splats
    assert scene.metadata.antialiasing
    expected = [1, 0.25, -1024] if version == 1 else [1, 1 / 4096, -1024]
    np.testing.assert_array_equal(found.xyz, [expected])
    assert alphas(found)[0, 0] == pytest.approx(0.8)
    np.testing.assert_allclose(found.features_dc[0, 0], [10 / 3, -10 / 3, -2], rtol=1e-6)
    np.testing.assert_array_equal(found.scaling, [[-10, 0, 5.9375]])
    if version > 2:
        w = round(0.5 / np.sqrt(0.5) * 511) / 511 * np.sqrt(0.5)
        np.testing.assert_allclose(found.rotation, [[w, np.sqrt(1 - w * w), 0, 0]], atol=1e-7)
    else:  # y and z change their signs
        x, y, z = 238 / 127.5 - 1, 0.5 / 127.5, -0.5 / 127.5
        w = np.sqrt(1 - x * x - y * y - z * z)
        np.testing.assert_allclose(found.rotation, [[w, x, y, z]], atol=1e-7)
    rest = (min(degree, 3) + 1) ** 2 - 1
    numbers = (np.arange(100, 100 + 3 * rest).reshape(rest, 3) - 128) / 128
    np.testing.assert_array_equal(found.features_rest[0], numbers * SIGNS_X[:rest, None])
    dropped = ("SH degree 4: bands above degree 3 are left out",) if degree == 4 else ()
    assert scene.metadata.notices == dropped


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 300])
def test_round_trip_within_the_documented_bounds(
    tmp_path: Path, count: int, degree: int, version: int
) -> None:
    splats, path = model(count, degree), tmp_path / "a.SPZ"
    written = write_spz(path, SplatScene(splats), spz_version=version)
    assert written.notices == ()
    rows = rows_of(written)
    assert sorted(rows) == list(range(count))
    scene = read_splats(path)
    assert scene.metadata == SplatMetadata()
    assert_near(scene.splats, splats.rows(rows), ROUNDING)
    of_degree_1 = (scene.splats.features_rest - splats.features_rest[rows])[:, :3]
    assert np.abs(of_degree_1).max(initial=0) <= 9 / 256 + 1e-6
    data = path.read_bytes()
    assert unpack(data).header.version == version
    assert data.startswith(b"NGSP" if version == 4 else b"\x1f\x8b")


def test_options_by_name(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.spz", SplatScene(model(2, 1)), spz_version=3)
    assert unpack((tmp_path / "a.spz").read_bytes()).header.version == 3
    with pytest.raises(ValueError, match="version 2"):
        write_spz(tmp_path / "b.spz", SplatScene(model(2, 1)), spz_version=2)
    assert not (tmp_path / "b.spz").exists()


def test_harmonics_use_every_eighth_and_every_sixteenth_value(tmp_path: Path) -> None:
    write_spz(tmp_path / "a.spz", SplatScene(model(300, 2)))
    stored = unpack((tmp_path / "a.spz").read_bytes()).streams[5]
    assert not (stored[:, :9] % 8).any()
    assert not (stored[:, 9:] % 16).any()
    assert len(np.unique(stored[:, :9])) > 16


def test_clipped_values_are_counted(tmp_path: Path) -> None:
    splats = model(20, 1)
    xyz, scaling = splats.xyz.copy(), splats.scaling.copy()
    dc, rest = splats.features_dc.copy(), splats.features_rest.copy()
    scaling[0], dc[1], dc[2], rest[3, 2, 1] = -11, 4, -4, 1.5
    splats = replace(splats, xyz=xyz, scaling=scaling, features_dc=dc, features_rest=rest)
    metadata = SplatMetadata(antialiasing=True, origin=(5.0, 0.0, 0.25))
    notices = write_splats(tmp_path / "a.spz", SplatScene(splats, metadata))
    assert notices == (
        "the format has no origin: add (5, 0, 0.25) to positions for world coordinates",
        "clipped: base colours (|f_dc| > 3.33) of 2 Gaussians",
        "clipped: log scales (outside -10 to 5.938) of 1 Gaussian",
        "clipped: higher SH coefficients (beyond 1) of 1 Gaussian",
    )
    scene = read_splats(tmp_path / "a.spz")
    assert scene.metadata.antialiasing
    assert scene.splats.scaling.min() == -10


def far(splats: Splats, rows: int, distance: float) -> Splats:
    xyz = splats.xyz.copy()
    xyz[:rows, 1] = distance
    return replace(splats, xyz=xyz)


def test_a_large_model_gets_coarser_steps_and_an_outlier_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    written = write_spz(path, SplatScene(far(model(2000, 0), 1000, 10_000.4)))
    (notice,) = written.notices
    assert "steps of 0.00195 units instead of 0.000244" in notice and "beyond 2,048" in notice
    assert read_splats(path).splats.xyz.max() == pytest.approx(10_000.4, abs=1 / 1024)
    written = write_spz(path, SplatScene(far(model(2000, 0), 1, 10_000.4)))
    assert written.notices == ("clipped: positions (beyond 2048) of 1 Gaussian",)
    assert read_splats(path).splats.xyz.max() == 2048
    splats = far(model(2000, 0), 1000, 1e30)
    written = write_spz(path, SplatScene(splats))
    assert written.notices == ("clipped: positions (beyond 2048) of 1,000 Gaussians",)
    difference = np.abs(read_splats(path).splats.xyz - splats.xyz[rows_of(written)]).max(axis=1)
    assert np.count_nonzero(difference <= 2**-13) == 1000


@pytest.mark.parametrize("distance", [8.4e6, 1e7, 3e38])
def test_a_model_beyond_all_positions_is_refused(tmp_path: Path, distance: float) -> None:
    path = tmp_path / "a.spz"
    with pytest.raises(InputError, match=r"a\.spz: 1,001 of 2,000 Gaussians lie farther from 0"):
        write_spz(path, SplatScene(far(model(2000, 0), 1001, distance)))
    assert not path.exists()


@pytest.mark.parametrize(("log_size", "shows"), [(-4.0, True), (-6.9, True), (3.0, False)])
def test_coarse_positions_are_compared_with_the_gaussians(
    tmp_path: Path, log_size: float, shows: bool
) -> None:
    """A step of 1/32 unit, and Gaussians of 0.018, 0.001 and 20 units."""
    splats = far(model(2000, 0), 1000, 200_000.0)
    splats.scaling[:] = log_size
    (notice,) = write_spz(tmp_path / "a.spz", SplatScene(splats)).notices
    assert f"{2.0**-5 / np.exp(log_size):.2g} times the size" in notice
    assert ("images show" in notice) == shows


def test_a_tiny_model_gets_finer_steps(tmp_path: Path) -> None:
    path, splats = tmp_path / "a.spz", model(300, 0)
    tiny = replace(splats, xyz=splats.xyz / 1000, scaling=splats.scaling - np.float32(5.5))
    written = write_spz(path, SplatScene(tiny))
    assert unpack(path.read_bytes()).header.fractional_bits == 16
    difference = read_splats(path).splats.xyz - tiny.xyz[rows_of(written)]
    assert np.abs(difference).max() <= 2**-17 + 1e-9


def test_extreme_numbers(tmp_path: Path) -> None:
    splats = model(3, 3)
    rotation = splats.rotation.copy()
    rotation[0], rotation[1] = 0, [1e-30, -1e30, 1e30, 0]
    splats = replace(splats, rotation=rotation, opacity=np.array([[90], [-90], [0]], np.float32))
    written = write_spz(tmp_path / "a.spz", SplatScene(splats))
    found = read_splats(tmp_path / "a.spz").splats
    expected = splats.rows(rows_of(written))
    np.testing.assert_allclose(alphas(found), alphas(expected), atol=0.002)
    place = rows_of(written).tolist().index(0)
    np.testing.assert_array_equal(found.rotation[place], [1, 0, 0, 0])
    for values in found.columns().values():
        assert np.isfinite(values).all()


def test_extensions_are_skipped(tmp_path: Path) -> None:
    splats, path = model(5, 1), tmp_path / "a.spz"
    for version, more in ((3, b"extension"), (4, b"")):
        write_spz(path, SplatScene(splats), version)
        data = path.read_bytes()
        if version == 3:
            plain = bytearray(gzip.decompress(data))
            plain[14] |= 2
            path.write_bytes(gzip.compress(bytes(plain) + more))
        else:
            path.write_bytes(data[:14] + b"\2" + data[15:] + more)
        scene = read_splats(path)
        assert scene.splats.count == 5
        assert scene.metadata.notices == ("not used: extensions of the SPZ file",)


def test_a_table_and_streams_further_on(tmp_path: Path) -> None:
    data = by_hand(4, 1)
    later = data[:16] + struct.pack("<I", 40) + data[20:32] + bytes(8) + data[32:]
    (tmp_path / "a.spz").write_bytes(later)
    (tmp_path / "b.spz").write_bytes(data)
    found, expected = (read_splats(tmp_path / name).splats for name in ("a.spz", "b.spz"))
    for name, values in expected.columns().items():
        np.testing.assert_array_equal(found.columns()[name], values)


PARTS = streams(4, 0, bytes(9))[:-1]
PLAIN = header(3, 1) + b"".join(PARTS)
FAULTS = {
    "version 0": (header(0, 1), "version 0, expected 1 to 3"),
    "version 5": (header(5, 1) + bytes(16), "version 5, expected 1 to 3"),
    "version 4 in gzip": (gzip.compress(header(4, 1)), "version 4, expected 1 to 3"),
    "degree": (gzip.compress(header(3, 1, 5)), "SH degree 5, expected 0 to 4"),
    "bits": (gzip.compress(header(3, 1, 0, 25)), "25 fractional bits"),
    "count": (gzip.compress(header(3, 2**32 - 1, 4)), "4294967295 Gaussians in a file of"),
    "count of version 4": (header(4, 2**31, 3) + bytes(999), "2147483648 Gaussians in a file of"),
    "no header": (b"NGSP\3\0\0\0", "16 bytes that begin with NGSP are expected, got 8"),
    "half a header": (header(4, 1), "32 bytes are expected, got 16"),
    "too short": (gzip.compress(PLAIN[:-1]), "section rotations: 3 of the 4 bytes"),
    "too long": (gzip.compress(PLAIN + b"x"), "more bytes than its header states"),
    "gzip cut": (gzip.compress(PLAIN)[:-9], "section"),
    "gzip checksum": (gzip.compress(PLAIN)[:-8] + bytes(8), "section gzip"),
    "few streams": (version_4(PARTS[:4]), "4 streams, at least 5 are expected"),
    "table": (version_4(PARTS)[:100], "5 entries at byte 32 of 100"),
    "table before": (
        version_4(PARTS)[:16] + bytes(4) + version_4(PARTS)[20:], "5 entries at byte 0"
    ),
    "cut": (version_4(PARTS)[:-1], "section rotations: truncated"),
    "length": (version_4([PARTS[0] + b"x", *PARTS[1:]]), "more than the 9 bytes"),
    "no zstd": (version_4(PARTS).replace(b"\x28\xb5\x2f\xfd", b"\0\0\0\0"), "damaged zstd frame"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path: Path, name: str) -> None:
    content, message = FAULTS[name]
    (tmp_path / "a.spz").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.spz: corrupt file: .*{message}"):
        read_splats(tmp_path / "a.spz")


def bomb(kind: str) -> bytes:
    """A small file that decompresses to 64 MiB more than its header needs."""
    zeros = bytes(1 << 26)
    if kind == "gzip":
        return gzip.compress(PLAIN + zeros, 1)
    if kind == "gzip with extensions":
        return gzip.compress(header(3, 1, 0, 12, 2) + PLAIN[16:] + zeros, 1)
    data = bytearray(version_4([zeros, *PARTS[1:]]))
    data[40:48] = struct.pack("<Q", 9)
    return bytes(data)


@pytest.mark.parametrize("kind", ["gzip", "gzip with extensions", "zstd"])
def test_bombs_use_no_memory(tmp_path: Path, kind: str) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    (tmp_path / "a.spz").write_bytes(bomb(kind))
    tracemalloc.start()
    try:
        if kind == "gzip with extensions":
            assert read_spz(tmp_path / "a.spz").splats.count == 1
        else:
            with pytest.raises(CorruptFile):
                read_spz(tmp_path / "a.spz")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@needs_vectors
def test_fixtures_of_splat_transform() -> None:
    for name in ("minimal-raw", "minimal-v2", "minimal-v3", "minimal-v4"):
        found = read_splats(FIXTURES / f"{name}.spz").splats
        z = -1 if name in ("minimal-v3", "minimal-v4") else 1
        corners = [[-1, 0, z], [0, 0, z], [-1, 0, 0], [0, 0, 0]]
        np.testing.assert_array_equal(found.xyz, corners, name)
        assert alphas(found) == pytest.approx(np.full((4, 1), 230 / 255))
        np.testing.assert_array_equal(found.scaling, np.full((4, 3), 123 / 16 - 10, np.float32))
        assert angles(found, replace(found, rotation=np.eye(1, 4, dtype=np.float32).repeat(4, 0))
                      ).max() < 0.8  # fmt: skip
        byte = 0x69 if name in ("minimal-v3", "minimal-v4") else 0x55
        expected = np.float32((byte / 255 - 0.5) / 0.15)
        np.testing.assert_allclose(found.features_dc[0, 0, :2], expected, rtol=1e-6)


@needs_vectors
def test_one_model_in_two_formats() -> None:
    """biker.spz is biker.compressed.ply turned by half a turn about x, both rounded."""
    spz, ply = (read_splats(VECTORS / f"biker.{ending}").splats for ending in
                ("spz", "compressed.ply"))  # fmt: skip
    assert spz.count == ply.count
    row = pytest.importorskip("scipy.spatial").cKDTree(numbers(spz)).query(numbers(ply))[1]
    assert len(np.unique(row)) >= spz.count - 2  # some are nearly equal to others
    found = spz.rows(row)
    steps = {"xyz": 2**-13, "scaling": 1 / 32, "features_dc": 1 / 510 / 0.15}
    for name, bound in rounding_bounds(ply).items():
        in_ply = getattr(ply, name).reshape(-1, 3)
        if name == "scaling":
            in_ply = np.clip(in_ply, -10, 5.9375)
        difference = np.abs(getattr(found, name).reshape(-1, 3) - in_ply)
        assert (difference <= bound + steps[name] + 1e-6).all(), name
    np.testing.assert_array_equal(alphas(found), alphas(ply))
    assert np.sort(angles(found, ply))[-3] <= 0.28 + 0.28


def numbers(splats: Splats) -> np.ndarray:
    """(N, 10) the attributes of Gaussians in units of about the roundings, to match them."""
    dc = np.clip(splats.features_dc[:, 0], -3.33, 3.33)
    parts = (splats.xyz / 2e-3, splats.scaling / 0.03, dc / 0.03, alphas(splats) / 0.004)
    return np.concatenate(parts, axis=1)


def test_axes_are_those_of_a_half_turn_about_x(tmp_path: Path) -> None:
    splats, path = model(50, 3), tmp_path / "a.spz"
    write_spz(path, SplatScene(splats))
    positions = unpack(path.read_bytes()).streams[0].reshape(50, 3, 3).astype(int)
    signed = positions @ [1, 256, 65536]
    signed -= (signed >= 2**23) * 2**24
    expected = turned(splats, HALF_TURN_X).xyz
    assert np.abs(np.sort(signed / 4096, axis=0) - np.sort(expected, axis=0)).max() < 2**-12
