# SPDX-License-Identifier: Apache-2.0
"""Where a ray meets a sphere, box, cylinder or torus, and the chart that unrolls each surface.

Every shape is at the origin of its own frame (metres, z up); `Pose` puts it into the room.
Vectors are float32 arrays of shape (3, N): one row per axis keeps NumPy on contiguous memory.
A surface is divided into faces, each a chart with coordinates u, v in [0, 1], v upwards.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.intp]

EPSILON = 1e-4  # metres; float32 resolves 1e-6 at the size of the room
TORUS_STEPS = 40  # far more than sphere tracing needs for an error below a pixel


def dot(a: Floats, b: Floats) -> Floats:
    """Return the inner products of two (3, N) arrays, (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def normalise(a: Floats) -> Floats:
    """Return a (3, N) array with columns of length one."""
    length: Floats = np.sqrt(np.maximum(dot(a, a), np.float32(1e-20)))
    return a / length


@dataclass(frozen=True)
class Chart:
    """Where points lie on their surface: the face each is on, and u, v in [0, 1]."""

    face: Integers
    u: Floats
    v: Floats


class Shape(Protocol):
    """A closed surface in its own frame."""

    @property
    def bounding_radius(self) -> float:
        """Radius of a sphere around the origin that holds the surface."""

    @property
    def face_sizes(self) -> tuple[tuple[float, float], ...]:
        """Extent in metres of each face along u and v."""

    @property
    def wraps(self) -> tuple[bool, bool]:
        """Whether face 0 continues across the border of u and of v."""

    def intersect(self, origin: Floats, direction: Floats) -> Floats:
        """Return the distance along each ray to the first surface point, infinite where missed."""

    def chart(self, point: Floats) -> Chart:
        """Return the chart coordinates of points on the surface."""

    def normal(self, point: Floats) -> Floats:
        """Return unit normals at points on the surface, on the side from which rays arrive."""

    def point(self, face: int, u: Floats, v: Floats) -> Floats:
        """Return the points of a face at u, v: the inverse of `chart`."""


def _turn(y: Floats, x: Floats) -> Floats:
    """Return the angle of (x, y) as a fraction of a turn in [0, 1)."""
    return np.mod(np.arctan2(y, x) * np.float32(0.5 / np.pi), np.float32(1))


def _first_positive(near: Floats, far: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    distance = np.where(near > EPSILON, near, far)
    return np.where(hit & (distance > EPSILON), distance, np.float32(np.inf))


@dataclass(frozen=True)
class Sphere:
    """A sphere; u is longitude, v goes from the south to the north pole."""

    radius: float
    wraps = (True, False)

    @property
    def bounding_radius(self) -> float:
        """See `Shape`."""
        return self.radius

    @property
    def face_sizes(self) -> tuple[tuple[float, float], ...]:
        """See `Shape`."""
        return ((2 * np.pi * self.radius, np.pi * self.radius),)

    def intersect(self, origin: Floats, direction: Floats) -> Floats:
        """See `Shape`."""
        middle = -dot(origin, direction)
        square = middle * middle - dot(origin, origin) + np.float32(self.radius**2)
        half = np.sqrt(np.maximum(square, 0))
        return _first_positive(middle - half, middle + half, square > 0)

    def chart(self, point: Floats) -> Chart:
        """See `Shape`."""
        height = np.clip(point[2] / np.float32(self.radius), -1, 1)
        v = 1 - np.arccos(height) * np.float32(1 / np.pi)
        return Chart(np.zeros(point.shape[1], np.intp), _turn(point[1], point[0]), v)

    def normal(self, point: Floats) -> Floats:
        """See `Shape`."""
        return normalise(point)

    def point(self, face: int, u: Floats, v: Floats) -> Floats:
        """See `Shape`."""
        longitude, polar = u * np.float32(2 * np.pi), (1 - v) * np.float32(np.pi)
        ring = np.sin(polar)
        unit = np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.cos(polar)])
        return unit * np.float32(self.radius)


