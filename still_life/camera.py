# SPDX-License-Identifier: Apache-2.0
"""Two rings of cameras around the table, and the photographs they take."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from still_life.lighting import LitRoom, baked_at
from still_life.room import Finish, Light
from still_life.shapes import EPSILON, Floats, dot, nearest, normalise

FIELD_OF_VIEW = 56.0  # degrees across
MIRROR_DEPTH = 2
EXPOSURE = 1.0
CONTRAST_TO_REFINE = 0.05  # difference of display values within a pixel
RAYS_AT_ONCE = 100_000

Pixels = npt.NDArray[np.uint8]

# Four samples on a rotated grid for every pixel, twelve more of a 4 x 4 grid where they differ.
FIRST_SAMPLES = ((0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625))
MORE_SAMPLES = tuple(
    (x, y)
    for x in (0.125, 0.375, 0.625, 0.875)
    for y in (0.125, 0.375, 0.625, 0.875)
    if (x, y) not in FIRST_SAMPLES
)


@dataclass(frozen=True)
class View:
    """A pinhole camera: COLMAP axes (x right, y down, z forward), square pixels, centred."""

    name: str
    centre: Floats
    world_to_camera: Floats
    width: int
    height: int
    focal: float

    def rays(self, x: Floats, y: Floats) -> Floats:
        """Return unit directions through image positions; (0, 0) is the upper left corner."""
        right, down = (x - self.width / 2) / self.focal, (y - self.height / 2) / self.focal
        in_camera = np.stack([right, down, np.ones_like(right)]).astype(np.float32)
        return normalise(self.world_to_camera.T @ in_camera)

    def project(self, point: Floats) -> tuple[Floats, Floats, Floats]:
        """Return image positions x, y and depths of points (3, N)."""
        in_camera = self.world_to_camera @ (point - self.centre)
        depth = np.where(np.abs(in_camera[2]) < 1e-6, np.float32(1e-6), in_camera[2])
        x = in_camera[0] / depth * self.focal + self.width / 2
        y = in_camera[1] / depth * self.focal + self.height / 2
        return x, y, in_camera[2]


def rings(count: int, width: int, height: int, seed: int) -> list[View]:
    """Return `count` views, the first half on a low wide ring, the second on a high one."""
    rng = np.random.default_rng(seed + 1)
    low = (count + 1) // 2
    views = []
    for i in range(count):
        upper = i >= low
        turn = (i - low + 0.5) / (count - low) if upper else i / low
        angle = 2 * np.pi * (turn + rng.normal(0, 0.004))
        radius, level = (1.12, 0.98) if upper else (1.36, 0.56)
        radius, level = radius + rng.normal(0, 0.03), level + rng.normal(0, 0.03)
        centre = np.array([radius * np.cos(angle), radius * np.sin(angle), level])
        target = np.array([0, 0, 0.06]) + rng.normal(0, 0.03, 3)
        views.append(_view_towards(f"view_{i:03d}.png", centre, target, width, height))
    return views


def _view_towards(
    name: str, centre: npt.NDArray[np.float64], target: npt.NDArray[np.float64], w: int, h: int
) -> View:
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward]).astype(np.float32)
    focal = 0.5 * w / float(np.tan(np.radians(FIELD_OF_VIEW / 2)))
    return View(name, centre.astype(np.float32)[:, None], axes, w, h, focal)


def photograph(lit: LitRoom, view: View) -> Pixels:
    """Return the photograph of a view, (H, W, 3) sRGB."""
    row, column = (a.ravel() for a in np.mgrid[0 : view.height, 0 : view.width])
    first = _samples(lit, view, column, row, FIRST_SAMPLES)
    total, count = first.sum(axis=1), np.full(row.size, len(FIRST_SAMPLES))
    spread = (first.max(axis=1) - first.min(axis=1)).max(axis=0)
    uneven = np.flatnonzero(spread > CONTRAST_TO_REFINE)
    if uneven.size:
        more = _samples(lit, view, column[uneven], row[uneven], MORE_SAMPLES)
        total[:, uneven] += more.sum(axis=1)
        count[uneven] += len(MORE_SAMPLES)
    display = (total / count).T.reshape(view.height, view.width, 3)
    return np.rint(np.clip(display, 0, 1) * 255).astype(np.uint8)


def _samples(
    lit: LitRoom,
    view: View,
    column: npt.NDArray[np.intp],
    row: npt.NDArray[np.intp],
    offsets: tuple[tuple[float, float], ...],
) -> Floats:
    """Return display values of pixels at each offset, (3, offsets, pixels)."""
    across, down = np.array(offsets, np.float32).T[:, :, None]
    x, y = (column + across).ravel(), (row + down).ravel()
    result = np.empty((3, x.size), np.float32)
    for start in range(0, x.size, RAYS_AT_ONCE):
        part = slice(start, start + RAYS_AT_ONCE)
        direction = view.rays(x[part], y[part])
        origin = np.broadcast_to(view.centre, direction.shape)
        result[:, part] = _display_values(radiance(lit, origin, direction, MIRROR_DEPTH))
    return result.reshape(3, len(offsets), row.size)


def _display_values(light: Floats) -> Floats:
    """Return display values (sRGB) of radiances, tone-mapped with a soft shoulder (Narkowicz 2015).

    Applied to every sample before averaging, so that edges of bright lights stay smooth.
    """
    x = light * np.float32(EXPOSURE)
    film = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    return np.where(film <= 0.0031308, film * 12.92, 1.055 * film ** (1 / 2.4) - 0.055)


def radiance(lit: LitRoom, origin: Floats, direction: Floats, mirrors: int) -> Floats:
    """Return the linear RGB that arrives along rays, (3, N), over up to `mirrors` mirrors."""
    distance, index = nearest(lit.room.things, origin, direction)
    point = origin + direction * distance
    shade, share = np.empty_like(direction), np.zeros_like(direction)
    reflected, outwards = np.empty_like(direction), np.empty_like(direction)
    for number, thing in enumerate(lit.room.things):
        at = np.flatnonzero(index == number)
        if not at.size:
            continue
        local = thing.pose.point_to_local(np.take(point, at, axis=1))
        baked = baked_at(lit, number, thing.shape.chart(local))
        shade[:, at] = baked[:3]
        if thing.finish == Finish():
            continue
        normal = thing.pose.vector_to_room(thing.shape.normal(local))
        towards = np.take(direction, at, axis=1)
        cosine = np.clip(-dot(normal, towards), 0, 1)
        bounced = towards + normal * (2 * cosine)
        for light, visible in zip(lit.room.lights, baked[3:], strict=True):
            lobe = _highlight(light, np.take(point, at, axis=1), bounced, thing.finish.sharpness)
            shade[:, at] += lobe * (visible * np.float32(thing.finish.gloss))
        share[:, at], reflected[:, at], outwards[:, at] = (
            _fresnel(thing.finish, cosine),
            bounced,
            normal,
        )
    at = np.flatnonzero(share[0] > 0)
    if mirrors and at.size:
        start = np.take(point, at, axis=1) + np.take(outwards, at, axis=1) * (10 * EPSILON)
        image = radiance(lit, start, np.take(reflected, at, axis=1), mirrors - 1)
        amount = np.take(share, at, axis=1)
        shade[:, at] = np.take(shade, at, axis=1) * (1 - amount) + image * amount
    return shade


def _fresnel(finish: Finish, cosine: Floats) -> Floats:
    """Return the mirrored share of light per channel, (3, N) (Schlick 1994)."""
    head_on = np.array(finish.mirror, np.float32)[:, None]
    if not head_on.any():
        return np.zeros((3, cosine.size), np.float32)
    return head_on + (1 - head_on) * (1 - cosine) ** 5


def _highlight(light: Light, point: Floats, reflected: Floats, sharpness: float) -> Floats:
    towards = normalise(np.array(light.centre, np.float32)[:, None] - point)
    lobe = np.maximum(dot(reflected, towards), 0) ** np.float32(sharpness)
    return np.array(light.radiance, np.float32)[:, None] * np.float32(0.3) * lobe
