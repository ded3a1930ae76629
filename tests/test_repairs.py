# SPDX-License-Identifier: Apache-2.0
"""Values that are not finite, the smoothing filter, and positions far from 0."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_formats.files import read_splats, write_splats
from splat_formats.positions import coarse_share, place
from splat_formats.repairs import clamp_limits, showable
from splat_formats.scene import NO_ORIGIN, SplatMetadata, SplatScene
from splat_formats.smoothing import with_smoothing
from splat_formats.splats import Splats
from tests.test_ply import as_table, assert_equal, random_splats, write_with_plyfile

INF = np.float32(np.inf)
NAN = np.float32(np.nan)


def with_value(splats: Splats, name: str, row: int, value: float, entry: int = 0) -> Splats:
    column = getattr(splats, name).copy()
    column[row].reshape(-1)[entry] = value
    return replace(splats, **{name: column})


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float32)))


def test_finite_models_stay_the_same_object() -> None:
    splats = random_splats(6, 2)
    assert clamp_limits(splats).splats is splats
    kept = showable(splats)
    assert (kept.splats, kept.notices, kept.dropped) == (splats, (), 0)
    assert showable(random_splats(0, 1)).splats.count == 0


def test_large_finite_values_are_not_taken_for_infinite_ones() -> None:
    splats = random_splats(4, 1)
    for name in ("features_rest", "opacity", "scaling", "xyz"):
        splats = with_value(splats, name, 1, 3.4e38)
        splats = with_value(splats, name, 2, 3.4e38)
    assert showable(splats).splats is splats


def test_limits_are_clamped_to_values_that_render_the_same() -> None:
    splats = with_value(random_splats(5, 1), "opacity", 0, INF)
    splats = with_value(splats, "scaling", 1, -INF, entry=2)
    splats = replace(splats, scaling=np.where(np.arange(5)[:, None] == 2, -INF, splats.scaling))
    splats = with_value(splats, "features_rest", 3, NAN, entry=4)
    splats = with_value(splats, "features_rest", 4, INF, entry=0)
    clamped = clamp_limits(splats)
    assert sigmoid(clamped.splats.opacity[0]) == 1
    others = splats.scaling[1, :2].max()
    assert clamped.splats.scaling[1, 2] == others - 12
    assert (clamped.splats.scaling[2] == -20).all()
    assert clamped.splats.features_rest[3].reshape(-1)[4] == 0
    assert clamped.splats.features_rest[4].reshape(-1)[0] == 0
    assert clamped.notices == (
        "1 Gaussian with opacity +inf: fully opaque",
        "2 Gaussians with a log scale of -inf: flat",
        "2 Gaussians with higher SH coefficients that are not finite: these become 0",
    )
    assert showable(splats).dropped == 0


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("xyz", NAN, "a position that is not finite"),
        ("xyz", -INF, "a position that is not finite"),
        ("opacity", -INF, "opacity -inf"),
        ("opacity", NAN, "an opacity, size"),
        ("scaling", INF, "an infinite size"),
        ("scaling", NAN, "an opacity, size"),
        ("rotation", INF, "an opacity, size"),
        ("features_dc", NAN, "an opacity, size"),
    ],
)
def test_what_no_image_can_show_is_dropped_and_counted(
    name: str, value: float, reason: str
) -> None:
    splats = random_splats(6, 1)
    broken = with_value(with_value(splats, name, 2, value), name, 4, value)
    kept = showable(broken)
    assert kept.dropped == 2
    assert kept.splats.count == 4
    np.testing.assert_array_equal(kept.splats.opacity, splats.opacity[[0, 1, 3, 5]])
    assert kept.notices[0].startswith(
        f"dropped 2 Gaussians that no image can show: 2 with {reason}"
    )


def test_a_row_with_two_faults_is_counted_once() -> None:
    splats = with_value(random_splats(3, 0), "xyz", 1, NAN)
    splats = with_value(splats, "opacity", 1, -INF)
    splats = with_value(splats, "rotation", 2, NAN)
    kept = showable(splats)
    assert kept.dropped == 2
    assert "1 with a position that is not finite, 1 with an opacity, size" in kept.notices[0]


def test_files_keep_undefined_rows_and_clamp_limits(tmp_path: Path) -> None:
    splats = with_value(random_splats(4, 0), "opacity", 0, INF)
    splats = with_value(splats, "xyz", 3, NAN)
    write_splats(tmp_path / "a.ply", SplatScene(splats))
    scene = read_splats(tmp_path / "a.ply")
    assert scene.splats.count == 4
    assert scene.metadata.notices == ("1 Gaussian with opacity +inf: fully opaque",)
    notices = write_splats(tmp_path / "a.f3dgs", scene)
    assert "dropped 1 Gaussian that no image can show" in notices[0]
    again = read_splats(tmp_path / "a.f3dgs").splats
    assert again.count == 3
    assert sigmoid(again.opacity).max() == pytest.approx(1, abs=1e-6)


# --- The smoothing filter -------------------------------------------------------------------------


def smoothed_by_definition(splats: Splats, filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances and opacities by covariance matrices, by the paper's equation 9."""
    variances, opacities = [], []
    for row, width in enumerate(filters.astype(np.float64)):
        before = np.diag(np.exp(2 * splats.scaling[row].astype(np.float64)))
        after = before + width**2 * np.eye(3)
        loss = np.sqrt(np.linalg.det(before) / np.linalg.det(after))
        variances.append(np.diag(after))
        opacities.append(loss / (1 + np.exp(-float(splats.opacity[row, 0]))))
    return np.array(variances), np.array(opacities)