@dataclass(frozen=True)
class Box:
    """A box with faces -x, +x, -y, +y, -z, +z; u, v are its two other axes in order.

    With `inward` it is a room: its surface faces inwards.
    """

    half_size: tuple[float, float, float]
    inward: bool = False
    wraps = (False, False)

    @property
    def bounding_radius(self) -> float:
        """See `Shape`."""
        return float(np.linalg.norm(self.half_size))

    @property
    def face_sizes(self) -> tuple[tuple[float, float], ...]:
        """See `Shape`."""
        x, y, z = (2 * h for h in self.half_size)
        return ((y, z), (y, z), (x, z), (x, z), (x, y), (x, y))

    @cached_property
    def _half(self) -> Floats:
        return np.array(self.half_size, np.float32)[:, None]

    def intersect(self, origin: Floats, direction: Floats) -> Floats:
        """See `Shape`."""
        inverse = 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
        centre, reach = -origin * inverse, self._half * np.abs(inverse)
        near, far = (centre - reach).max(axis=0), (centre + reach).min(axis=0)
        if self.inward:
            return far
        return _first_positive(near, far, near <= far)

    def chart(self, point: Floats) -> Chart:
        """See `Shape`."""
        relative = point / self._half
        axis = np.abs(relative).argmax(axis=0)
        columns = np.arange(point.shape[1])
        face = 2 * axis + (relative[axis, columns] > 0)
        u = relative[np.where(axis == 0, 1, 0), columns]
        v = relative[np.where(axis == 2, 1, 2), columns]
        return Chart(face, u * 0.5 + np.float32(0.5), v * 0.5 + np.float32(0.5))

    def normal(self, point: Floats) -> Floats:
        """See `Shape`."""
        relative = point / self._half
        axis = np.abs(relative).argmax(axis=0)
        columns = np.arange(point.shape[1])
        normal = np.zeros_like(point)
        normal[axis, columns] = np.sign(relative[axis, columns]) * (-1 if self.inward else 1)
        return normal

    def point(self, face: int, u: Floats, v: Floats) -> Floats:
        """See `Shape`."""
        axis, positive = divmod(face, 2)
        first, second = [a for a in range(3) if a != axis]
        point = np.empty((3, u.size), np.float32)
        point[axis] = self.half_size[axis] * (1 if positive else -1)
        point[first] = self.half_size[first] * (2 * u - 1)
        point[second] = self.half_size[second] * (2 * v - 1)
        return point


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder: face 0 its side (u around, v up), 1 its top, 2 its bottom (u=x, v=y)."""

    radius: float
    half_height: float
    wraps = (True, False)

    @property
    def bounding_radius(self) -> float:
        """See `Shape`."""
        return float(np.hypot(self.radius, self.half_height))

    @property
    def face_sizes(self) -> tuple[tuple[float, float], ...]:
        """See `Shape`."""
        width = 2 * self.radius
        return ((np.pi * width, 2 * self.half_height), (width, width), (width, width))

    def intersect(self, origin: Floats, direction: Floats) -> Floats:
        """See `Shape`."""
        across = direction[0] ** 2 + direction[1] ** 2 + np.float32(1e-12)
        middle = -(origin[0] * direction[0] + origin[1] * direction[1]) / across
        outside = origin[0] ** 2 + origin[1] ** 2 - np.float32(self.radius**2)
        square = middle * middle - outside / across
        half = np.sqrt(np.maximum(square, 0))
        vertical = np.where(np.abs(direction[2]) < 1e-9, np.float32(1e-9), direction[2])
        centre = -origin[2] / vertical
        reach = np.abs(np.float32(self.half_height) / vertical)
        near = np.maximum(middle - half, centre - reach)
        far = np.minimum(middle + half, centre + reach)
        return _first_positive(near, far, (square > 0) & (near <= far))

    def _on_cap(self, point: Floats) -> npt.NDArray[np.bool_]:
        ring = np.sqrt(point[0] ** 2 + point[1] ** 2)
        return np.abs(point[2]) / self.half_height - 1 > ring / self.radius - 1

    def chart(self, point: Floats) -> Chart:
        """See `Shape`."""
        cap = self._on_cap(point)
        face = np.where(cap, np.where(point[2] > 0, 1, 2), 0)
        flat = point / np.float32(2 * self.radius) + np.float32(0.5)
        height = point[2] / np.float32(2 * self.half_height) + np.float32(0.5)
        u = np.where(cap, flat[0], _turn(point[1], point[0]))
        return Chart(face, u, np.where(cap, flat[1], height))

    def normal(self, point: Floats) -> Floats:
        """See `Shape`."""
        cap = self._on_cap(point)
        side = np.where(cap, 0, point)
        side[2] = np.where(cap, np.sign(point[2]), 0)
        return normalise(side)

    def point(self, face: int, u: Floats, v: Floats) -> Floats:
        """See `Shape`."""
        if face == 0:
            angle, height = u * np.float32(2 * np.pi), (2 * v - 1) * np.float32(self.half_height)
            return np.stack([self.radius * np.cos(angle), self.radius * np.sin(angle), height])
        height = np.full_like(u, self.half_height if face == 1 else -self.half_height)
        return np.stack([(2 * u - 1) * self.radius, (2 * v - 1) * self.radius, height])


@dataclass(frozen=True)
class Torus:
    """A ring around the z axis; u goes around the axis, v around the tube, starting outside."""

    major_radius: float
    minor_radius: float
    wraps = (True, True)

    @property
    def bounding_radius(self) -> float:
        """See `Shape`."""
        return self.major_radius + self.minor_radius

    @property
    def face_sizes(self) -> tuple[tuple[float, float], ...]:
        """See `Shape`."""
        return ((2 * np.pi * self.major_radius, 2 * np.pi * self.minor_radius),)

    def _distance(self, point: Floats) -> Floats:
        ring = np.sqrt(point[0] ** 2 + point[1] ** 2) - np.float32(self.major_radius)
        return np.sqrt(ring * ring + point[2] * point[2]) - np.float32(self.minor_radius)

    def intersect(self, origin: Floats, direction: Floats) -> Floats:
        """See `Shape`. Steps along the ray by the distance to the surface (Hart 1996)."""
        start = np.maximum(-dot(origin, direction) - np.float32(self.bounding_radius), 0)
        travelled = np.maximum(start, np.float32(10 * EPSILON))
        for _ in range(TORUS_STEPS):
            travelled = travelled + self._distance(origin + direction * travelled)
        reached = np.abs(self._distance(origin + direction * travelled)) < 4 * EPSILON
        return np.where(reached & (travelled > EPSILON), travelled, np.float32(np.inf))

    def chart(self, point: Floats) -> Chart:
        """See `Shape`."""
        ring = np.sqrt(point[0] ** 2 + point[1] ** 2) - np.float32(self.major_radius)
        face = np.zeros(point.shape[1], np.intp)
        return Chart(face, _turn(point[1], point[0]), _turn(point[2], ring))

    def normal(self, point: Floats) -> Floats:
        """See `Shape`."""
        ring = np.sqrt(np.maximum(point[0] ** 2 + point[1] ** 2, 1e-12))
        inward = 1 - np.float32(self.major_radius) / ring
        return normalise(np.stack([point[0] * inward, point[1] * inward, point[2]]))

    def point(self, face: int, u: Floats, v: Floats) -> Floats:
        """See `Shape`."""
        around, tube = u * np.float32(2 * np.pi), v * np.float32(2 * np.pi)
        ring = self.major_radius + self.minor_radius * np.cos(tube)
        height = self.minor_radius * np.sin(tube)
        return np.stack([ring * np.cos(around), ring * np.sin(around), height])


@dataclass(frozen=True)
class Pose:
    """Where a shape stands: its centre in the room, and its axes as columns of a rotation."""

    position: tuple[float, float, float]
    rotation: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    @cached_property
    def centre(self) -> Floats:
        """The position as a (3, 1) array."""
        return np.array(self.position, np.float32)[:, None]

    @cached_property
    def _axes(self) -> Floats:
        return np.array(self.rotation, np.float32)

    def point_to_local(self, point: Floats) -> Floats:
        """Return points of the room in the shape's frame."""
        return self._axes.T @ (point - self.centre)

    def vector_to_local(self, vector: Floats) -> Floats:
        """Return directions of the room in the shape's frame."""
        return self._axes.T @ vector

    def point_to_room(self, point: Floats) -> Floats:
        """Return points of the shape's frame in the room."""
        return self._axes @ point + self.centre

    def vector_to_room(self, vector: Floats) -> Floats:
        """Return directions of the shape's frame in the room."""
        return self._axes @ vector


