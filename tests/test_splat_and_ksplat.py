# SPDX-License-Identifier: Apache-2.0
""".splat and .ksplat: layout, rounding, recognition without a magic number, faults."""

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from splat_formats.files import kind_of_file, read_splats, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splat_file import write_splat
from splat_formats.splats import Splats
from tests.format_models import FIXTURES, VECTORS, model, needs_vectors, rows_of
from tests.other_programs import alphas, angles
from utils.errors import InputError
from utils.sh_terms import C0


def row(xyz: tuple, scale: tuple, rgba: tuple, rotation: tuple) -> bytes:
    return struct.pack("<6f8B", *xyz, *scale, *rgba, *rotation)


ROWS = row((1, -2, 3), (0.5, 1, 2), (0, 255, 51, 204), (255, 128, 64, 0)) + row(
    (0, 0, 0), (0, 0.1, 0.1), (9, 9, 9, 255), (128, 128, 128, 255)
)


def test_a_splat_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.SPLAT").write_bytes(ROWS)
    assert kind_of_file(tmp_path / "a.SPLAT") == "a .splat file"
    scene = read_splats(tmp_path / "a.SPLAT")
    found = scene.splats
    assert (found.count, found.sh_degree) == (2, 0)
    np.testing.assert_array_equal(found.xyz, [[1, -2, 3], [0, 0, 0]])
    np.testing.assert_allclose(found.scaling[0], np.log([0.5, 1, 2]), atol=1e-7)
    np.testing.assert_allclose(found.features_dc[0, 0] * C0 + 0.5, [0, 1, 0.2], atol=1e-7)
    assert alphas(found)[0, 0] == pytest.approx(0.8)
    np.testing.assert_array_equal(found.rotation[0], [127 / 128, 0, -0.5, -1])
    assert scene.metadata.notices == ("1 Gaussian with a log scale of -inf: flat",)


@pytest.mark.parametrize("count", [1, 2, 500])
def test_a_splat_file_and_back(tmp_path: Path, count: int) -> None:
    splats, path = model(count, 0), tmp_path / "a.splat"
    written = write_splat(path, SplatScene(splats))
    assert written.notices == ()
    assert path.stat().st_size == 32 * count
    expected, found = splats.rows(rows_of(written)), read_splats(path).splats
    np.testing.assert_array_equal(found.xyz, expected.xyz)
    np.testing.assert_allclose(found.scaling, expected.scaling, atol=1e-6)
    assert np.abs(alphas(found) - alphas(expected)).max() <= 1 / 510 + 1e-6
    assert np.abs(found.features_dc - expected.features_dc).max() <= 1 / 510 / C0 + 1e-6
    assert angles(found, expected).max() <= 1.2
    weights = expected.scaling.sum(axis=1) + np.log(alphas(expected)[:, 0])
    assert (np.diff(weights) <= 1e-5).all()


def test_what_a_splat_file_cannot_hold_is_reported(tmp_path: Path) -> None:
    splats = model(10, 2)
    dc, scaling, opacity = splats.features_dc.copy(), splats.scaling.copy(), splats.opacity.copy()
    dc[:2], scaling[3], scaling[4, 0], opacity[5] = 3, 100, -200, -np.inf
    splats = replace(splats, features_dc=dc, scaling=scaling, opacity=opacity)
    metadata = SplatMetadata(antialiasing=True, origin=(1.0, 2.0, 3.0))
    assert write_splats(tmp_path / "a.splat", SplatScene(splats, metadata)) == (
        "dropped 1 Gaussian that no image can show: 1 with opacity -inf",
        "the format has no origin: add (1, 2, 3) to positions for world coordinates",
        "spherical harmonics of degrees 1 to 2 of 9 Gaussians are dropped: the format has none",
        "the format does not record that the model is rendered with antialiasing",
        "clipped: base colours (outside 0 to 1) of 2 Gaussians",
        "clipped: scales of 2 Gaussians",
    )
    found = read_splats(tmp_path / "a.splat")
    assert found.splats.count == 9
    assert found.metadata.notices == ()
    assert np.isfinite(found.splats.scaling).all()


def test_a_splat_file_of_no_gaussians_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one Gaussian, the model has none"):
        write_splats(tmp_path / "a.splat", SplatScene(model(0, 1)))
    assert not list(tmp_path.iterdir())


NOT_SPLATS = {
    "cut.splat": (ROWS[:-1], "63 bytes, a multiple of 32 above 0 is expected"),
    "empty.splat": (b"", "an empty file"),
    "image.splat": (b"\x89PNG" + bytes(range(100, 128)), "an image"),
    "noise.splat": (b"\xff" * 64, ""),
}


