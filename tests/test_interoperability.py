# SPDX-License-Identifier: Apache-2.0
"""Compressed PLY, SPZ, .splat and .ksplat against programs that others wrote, both ways."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from splat_formats.files import format_to_write, read_splats, written_by
from splat_formats.scene import SplatScene
from splat_formats.splats import Splats
from splat_formats.turns import HALF_TURN_X, turned
from tests.format_models import VECTORS, model, needs_vectors, rows_of
from tests.other_programs import (
    assert_near,
    gsply,
    read_by_splat_transform,
    write_by_splat_transform,
)
from tests.test_compressed_ply import rounding_bounds
from tests.test_splat_and_ksplat import Ksplat
from tests.test_spz import ROUNDING as SPZ_ROUNDING

COUNT = 600
# Two decoders of the same integers. Opacities 0 and 255 are read as a quarter of a step from the
# end here, and splat-transform reads the bytes of .splat rotations as b / 127.5 - 1.
DECODED = {"xyz": 1e-6, "features_dc": 1e-6, "features_rest": 1e-6, "scaling": 1e-6,
           "opacity": 0.001, "rotation": 0.01}  # fmt: skip
DECODED_SPLAT = DECODED | {"rotation": 1.0}

WRITTEN = [(".compressed.ply", {}), (".spz", {}), (".spz", {"spz_version": 3}), (".splat", {})]


def write(path: Path, splats: Splats, options: dict[str, int]) -> Splats:
    """Writes the file; returns the Gaussians in its order, as far as the format can hold them."""
    written = written_by(format_to_write(path), path, SplatScene(splats), **options)
    ordered = splats.rows(rows_of(written))
    if path.suffix == ".splat":
        ordered = dataclasses.replace(ordered, features_rest=ordered.features_rest[:, :0])
    return ordered


@pytest.mark.parametrize(("ending", "options"), WRITTEN)
def test_splat_transform_reads_what_we_write(
    tmp_path: Path, ending: str, options: dict[str, int]
) -> None:
    path = tmp_path / f"a{ending}"
    write(path, model(COUNT, 3), options)
    bounds = DECODED_SPLAT if ending == ".splat" else DECODED
    theirs = read_by_splat_transform(path, tmp_path)
    assert_near(theirs, read_splats(path).splats, bounds)


@pytest.mark.parametrize("degree", [0, 2])
def test_we_read_a_compressed_ply_of_splat_transform(tmp_path: Path, degree: int) -> None:
    path, splats = tmp_path / "a.compressed.ply", model(COUNT, degree)
    write_by_splat_transform(splats, path)
    found = read_splats(path).splats
    assert_near(read_by_splat_transform(path, tmp_path), found, DECODED)
    for theirs, mine in zip(sorted_columns(found), sorted_columns(splats), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=0.02)


def sorted_columns(splats: Splats) -> list[np.ndarray]:
    """Each position and scale on its own in ascending order, whatever the order of Gaussians."""
    return [np.sort(splats.xyz, axis=0), np.sort(splats.scaling, axis=0)]


@pytest.mark.parametrize(("degree", "version"), [(0, 4), (1, 4), (2, 3), (3, 4)])
def test_we_read_an_spz_file_of_splat_transform(tmp_path: Path, degree: int, version: int) -> None:
    path, splats = tmp_path / "a.spz", model(COUNT, degree)
    write_by_splat_transform(splats, path, "--spz-version", str(version))
    assert_near(read_splats(path).splats, splats, SPZ_ROUNDING)  # their order is the model's


@pytest.mark.parametrize("version", [3, 4])
def test_spz_files_hold_the_same_numbers_and_are_no_larger(tmp_path: Path, version: int) -> None:
    splats = model(COUNT, 3)
    write_by_splat_transform(splats, tmp_path / "a.spz", "--spz-version", str(version))
    written = written_by(format_to_write(tmp_path / "b.spz"), tmp_path / "b.spz",
                         SplatScene(splats), spz_version=version)  # fmt: skip
    theirs, ours = (read_splats(tmp_path / name).splats for name in ("a.spz", "b.spz"))
    for name, values in theirs.rows(rows_of(written)).columns().items():
        same = np.abs(values - ours.columns()[name]) < 1e-6
        assert same.mean() > 0.999, name  # ties are rounded in either direction
    sizes = [(tmp_path / name).stat().st_size for name in ("a.spz", "b.spz")]
    assert sizes[1] <= 1.02 * sizes[0]


@pytest.mark.parametrize(("level", "degree"), [(0, 1), (1, 3), (2, 2), (2, 0)])
def test_ksplat_is_read_as_by_splat_transform(tmp_path: Path, level: int, degree: int) -> None:
    path = tmp_path / "a.ksplat"
    path.write_bytes(Ksplat(level=level, degree=degree).data())
    bounds = DECODED | {"xyz": 1e-4, "features_rest": 1e-4}
    assert_near(read_by_splat_transform(path, tmp_path), read_splats(path).splats, bounds)


@needs_vectors
@pytest.mark.parametrize("name", ["biker.spz", "guitar.compressed.ply", "luma-seal.splat"])
def test_files_of_others_are_read_as_by_splat_transform(tmp_path: Path, name: str) -> None:
    bounds = DECODED_SPLAT if name.endswith(".splat") else DECODED
    theirs = read_by_splat_transform(VECTORS / name, tmp_path)
    assert_near(theirs, read_splats(VECTORS / name).splats, bounds)


def from_gsply(data: object) -> Splats:
    arrays = {"xyz": "means", "features_dc": "sh0", "features_rest": "shN", "opacity": "opacities",
              "scaling": "scales", "rotation": "quats"}  # fmt: skip
    found = {name: np.ascontiguousarray(getattr(data, theirs), np.float32)
             for name, theirs in arrays.items()}  # fmt: skip
    count = len(found["xyz"])
    shapes = {"features_dc": (count, 1, 3), "opacity": (count, 1)}
    return Splats(**{name: values.reshape(shapes.get(name, values.shape))
                     for name, values in found.items()})  # fmt: skip


def to_gsply(splats: Splats) -> object:
    return gsply().GSData(
        splats.xyz.copy(),
        splats.scaling.copy(),
        splats.rotation.copy(),
        splats.opacity[:, 0].copy(),
        splats.features_dc[:, 0].copy(),
        splats.features_rest.copy(),
    )


def read_by_gsply(path: Path) -> Splats:
    """gsply leaves models in an SPZ file's axes."""
    if path.suffix == ".spz":
        return turned(from_gsply(gsply().read_spz(str(path))), HALF_TURN_X)
    return from_gsply(gsply().plyread(str(path)))