def turned(degrees: float, axis: str = "z") -> tuple[tuple[float, float, float], ...]:
    """Return the rotation by an angle about a coordinate axis, for `Pose`."""
    cosine, sine = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    if axis == "x":
        return ((1, 0, 0), (0, cosine, -sine), (0, sine, cosine))
    if axis == "y":
        return ((cosine, 0, sine), (0, 1, 0), (-sine, 0, cosine))
    return ((cosine, -sine, 0), (sine, cosine, 0), (0, 0, 1))


def combined(
    first: tuple[tuple[float, float, float], ...], then: tuple[tuple[float, float, float], ...]
) -> tuple[tuple[float, float, float], ...]:
    """Return the rotation that applies `first` and `then`."""
    product = np.array(then) @ np.array(first)
    return tuple((float(a), float(b), float(c)) for a, b, c in product)


@dataclass(frozen=True)
class Placed:
    """A shape and its pose in the room."""

    shape: Shape
    pose: Pose

    def intersect(self, origin: Floats, direction: Floats) -> Floats:
        """Return the distance along each ray of the room to the surface, infinite where missed."""
        towards = self.pose.centre - origin
        middle = dot(towards, direction)
        reach = np.float32(self.shape.bounding_radius**2)
        near = (dot(towards, towards) - middle * middle < reach) & (middle > -(reach**0.5))
        rays = np.flatnonzero(near)
        distance = np.full(direction.shape[1], np.inf, np.float32)
        if rays.size:
            local_origin = self.pose.point_to_local(np.take(origin, rays, axis=1))
            local_direction = self.pose.vector_to_local(np.take(direction, rays, axis=1))
            distance[rays] = self.shape.intersect(local_origin, local_direction)
        return distance


def nearest(
    things: tuple[Placed, ...], origin: Floats, direction: Floats
) -> tuple[Floats, Integers]:
    """Return for each ray the distance to the first thing that it meets, and that thing's index."""
    best = np.full(direction.shape[1], np.inf, np.float32)
    index = np.full(direction.shape[1], -1, np.intp)
    for i, thing in enumerate(things):
        distance = thing.intersect(origin, direction)
        closer = distance < best
        best = np.where(closer, distance, best)
        index[closer] = i
    return best, index