@pytest.mark.parametrize("name", NOT_SPLATS)
def test_other_content_under_the_name_of_a_splat_file(tmp_path: Path, name: str) -> None:
    content, message = NOT_SPLATS[name]
    (tmp_path / name).write_bytes(content)
    if message:
        with pytest.raises(InputError, match=message):
            read_splats(tmp_path / name)
        return
    assert np.isnan(read_splats(tmp_path / name).splats.xyz).all()  # nothing shows another format


def test_a_splat_file_needs_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(ROWS)
    with pytest.raises(InputError, match="this is no model"):
        read_splats(tmp_path / "a.bin")


def test_a_splat_file_may_begin_like_another_format(tmp_path: Path) -> None:
    # The first byte is that of a Python pickle.
    (tmp_path / "a.splat").write_bytes(b"\x80" + ROWS[1:])
    assert read_splats(tmp_path / "a.splat").splats.count == 2


@dataclass(frozen=True)
class Ksplat:
    """A .ksplat file of one section, and what a test may change in it."""

    level: int = 1
    degree: int = 1
    count: int = 10
    capacity: int = 4
    full: int = 1
    partial: tuple[int, ...] = (4, 2)
    scale_range: int = 1000
    block: float = 5.0
    sh_range: tuple[float, float] = (-2.0, 3.0)
    version: tuple[int, int] = (0, 1)
    sections: int = 1
    stated: int | None = None
    centre_bytes: int = 12
    buckets: int = 3

    def rows(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        position, size, sh = (("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1"))[
            min(self.level, 2)
        ]
        width = 3 * ((self.degree + 1) ** 2 - 1)
        fields = [("xyz", position, 3), ("scale", size, 3), ("rotation", size, 4)]
        rows = np.zeros(self.count, [*fields, ("rgba", "u1", 4), ("sh", sh, width)])
        rows["xyz"] = rng.integers(0, 2000, (self.count, 3))
        rows["scale"] = rng.uniform(0.1, 1, (self.count, 3))
        rows["rotation"] = rng.normal(size=(self.count, 4))
        rows["rgba"] = rng.integers(1, 255, (self.count, 4))
        rows["sh"] = rng.integers(0, 200, (self.count, width))
        return rows

    def centres(self) -> np.ndarray:
        return np.arange(3 * self.buckets, dtype="<f4").reshape(self.buckets, 3)

    def section(self) -> bytes:
        head = struct.pack(
            "<IIIIfH2xI4xIIH", self.count, self.count, self.capacity, self.buckets, self.block,
            self.centre_bytes, self.scale_range, self.full, len(self.partial), self.degree,
        )  # fmt: skip
        return head.ljust(1024, b"\0")

    def body(self) -> bytes:
        partial = np.array(self.partial, "<u4").tobytes()
        return partial + self.centres().tobytes() + self.rows().tobytes()

    def main(self) -> bytes:
        stated = self.count if self.stated is None else self.stated
        head = struct.pack("<BB2xIIIIH14xff", *self.version, self.sections, 0, 0, stated,
                           self.level, *self.sh_range)  # fmt: skip
        return head.ljust(4096, b"\0")

    def data(self) -> bytes:
        return self.main() + self.section() + self.body()


def read(folder: Path, data: bytes) -> Splats:
    (folder / "a.ksplat").write_bytes(data)
    return read_splats(folder / "a.ksplat").splats


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("degree", range(4))
def test_a_ksplat_file_by_hand(tmp_path: Path, level: int, degree: int) -> None:
    made = Ksplat(level=level, degree=degree)
    found, rows = read(tmp_path, made.data()), made.rows()
    assert kind_of_file(tmp_path / "a.ksplat") == "a .ksplat file"
    if level:
        bucket = [0] * 4 + [1] * 4 + [2] * 2
        centres = made.centres()[bucket]
        expected = (rows["xyz"].astype(float) - 1000) * (2.5 / 1000) + centres
    else:
        expected = rows["xyz"]
    np.testing.assert_allclose(found.xyz, expected, atol=1e-5)
    np.testing.assert_allclose(found.scaling, np.log(rows["scale"].astype(float)), atol=1e-6)
    np.testing.assert_array_equal(found.rotation, rows["rotation"].astype(np.float32))
    np.testing.assert_allclose(found.features_dc[:, 0] * C0 + 0.5, rows["rgba"][:, :3] / 255,
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(alphas(found)[:, 0], rows["rgba"][:, 3] / 255, atol=1e-6)
    sh = rows["sh"].astype(float)
    if level == 2:
        sh = sh * (5 / 255) - 2
    for band in range(1, degree + 1):  # degree by degree, and channel by channel within one
        first, width = 3 * (band**2 - 1), 2 * band + 1
        for channel in range(3):
            block = sh[:, first + channel * width :][:, :width]
            ours = found.features_rest[:, band**2 - 1 : (band + 1) ** 2 - 1, channel]
            np.testing.assert_allclose(ours, block, atol=1e-5)


def test_sections_of_different_degrees(tmp_path: Path) -> None:
    one, two = Ksplat(degree=2, count=6, partial=(2,), buckets=2), Ksplat(degree=0)
    empty = bytes(1024)
    main = Ksplat(sections=3, stated=16).main()
    data = main + one.section() + empty + two.section() + one.body() + two.body()
    found = read(tmp_path, data)
    assert (found.count, found.sh_degree) == (16, 2)
    assert not found.features_rest[6:].any()
    np.testing.assert_array_equal(found.rotation[6:], two.rows()["rotation"].astype(np.float32))


def test_defaults_of_headers(tmp_path: Path) -> None:
    made = Ksplat(level=2, scale_range=0, sh_range=(0.0, 0.0))
    found = read(tmp_path, made.data())
    given = read(tmp_path, replace(made, scale_range=32767, sh_range=(-1.5, 1.5)).data())
    np.testing.assert_array_equal(found.xyz, given.xyz)
    np.testing.assert_array_equal(found.features_rest, given.features_rest)


def test_a_ksplat_file_of_no_gaussians(tmp_path: Path) -> None:
    assert read(tmp_path, Ksplat(sections=0, stated=0).main()).count == 0


KSPLAT_FAULTS = {
    "short": (Ksplat().data()[:4095], "4096 bytes are expected, got 4095"),
    "level": (Ksplat(level=3).data(), "compression level 3, expected 0 to 2"),
    "sections": (Ksplat(sections=2**32 - 1).data(), "4294967295 sections in a file of"),
    "limits": (Ksplat(sh_range=(1.0, -1.0)).data(), "two finite limits expected"),
    "degree": (Ksplat(degree=4).main() + Ksplat(degree=4).section(), "SH degree 4"),
    "cut": (Ksplat().data()[:-1], "section 0: truncated: it ends at byte"),
    "count": (Ksplat(stated=11).data(), "11 Gaussians, the sections have 10"),
    "centre": (Ksplat(centre_bytes=8).data(), "8 bytes for a bucket's centre"),
    "buckets": (Ksplat(full=2).data(), "2 full and 2 other buckets of 3"),
    "room": (Ksplat(partial=(4, 1)).data(), "10 Gaussians in buckets for 9"),
    "block": (Ksplat(block=float("nan")).data(), "buckets of size nan"),
    "capacity": (Ksplat(capacity=0).data(), "10 Gaussians in buckets for 6"),
}


@pytest.mark.parametrize("name", KSPLAT_FAULTS)
def test_faults_of_ksplat_files_are_named(tmp_path: Path, name: str) -> None:
    content, message = KSPLAT_FAULTS[name]
    with pytest.raises(InputError, match=rf"a\.ksplat: corrupt file: .*{message}"):
        read(tmp_path, content)


def test_more_gaussians_than_room(tmp_path: Path) -> None:
    data = bytearray(Ksplat().data())
    data[4100:4104] = struct.pack("<I", 9)
    with pytest.raises(InputError, match="10 Gaussians, there is room for 9"):
        read(tmp_path, bytes(data))


def test_another_version_is_no_ksplat_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"version 1\.1, expected 0\.1 or a later 0\.x"):
        read(tmp_path, Ksplat(version=(1, 1)).data())


@needs_vectors
def test_files_of_other_programs() -> None:
    found = read_splats(VECTORS / "luma-seal.splat").splats
    assert found.count == 101_780
    for values in found.columns().values():
        assert np.isfinite(values).all()
    for name in ("minimal.splat", "minimal.ksplat"):
        found = read_splats(FIXTURES / name).splats
        corners = [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
        np.testing.assert_array_equal(found.xyz, corners, name)
        np.testing.assert_allclose(found.scaling, np.full((4, 3), np.log(0.1)), atol=1e-6)
        np.testing.assert_array_equal(np.argmax(np.abs(found.rotation), axis=1), 3)
        rgba = np.array([0x55, 0x55, 0x80]) / 255
        np.testing.assert_allclose(found.features_dc[0, 0] * C0 + 0.5, rgba, atol=1e-6)
        assert alphas(found) == pytest.approx(np.full((4, 1), 230 / 255))