@pytest.mark.parametrize(("ending", "options"), WRITTEN[:-1])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_gsply_reads_what_we_write(
    tmp_path: Path, ending: str, options: dict[str, int], degree: int
) -> None:
    path = tmp_path / f"a{ending}"
    write(path, model(COUNT, degree), options)
    assert_near(read_by_gsply(path), read_splats(path).splats, DECODED)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("degree", range(4))
def test_we_read_an_spz_file_of_gsply(tmp_path: Path, degree: int, version: int) -> None:
    path, splats = tmp_path / "a.spz", model(COUNT, degree)
    data = to_gsply(turned(splats, HALF_TURN_X))
    gsply().write_spz(str(path), data, version=version)
    assert_near(read_splats(path).splats, splats, SPZ_ROUNDING)


@pytest.mark.parametrize("degree", range(4))
def test_we_read_a_compressed_ply_of_gsply(tmp_path: Path, degree: int) -> None:
    path, splats = tmp_path / "a.compressed.ply", model(COUNT, degree)
    gsply().plywrite(str(path), to_gsply(splats), compressed=True)
    found = read_splats(path).splats
    for name, bound in rounding_bounds(splats).items():
        difference = np.abs(getattr(found, name) - getattr(splats, name)).reshape(COUNT, 3)
        assert (difference <= bound).all(), name
