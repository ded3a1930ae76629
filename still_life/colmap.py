# SPDX-License-Identifier: Apache-2.0
"""Points as structure from motion would find them, and the files COLMAP would write.

File layouts: COLMAP's documentation, "Output Format" (binary).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from still_life.camera import Pixels, View
from still_life.lighting import LitRoom
from still_life.shapes import Floats, Integers, dot, nearest, normalise

PINHOLE = 1
KEYPOINT_NOISE = 0.4  # pixels
DEPTH_NOISE = 0.002  # of the distance at which a point was found
SAME_PLACE = 0.01  # metres between a point and the surface that a view shows there
MATCHING_VIEWS = 14  # mean number in which a visible point is matched; the others are too oblique
SHORTEST_TRACK = 3  # views; fewer are not kept, as in COLMAP's filters
MIRRORS = 0.3  # mirrored share above which features are not on the surface itself


@dataclass(frozen=True)
class Observations:
    """Keypoints of one view: image positions (K, 2), and the point each belongs to."""

    position: npt.NDArray[np.float64]
    point: Integers


@dataclass(frozen=True)
class Cloud:
    """A sparse cloud: positions (N, 3) in metres, colours (N, 3), mean reprojection errors (N,)."""

    position: npt.NDArray[np.float64]
    colour: Pixels
    error: npt.NDArray[np.float64]
    observations: tuple[Observations, ...]


def sparse_cloud(
    lit: LitRoom, views: list[View], photographs: list[Pixels], count: int, seed: int
) -> Cloud:
    """Return about `count` surface points with the tracks, colours and noise of real ones."""
    rng = np.random.default_rng(seed + 2)
    attempts = 2 * count // len(views)  # up to half are lost to mirrors and short tracks
    found = [_features(lit, v, p, attempts, rng) for v, p in zip(views, photographs, strict=True)]
    truth = np.concatenate([point for point, _ in found], axis=1)
    spread = np.concatenate([depth for _, depth in found]) * np.float32(DEPTH_NOISE)
    measured = truth + rng.normal(size=truth.shape).astype(np.float32) * spread
    matched = min(1.0, MATCHING_VIEWS / len(views))
    tracks = [_observed(lit, view, truth, matched, rng) for view in views]
    length = np.bincount(np.concatenate([t.point for t in tracks]), minlength=truth.shape[1])
    kept = np.sort(rng.permutation(np.flatnonzero(length >= SHORTEST_TRACK))[:count])
    tracks = [_renumbered(t, kept, truth.shape[1]) for t in tracks]
    return _measured(views, photographs, measured[:, kept], tuple(tracks))


def write_model(folder: Path, views: list[View], cloud: Cloud) -> None:
    """Write cameras.bin, images.bin and points3D.bin; all views share the first one's camera."""
    optics = views[0]
    folder.mkdir(parents=True)
    (folder / "cameras.bin").write_bytes(
        struct.pack("<QiiQQ", 1, 1, PINHOLE, optics.width, optics.height)
        + struct.pack("<4d", optics.focal, optics.focal, optics.width / 2, optics.height / 2)
    )
    images = b"".join(_image_records(views, cloud))
    (folder / "images.bin").write_bytes(struct.pack("<Q", len(views)) + images)
    points = b"".join(_point_records(cloud))
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", len(cloud.position)) + points)