def test_smoothing_is_that_of_the_paper(tmp_path: Path) -> None:
    splats = random_splats(30, 0)
    filters = np.abs(np.random.default_rng(1).normal(size=30))
    filters[5:8] = 0
    write_with_plyfile(tmp_path / "a.ply", as_table(splats) | {"filter_3D": filters})
    scene = read_splats(tmp_path / "a.ply")
    variances, opacities = smoothed_by_definition(splats, filters.astype(np.float32))
    np.testing.assert_allclose(np.exp(2 * scene.splats.scaling), variances, rtol=1e-5)
    np.testing.assert_allclose(sigmoid(scene.splats.opacity)[:, 0], opacities, rtol=1e-5)
    for name in ("scaling", "opacity"):
        np.testing.assert_array_equal(
            getattr(scene.splats, name)[5:8], getattr(splats, name)[5:8], name
        )
    assert scene.metadata.notices == (
        "filter_3D (Mip-Splatting) is fused into scales and opacities",
    )


def test_smoothing_of_limits() -> None:
    splats = with_value(random_splats(4, 0), "opacity", 0, INF)
    splats = with_value(splats, "scaling", 1, -INF)
    splats = with_value(splats, "scaling", 2, INF)
    smoothed = with_smoothing(splats, np.array([0.5, 0.5, 0.5, np.nan]))
    assert np.isfinite(smoothed.opacity[0]).all()
    np.testing.assert_allclose(smoothed.scaling[1, 0], np.log(0.5), rtol=1e-6)
    kept = showable(smoothed)
    assert kept.dropped == 3  # flat ones lose all opacity, as the paper's formula has it
    assert kept.splats.count == 1


# --- Positions far from 0 -------------------------------------------------------------------------

UTM = np.array([453_218.37, 5_411_022.81, 131.4])


def far_scene(tmp_path: Path, splats: Splats) -> Path:
    """The splats moved to UTM coordinates, with double positions."""
    columns = as_table(splats)
    columns |= {axis: splats.xyz[:, i].astype(np.float64) + UTM[i] for i, axis in enumerate("xyz")}
    path = tmp_path / "far.ply"
    write_with_plyfile(path, columns, dict.fromkeys("xyz", "f8"))
    return path


def small_splats(count: int = 50) -> Splats:
    return replace(random_splats(count, 0), scaling=np.full((count, 3), -4, np.float32))


