# SPDX-License-Identifier: Apache-2.0
"""Light baked into the surfaces, so that it is the same in all views and free of noise.

Diffuse light does not depend on the viewer: it is computed once per texel of a coarse chart
(soft shadows of the two lights, then light gathered from all other surfaces) and multiplied by the
paint. Only mirrors and highlights are computed for each photograph.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from still_life.room import Light, Room, Thing
from still_life.shapes import EPSILON, Chart, Floats, Integers, dot, nearest, normalise
from still_life.textures import grid, resized

BOUNCES = 2
RAYS_AT_ONCE = 100_000  # enough that the interpreter costs little, few enough for the memory


@dataclass(frozen=True)
class Texels:
    """The texels of one face of one thing: where they are in the room, (3, N) each."""

    thing: int
    face: int
    height: int
    width: int
    point: Floats
    normal: Floats


@dataclass(frozen=True)
class Face:
    """A baked face: channels 0-2 radiance (linear RGB), then the visible share of each light."""

    texture: Floats
    wraps: tuple[bool, bool]


@dataclass(frozen=True)
class LitRoom:
    """The room with the baked faces of each thing."""

    room: Room
    faces: tuple[tuple[Face, ...], ...]


def bake(room: Room, seed: int, texel: float = 0.05, samples: int = 48) -> LitRoom:
    """Return the room with its light computed.

    texel: size of a light texel on the walls in metres; small things get finer ones.
    samples: rays per texel and light, and per texel and bounce.
    """
    rng = np.random.default_rng(seed)
    charts = list(_charts(room, texel))
    shares, light = [], []
    for texels in charts:
        visible, direct = _direct(room, texels, samples, rng)
        shares.append(visible)
        light.append(direct)
    baked = _compose(room, charts, light, shares)
    for _ in range(BOUNCES):
        gathered = [_gathered(baked, texels, samples, rng) for texels in charts]
        total = [first + more for first, more in zip(light, gathered, strict=True)]
        baked = _compose(room, charts, total, shares)
    return _with_emission(baked)


def sample(face: Face, u: Floats, v: Floats) -> Floats:
    """Return the channels of a face at u, v, bilinear, (channels, N)."""
    height, width, channels = face.texture.shape
    x, y = u * width - np.float32(0.5), (1 - v) * height - np.float32(0.5)
    left, top = np.floor(x), np.floor(y)
    across, down = (x - left)[:, None], (y - top)[:, None]
    columns = [_border(left.astype(np.intp) + i, width, face.wraps[0]) for i in (0, 1)]
    rows = [_border(top.astype(np.intp) + i, height, face.wraps[1]) * width for i in (0, 1)]
    flat = face.texture.reshape(-1, channels)
    upper, lower = (
        flat[row + columns[0]] * (1 - across) + flat[row + columns[1]] * across for row in rows
    )
    return np.ascontiguousarray((upper * (1 - down) + lower * down).T)


def baked_at(lit: LitRoom, thing: int, chart: Chart) -> Floats:
    """Return the baked channels of a thing at chart coordinates, (channels, N)."""
    faces = lit.faces[thing]
    result = np.empty((faces[0].texture.shape[2], chart.u.size), np.float32)
    for index, face in enumerate(faces):
        at = np.flatnonzero(chart.face == index)
        if at.size:
            result[:, at] = sample(face, chart.u[at], chart.v[at])
    return result


def _border(index: Integers, size: int, wraps: bool) -> Integers:
    return np.mod(index, size) if wraps else np.clip(index, 0, size - 1)


def _charts(room: Room, texel: float) -> Iterator[Texels]:
    for number, thing in enumerate(room.things):
        for face, (wide, high) in enumerate(thing.shape.face_sizes):
            size = min(texel, max(wide, high) / 20, texel / 3 + max(wide, high) / 60)
            height, width = (int(np.clip(np.ceil(s / size), 3, 128)) for s in (high, wide))
            u, v = (a.ravel() for a in grid(height, width))
            local = thing.shape.point(face, u, v)
            point = thing.pose.point_to_room(local)
            normal = thing.pose.vector_to_room(thing.shape.normal(local))
            yield Texels(number, face, height, width, point + normal * 10 * EPSILON, normal)


def _square(rng: np.random.Generator, count: int, texels: int) -> tuple[Floats, Floats]:
    """Return `count` evenly spread points in the unit square, with a shift for each texel."""
    index = np.arange(count, dtype=np.float64)
    # R2 sequence (Roberts 2018): low discrepancy for any count.
    spread = np.stack([index * 0.7548776662466927, index * 0.5698402909980532])
    shift = rng.random((2, texels))
    points = np.mod(spread[:, None, :] + shift[:, :, None], 1).astype(np.float32)
    return points[0].ravel(), points[1].ravel()


def _blocks(texels: Texels, samples: int) -> Iterator[tuple[slice, Floats, Floats]]:
    """Yield slices of texels with their points and normals repeated for every sample."""
    step = max(1, RAYS_AT_ONCE // samples)
    for start in range(0, texels.point.shape[1], step):
        part = slice(start, min(start + step, texels.point.shape[1]))
        point = np.repeat(texels.point[:, part], samples, axis=1)
        yield part, point, np.repeat(texels.normal[:, part], samples, axis=1)


def _direct(
    room: Room, texels: Texels, samples: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the visible share of each light (lights, N) and their light on white paint (3, N)."""
    count = texels.point.shape[1]
    visible = np.zeros((len(room.lights), count), np.float32)
    direct = np.zeros((3, count), np.float32)
    blockers = room.things[1:]  # the room is convex: it casts no shadow on itself
    for number, light in enumerate(room.lights):
        for part, point, normal in _blocks(texels, samples):
            u, v = _square(rng, samples, part.stop - part.start)
            towards, distance, strength = _to_light(light, point, normal, u, v)
            facing = np.flatnonzero(strength > 0)
            reached, _ = nearest(blockers, point[:, facing], towards[:, facing])
            free = np.zeros(strength.size, np.float32)
            free[facing] = reached > distance[facing] - 10 * EPSILON
            visible[number, part] = free.reshape(-1, samples).mean(axis=1)
            reaching = (free * strength).reshape(-1, samples).mean(axis=1)
            direct[:, part] += np.array(light.radiance, np.float32)[:, None] * reaching
    return visible, direct