def _features(
    lit: LitRoom, view: View, photograph: Pixels, count: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return points (3, N) visible in a view, mostly where it has detail, and their distances."""
    grey = photograph.astype(np.float32).mean(axis=2)
    down, across = np.gradient(grey)
    weight = np.hypot(down, across).ravel() + 1.0
    chosen = rng.choice(
        weight.size, min(count, weight.size), replace=False, p=weight / weight.sum()
    )
    row, column = np.divmod(chosen, view.width)
    x, y = (a.astype(np.float32) + np.float32(0.5) for a in (column, row))
    direction = view.rays(x, y)
    distance, index = nearest(
        lit.room.things, np.broadcast_to(view.centre, direction.shape), direction
    )
    mirrors = np.array([max(thing.finish.mirror) > MIRRORS for thing in lit.room.things])
    solid = np.flatnonzero(~mirrors[index])
    return view.centre + direction[:, solid] * distance[solid], distance[solid]


def _observed(
    lit: LitRoom, view: View, point: Floats, matched: float, rng: np.random.Generator
) -> Observations:
    """Return the keypoints of a view: the share `matched` of the points visible in it."""
    x, y, depth = view.project(point)
    inside = (depth > 0) & (x > 1) & (x < view.width - 1) & (y > 1) & (y < view.height - 1)
    candidates = np.flatnonzero(inside & (rng.random(depth.size) < matched))
    towards = point[:, candidates] - view.centre
    distance = np.sqrt(dot(towards, towards))
    direction = normalise(towards)
    reached, _ = nearest(lit.room.things, np.broadcast_to(view.centre, direction.shape), direction)
    visible = candidates[np.abs(reached - distance) < SAME_PLACE]
    position = np.stack([x[visible], y[visible]], axis=1).astype(np.float64)
    return Observations(position + rng.normal(0, KEYPOINT_NOISE, position.shape), visible)


def _renumbered(track: Observations, kept: Integers, total: int) -> Observations:
    number = np.full(total, -1, np.intp)
    number[kept] = np.arange(kept.size)
    point = number[track.point]
    return Observations(track.position[point >= 0], point[point >= 0])


def _measured(
    views: list[View],
    photographs: list[Pixels],
    point: Floats,
    tracks: tuple[Observations, ...],
) -> Cloud:
    """Return the cloud with mean observed colours and mean reprojection errors."""
    count = point.shape[1]
    colour, error, length = np.zeros((count, 3)), np.zeros(count), np.zeros(count)
    for view, photograph, track in zip(views, photographs, tracks, strict=True):
        x, y, _ = view.project(point[:, track.point])
        last = (view.width - 1, view.height - 1)
        column, row = np.clip(track.position.astype(np.intp), 0, last).T
        colour[track.point] += photograph[row, column]
        error[track.point] += np.hypot(x - track.position[:, 0], y - track.position[:, 1])
        length[track.point] += 1
    mean = np.rint(colour / length[:, None]).astype(np.uint8)
    return Cloud(point.T.astype(np.float64), mean, error / length, tracks)


def _image_records(views: list[View], cloud: Cloud) -> Iterator[bytes]:
    for number, (view, track) in enumerate(zip(views, cloud.observations, strict=True), start=1):
        rotation = view.world_to_camera.astype(np.float64)
        translation = -rotation @ view.centre[:, 0].astype(np.float64)
        yield struct.pack("<i7d", number, *_quaternion(rotation), *translation)
        yield struct.pack("<i", 1) + view.name.encode() + b"\0"
        record = np.zeros(track.point.size, [("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
        record["x"], record["y"] = track.position.T
        record["point"] = track.point + 1
        yield struct.pack("<Q", record.size) + record.tobytes()


def _point_records(cloud: Cloud) -> Iterator[bytes]:
    tracks: list[list[tuple[int, int]]] = [[] for _ in cloud.position]
    for image, track in enumerate(cloud.observations, start=1):
        for keypoint, point in enumerate(track.point):
            tracks[point].append((image, keypoint))
    for i, (position, colour) in enumerate(zip(cloud.position, cloud.colour, strict=True)):
        yield struct.pack("<Q3d3Bd", i + 1, *position, *map(int, colour), cloud.error[i])
        yield struct.pack("<Q", len(tracks[i])) + np.array(tracks[i], "<i4").tobytes()


def _quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return the unit quaternion w, x, y, z of a rotation, w >= 0.

    The eigenvector of Bar-Itzhack (2000): stable for every angle.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    _, vectors = np.linalg.eigh(symmetric)
    w, x, y, z = vectors[:, -1] * (1 if vectors[0, -1] >= 0 else -1)
    return float(w), float(x), float(y), float(z)