def world(scene: SplatScene) -> np.ndarray:
    return scene.splats.xyz.astype(np.float64) + np.array(scene.metadata.origin)


def test_doubles_far_from_0_keep_the_needed_precision(tmp_path: Path) -> None:
    splats = small_splats()
    scene = read_splats(far_scene(tmp_path, splats))
    assert scene.metadata.origin != NO_ORIGIN
    np.testing.assert_allclose(world(scene) - UTM, splats.xyz, atol=1e-6)
    assert "kept relative to" in scene.metadata.notices[0]
    notices = write_splats(tmp_path / "b.ply", scene)
    assert "doubles" in notices[0]
    again = read_splats(tmp_path / "b.ply")
    np.testing.assert_array_equal(world(again), world(scene))
    write_splats(tmp_path / "c.f3dgs", scene)
    stored = read_splats(tmp_path / "c.f3dgs")
    assert stored.metadata.origin == scene.metadata.origin
    extent = np.ptp(world(stored), axis=0), np.ptp(world(scene), axis=0)
    np.testing.assert_allclose(*extent, atol=0.01)


def test_text_may_have_more_digits_than_the_type_in_its_header(tmp_path: Path) -> None:
    splats = small_splats(8)
    columns = as_table(splats)
    columns |= {axis: splats.xyz[:, i].astype(np.float64) + UTM[i] for i, axis in enumerate("xyz")}
    lines = ["ply", "format ascii 1.0", "element vertex 8"]
    lines += [f"property float {name}" for name in columns]
    rows = zip(*columns.values(), strict=True)
    lines += ["end_header", *(" ".join(map(repr, map(float, row))) for row in rows)]
    (tmp_path / "a.ply").write_text("\n".join(lines))
    scene = read_splats(tmp_path / "a.ply")
    np.testing.assert_allclose(world(scene) - UTM, splats.xyz, atol=1e-6)


def test_doubles_near_0_are_plain_floats(tmp_path: Path) -> None:
    splats = small_splats()
    write_with_plyfile(tmp_path / "a.ply", as_table(splats), dict.fromkeys("xyz", "f8"))
    scene = read_splats(tmp_path / "a.ply")
    assert scene.metadata == SplatMetadata()
    assert_equal(splats, scene.splats)


def test_large_gaussians_far_from_0_need_no_origin(tmp_path: Path) -> None:
    splats = replace(small_splats(), scaling=np.full((50, 3), 4, np.float32))
    assert read_splats(far_scene(tmp_path, splats)).metadata.origin == NO_ORIGIN


def test_floats_that_are_too_coarse_already_are_reported(tmp_path: Path) -> None:
    splats = small_splats()
    far = replace(splats, xyz=(splats.xyz + UTM).astype(np.float32))
    write_splats(tmp_path / "a.ply", SplatScene(far))
    scene = read_splats(tmp_path / "a.ply")
    assert_equal(far, scene.splats)
    assert scene.metadata.origin == NO_ORIGIN
    assert "100 % of the Gaussians" in scene.metadata.notices[0]
    write_with_plyfile(tmp_path / "b.ply", as_table(far), dict.fromkeys("xyz", "f8"))
    assert read_splats(tmp_path / "b.ply").metadata == scene.metadata


def test_a_scene_too_wide_for_any_origin_is_reported() -> None:
    xyz = np.random.default_rng(0).uniform(-1e8, 1e8, (60, 3))
    placed = place(xyz, np.full((60, 3), -4, np.float32))
    assert placed.origin == NO_ORIGIN
    assert "spread so widely" in str(placed.notice)


def test_positions_that_are_not_finite_are_ignored() -> None:
    xyz = np.zeros((4, 3))
    xyz[1], xyz[2] = np.nan, 1e300
    scaling = np.full((4, 3), -4, np.float32)
    assert coarse_share(xyz, scaling) == 0
    placed = place(xyz[:2], scaling[:2])
    assert (placed.origin, placed.notice) == (NO_ORIGIN, None)
    assert coarse_share(np.empty((0, 3)), scaling[:0]) == 0
