# SPDX-License-Identifier: Apache-2.0
"""What a written file lost: the right pairs of Gaussians, in units that can be judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_formats.axes import with_ordered_axes
from splat_formats.edits import Box, Edits, edited
from splat_formats.files import FORMATS, read_splats
from splat_formats.losses import lines, losses, median_size
from splat_formats.measured_file import write_measured
from splat_formats.scene import SplatMetadata, SplatScene, Written
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats
from utils.errors import InputError

NAMES = ("position", "position, rel.", "scale", "rotation", "opacity", "colour", "SH")


def scene_of(splats: Splats, **metadata: object) -> SplatScene:
    return SplatScene(splats, SplatMetadata(**metadata))


def test_errors_are_in_their_units() -> None:
    start = random_splats(40, 1)
    start.scaling[:] = np.log([4.0, 2.0, 1.0])
    start.opacity[:] = 0
    start.rotation[:] = [2, 0, 0, 0]
    angle = np.deg2rad(20) / 2
    changed = replace(
        start,
        xyz=start.xyz + np.float32([0, 3, 4]),
        scaling=start.scaling + np.log(np.float32(1.1)),
        rotation=np.tile(np.float32([-np.cos(angle), -np.sin(angle), 0, 0]), (40, 1)),
        opacity=start.opacity + np.float32(np.log(0.6 / 0.4)),
        features_dc=start.features_dc + np.float32(8 / 255 / 0.28209479),
        features_rest=start.features_rest + np.float32(0.5),
    )
    found = losses(scene_of(start), scene_of(changed), Written())
    rest = 255 * 0.5 * np.sqrt(3 / (4 * np.pi))
    expected = dict(zip(NAMES, (5, 250, 10, 20, 0.1, 8, rest), strict=True))
    assert found.errors.keys() == expected.keys()
    for name, value in expected.items():
        assert found.errors[name].mean == pytest.approx(value, rel=1e-4), name
        assert found.errors[name].largest == pytest.approx(value, rel=1e-4), name
    assert len(lines(found)) == 1 + len(NAMES)


@pytest.mark.parametrize("count", [0, 1, 40_000])  # more than a block
def test_equal_scenes_have_no_loss(count: int) -> None:
    scene = scene_of(random_splats(count, 1 if count > 1 else 3))
    found = losses(scene, scene, Written())
    assert [error.largest for error in found.errors.values()] == [0] * len(found.errors)
    assert bool(found.errors) == bool(count)
    assert (found.before, found.after, found.reordered) == (count, count, False)


@pytest.mark.parametrize("ordered", [False, True])
def test_order_drops_and_equal_forms_of_an_ellipsoid(ordered: bool) -> None:
    start = random_splats(50_000, 0)
    rows = np.random.default_rng(1).permutation(start.count)[:-7]
    written = start.rows(rows)
    written = with_ordered_axes(written) if ordered else written
    found = losses(scene_of(start), scene_of(written), Written((), rows, ordered))
    assert max(error.largest for error in found.errors.values()) < 1e-4
    assert lines(found)[-2:] == ["  dropped: 7 Gaussians", "  the Gaussians are in another order"]


def test_a_writer_that_reports_other_rows_is_a_bug() -> None:
    start = random_splats(5, 0)
    with pytest.raises(ValueError, match="the file has 4 Gaussians"):
        losses(scene_of(start), scene_of(start.rows(slice(4))), Written())


def test_positions_are_compared_in_world_coordinates() -> None:
    start = random_splats(5, 0)
    moved = replace(start, xyz=start.xyz + np.float32(64))
    far, farther = (scene_of(start, origin=(x, x, x)) for x in (1e6, 1e6 + 64))
    assert losses(farther, scene_of(moved, origin=(1e6,) * 3), Written()).errors[
        "position"
    ].largest < 1e-4  # fmt: skip
    assert losses(farther, far, Written()).errors["position"].mean > 64
    dropped = losses(far, scene_of(start), Written())
    assert dropped.errors["position"].largest == 0


def test_values_that_are_not_finite_are_counted_and_not_compared() -> None:
    start = random_splats(9, 2)
    start.scaling[2, 1] = np.nan
    start.features_rest[4, 0, 0] = np.inf
    found = losses(scene_of(start), scene_of(start), Written())
    assert found.not_compared == 2
    assert found.errors["SH"].largest == 0
    damaged = replace(random_splats(9, 2), xyz=np.full((9, 3), np.nan, np.float32))
    lost = losses(scene_of(random_splats(9, 2)), scene_of(damaged), Written())
    assert np.isnan(lost.errors["position"].largest)


def test_extreme_values_have_large_errors_and_no_warning() -> None:
    start = random_splats(3, 0)
    extreme = replace(start, scaling=np.full((3, 3), 3e38, np.float32))
    extreme.opacity[:] = -3e38
    extreme.rotation[:] = 0
    for a, b in ((start, extreme), (extreme, start)):
        assert losses(scene_of(a), scene_of(b), Written()).errors["opacity"].largest <= 1
    assert median_size(random_splats(0, 0)) == 1
    nothing = replace(start, scaling=np.full((3, 3), np.nan, np.float32))
    assert losses(scene_of(nothing), scene_of(nothing), Written()).not_compared == 3


def test_dropped_harmonics_are_lost_and_added_ones_too() -> None:
    whole, none = random_splats(20, 3), random_splats(20, 0)
    for a, b in ((whole, none), (none, whole)):
        found = losses(scene_of(a), scene_of(b), Written()).errors["SH"]
        energy = np.square(whole.features_rest.astype(np.float64)).sum(axis=1) / (4 * np.pi)
        assert found.largest == pytest.approx(255 * np.sqrt(energy.max()))


@pytest.mark.parametrize("quality", ["high", "low"])
def test_pairs_of_a_f3dgs_file(tmp_path: Path, quality: str) -> None:
    splats = random_splats(3000, 2)
    splats.opacity[:5] = -9
    splats.xyz[7] = np.nan
    splats.scaling[:, 2] = -9  # one axis is much shorter than the others: pairs show
    scene = scene_of(splats, origin=(5e6, 0.0, 0.0))
    found = write_measured(tmp_path / "a.f3dgs", scene, quality=quality)
    assert found.losses is not None
    assert (found.losses.before, found.losses.after) == (3000, found.scene.splats.count)
    assert found.losses.reordered
    assert found.losses.errors["opacity"].largest < 0.06
    assert found.losses.errors["position, rel."].mean < 60
    assert found.bytes == (tmp_path / "a.f3dgs").stat().st_size
    assert any("position that is not finite" in line for line in found.lines())


def test_a_ply_loses_nothing_and_is_not_read_again(tmp_path: Path) -> None:
    scene = scene_of(random_splats(10, 1))
    found = write_measured(tmp_path / "a.ply", scene)
    assert found.losses is None and found.lines() == []
    assert found.scene is scene and read_splats(tmp_path / "a.ply").splats.count == 10


def test_edits() -> None:
    splats = random_splats(400, 2)
    splats.xyz[0] = np.nan
    splats.opacity[:] = np.linspace(-5, 5, 400)[:, None]
    scene = scene_of(splats, origin=(100.0, 0.0, -3.0))
    found = edited(scene, Edits(sh_degree=1, box=Box((99, -1, -4), (101, 1, -2)), min_opacity=0.5))
    assert 0 < found.splats.count < 200
    assert (np.abs(found.splats.xyz) <= 1).all()
    assert (found.splats.opacity >= 0).all()
    assert found.splats.sh_degree == 1
    assert found.metadata == scene.metadata
    assert edited(scene, Edits()).splats is splats
    np.testing.assert_array_equal(
        found.splats.features_rest,
        splats.rows(np.isin(splats.opacity[:, 0], found.splats.opacity)).features_rest[:, :3],
    )


def test_edits_include_their_bounds() -> None:
    splats = random_splats(2, 0)
    splats.xyz[:] = [[0, 0, 0], [0, 0, 1]]
    splats.opacity[:] = [[0], [-1]]
    assert edited(scene_of(splats), Edits(box=Box((0, 0, 0), (0, 0, 1)))).splats.count == 2
    assert edited(scene_of(splats), Edits(min_opacity=0.5)).splats.count == 1
    assert edited(scene_of(random_splats(0, 0)), Edits(min_opacity=1)).splats.count == 0


@pytest.mark.parametrize(
    "ending", [end for known in FORMATS for end in known.endings if known.write]
)
@pytest.mark.parametrize("value", [3e38, -3e38, np.nan])
@pytest.mark.parametrize(
    "name", ["features_dc", "features_rest", "opacity", "rotation", "scaling", "xyz"]
)
def test_one_extreme_gaussian_leaves_the_others_as_they_are(
    tmp_path: Path, ending: str, value: float, name: str
) -> None:
    splats = random_splats(200, 1)
    splats.xyz[:3] /= 1e4
    splats.opacity[:] = np.clip(splats.opacity, -4, 4)
    getattr(splats, name)[7] = value
    found = write_measured(tmp_path / f"a{ending}", SplatScene(splats))
    assert found.scene.splats.count >= 199
    for values in found.scene.splats.columns().values() if ending != ".ply" else ():
        assert np.isfinite(values).all()
    if found.losses is not None:
        assert found.losses.errors["opacity"].mean < 0.01
        assert name == "xyz" or found.losses.errors["position, rel."].mean < 100


THREE = scene_of(random_splats(3, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Box((0, 0, 1), (1, 1, 0.5)), "got 1 to 0.5 on axis z"),
        (lambda: Box((0, float("nan"), 1), (1, 1, 2)), "got nan to 1 on axis y"),
        (lambda: Box((0, 0, 0), (float("inf"), 1, 1)), "got 0 to inf on axis x"),
        (lambda: Edits(min_opacity=1.5), "opacity 1.5: expected a number from 0 to 1"),
        (lambda: Edits(min_opacity=float("nan")), "opacity nan"),
        (lambda: edited(THREE, Edits(box=Box((9, 9, 9), (9, 9, 9)))), "none of the 3 Gaussians"),
        (lambda: edited(THREE, Edits(sh_degree=2)), "expected at most 1"),
    ],
)
def test_impossible_edits_are_refused(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        change()