def _to_light(
    light: Light, point: Floats, normal: Floats, u: Floats, v: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return unit directions to points of a light, distances, and form factors (0 if behind)."""
    edges = np.array(light.half_edges, np.float32)
    spot = np.array(light.centre, np.float32)[:, None]
    spot = spot + edges[0][:, None] * (2 * u - 1) + edges[1][:, None] * (2 * v - 1)
    towards = spot - point
    distance = np.sqrt(np.maximum(dot(towards, towards), 1e-6))
    towards = towards / distance
    across = np.cross(edges[0], edges[1])
    area = 4 * float(np.linalg.norm(across))
    facing = np.abs(across @ towards) * (4 / area)
    strength = np.maximum(dot(normal, towards), 0) * facing * area / (np.pi * distance**2)
    return towards, distance, np.minimum(strength, 4).astype(np.float32)


def _gathered(lit: LitRoom, texels: Texels, samples: int, rng: np.random.Generator) -> Floats:
    """Return the light that reaches white texels from all other surfaces, (3, N)."""
    result = np.empty((3, texels.point.shape[1]), np.float32)
    for part, point, normal in _blocks(texels, samples):
        u, v = _square(rng, samples, part.stop - part.start)
        direction = _cosine_lobe(normal, u, v)
        distance, index = nearest(lit.room.things, point, direction)
        arriving = np.zeros_like(point)
        ends = point + direction * np.where(np.isfinite(distance), distance, 0)
        for number, thing in enumerate(lit.room.things):
            at = np.flatnonzero(index == number)
            if at.size:
                chart = thing.shape.chart(thing.pose.point_to_local(ends[:, at]))
                arriving[:, at] = baked_at(lit, number, chart)[:3]
        result[:, part] = arriving.reshape(3, -1, samples).mean(axis=2)
    return _smoothed(result.reshape(3, texels.height, texels.width)).reshape(3, -1)


def _cosine_lobe(normal: Floats, u: Floats, v: Floats) -> Floats:
    """Return unit directions around normals with a density proportional to the cosine."""
    angle, height = u * np.float32(2 * np.pi), 2 * v - 1
    ring: Floats = np.sqrt(np.maximum(1 - height * height, np.float32(0)))
    offset: Floats = np.stack([ring * np.cos(angle), ring * np.sin(angle), height])
    return normalise(normal + offset * np.float32(0.999))


def _smoothed(light: Floats) -> Floats:
    """Return light (3, H, W) averaged over 3 x 3 texels, twice: gathered light changes slowly."""
    for _ in range(2):
        for axis in (1, 2):
            padding = [(0, 0)] * 3
            padding[axis] = (1, 1)
            padded = np.pad(light, padding, mode="edge")
            size = light.shape[axis]
            shifted = [padded.take(range(i, i + size), axis=axis) for i in range(3)]
            light = (shifted[0] + shifted[1] + shifted[2]) / np.float32(3)
    return light


def _compose(
    room: Room, charts: list[Texels], light: list[Floats], shares: list[Floats]
) -> LitRoom:
    """Return the room with paint x light, without emission: lights are sampled separately."""
    faces: list[list[Face]] = [[] for _ in room.things]
    for texels, bright, visible in zip(charts, light, shares, strict=True):
        thing = room.things[texels.thing]
        paint = thing.faces[texels.face]
        coarse = np.concatenate([bright, visible]).reshape(-1, texels.height, texels.width)
        size = (max(paint.shape[1], texels.width), max(paint.shape[0], texels.height))
        fine = resized(np.moveaxis(coarse, 0, -1), size)
        if (paint.shape[1], paint.shape[0]) != size:
            paint = resized(paint, size)
        fine[..., :3] *= paint
        wraps = thing.shape.wraps if texels.face == 0 else (False, False)
        faces[texels.thing].append(Face(np.ascontiguousarray(fine), wraps))
    return LitRoom(room, tuple(tuple(f) for f in faces))


def _with_emission(lit: LitRoom) -> LitRoom:
    def emitting(thing: Thing, faces: tuple[Face, ...]) -> tuple[Face, ...]:
        result = list(faces)
        for index, emission in thing.emission.items():
            texture = faces[index].texture.copy()
            texture[..., :3] += emission
            result[index] = Face(texture, faces[index].wraps)
        return tuple(result)

    pairs = zip(lit.room.things, lit.faces, strict=True)
    return LitRoom(lit.room, tuple(emitting(thing, faces) for thing, faces in pairs))
