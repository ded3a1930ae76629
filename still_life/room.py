# SPDX-License-Identifier: Apache-2.0
"""The objects of the room, their places and materials.

A round table in the middle of a papered room, lit by a panel in the ceiling and a window. The top
of the table is z = 0, and its centre is the origin, towards which all cameras point.
"""

from dataclasses import dataclass, field

import numpy as np

from still_life import textures
from still_life.shapes import (
    Box,
    Cylinder,
    Floats,
    Placed,
    Pose,
    Sphere,
    Torus,
    combined,
    turned,
)

ROOM_HALF = 2.5  # metres
FLOOR, CEILING = -0.75, 1.95
TABLE_RADIUS = 0.8


@dataclass(frozen=True)
class Finish:
    """How a surface reflects light.

    mirror: share of light reflected sharply at normal incidence, per channel; 0 traces no ray.
    gloss: strength of the blurred highlights of the lights; sharpness: their Phong exponent.
    """

    mirror: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gloss: float = 0.0
    sharpness: float = 20.0


@dataclass(frozen=True)
class Thing(Placed):
    """A placed shape with its painted faces; `emission` is the linear RGB that faces emit."""

    faces: tuple[Floats, ...]
    finish: Finish = Finish()
    emission: dict[int, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Light:
    """A rectangular light: centre, half edges (metres) and mean radiance (linear RGB)."""

    centre: tuple[float, float, float]
    half_edges: tuple[tuple[float, float, float], tuple[float, float, float]]
    radiance: tuple[float, float, float]


@dataclass(frozen=True)
class Room:
    """All things in the scene, of which the first is the room itself, and its lights."""

    things: tuple[Thing, ...]
    lights: tuple[Light, ...]


PANEL_HALF = 0.65
PANEL_RADIANCE = (7.0, 6.2, 5.2)
WINDOW_CENTRE, WINDOW_HALF = (0.2, 0.62), (0.95, 0.62)  # metres along the wall, and up
WINDOW_GAIN = 7.0

WAX = Finish(mirror=(0.025, 0.025, 0.025), gloss=0.14, sharpness=24)
LACQUER = Finish(mirror=(0.025, 0.025, 0.025), gloss=0.3, sharpness=16)
SATIN = Finish(gloss=0.16, sharpness=12)
STEEL = Finish(mirror=(0.3, 0.31, 0.33), gloss=0.35, sharpness=24)
BRASS = Finish(mirror=(0.3, 0.23, 0.11), gloss=0.5, sharpness=14)


def _window_wall(wall: Floats) -> tuple[Floats, Floats, tuple[float, float, float]]:
    """Return the wall with a window in it, what the window emits, and its mean radiance."""
    height, width, _ = wall.shape
    middle = (FLOOR + CEILING) / 2
    left, right = ((WINDOW_CENTRE[0] + s * WINDOW_HALF[0]) / (2 * ROOM_HALF) + 0.5 for s in (-1, 1))
    low, high = (
        (WINDOW_CENTRE[1] + s * WINDOW_HALF[1] - middle) / (CEILING - FLOOR) + 0.5 for s in (-1, 1)
    )
    columns = slice(round(left * width), round(right * width))
    rows = slice(round((1 - high) * height), round((1 - low) * height))
    view, panes = textures.window(rows.stop - rows.start, columns.stop - columns.start)
    margin = max(2, width // 100)
    painted, emission = wall.copy(), np.zeros_like(wall)
    frame = (
        slice(rows.start - margin, rows.stop + margin),
        slice(columns.start - margin, columns.stop + margin),
    )
    painted[frame] = textures.colour("f4f1ea")
    emission[rows, columns] = view * np.asarray(panes, np.float32)[..., None] * WINDOW_GAIN
    mean = emission[rows, columns].mean(axis=(0, 1))
    return painted, emission, (float(mean[0]), float(mean[1]), float(mean[2]))


def _shell(rng: np.random.Generator) -> tuple[Thing, tuple[Light, ...]]:
    """Return floor, walls and ceiling, and the lights in them."""
    high, wide = 432, 800
    ochre = textures.wallpaper(rng, high, wide, "d9b36c", "c79a4b", 14)
    sage = textures.wallpaper(rng, high, wide, "a9b99a", "8fa584", 14)
    ochre = textures.hung(ochre, textures.landscape(rng, 160, 240), (0.12, 0.42, 0.48, 0.86))
    ochre = textures.hung(ochre, textures.abstract(rng, 160, 130), (0.62, 0.4, 0.84, 0.88))
    sage = textures.hung(sage, textures.abstract(rng, 180, 220), (0.58, 0.42, 0.92, 0.88))
    case = textures.bookcase(rng, round(0.86 * high), round(0.4 * wide))
    sage[high - case.shape[0] :, round(0.08 * wide) : round(0.08 * wide) + case.shape[1]] = case
    blue = textures.wallpaper(rng, high, wide, "7f9fb6", "6a8aa6", 14)
    blue = textures.hung(blue, textures.landscape(rng, 200, 200), (0.1, 0.4, 0.34, 0.86))
    blue = textures.hung(blue, textures.landscape(rng, 140, 220), (0.44, 0.45, 0.72, 0.82))
    blue = textures.hung(blue, textures.abstract(rng, 140, 100), (0.8, 0.42, 0.95, 0.84))
    rose = textures.wallpaper(rng, high, wide, "c98f84", "b97a70", 14)
    glazed, shine, daylight = _window_wall(rose)
    floor = textures.with_rug(rng, textures.parquet(rng, 960, 10), 0.36)
    ceiling, panel = textures.plain("efece4", 400, 400), np.zeros((400, 400, 3), np.float32)
    reach = round(PANEL_HALF / (2 * ROOM_HALF) * 400)
    panel[200 - reach : 200 + reach, 200 - reach : 200 + reach] = PANEL_RADIANCE
    shape = Box((ROOM_HALF, ROOM_HALF, (CEILING - FLOOR) / 2), inward=True)
    shell = Thing(
        shape,
        Pose((0, 0, (FLOOR + CEILING) / 2)),
        (ochre, sage, blue, glazed, floor, ceiling),
        emission={3: shine, 5: panel},
    )
    lamp = Light((0, 0, CEILING - 0.01), ((PANEL_HALF, 0, 0), (0, PANEL_HALF, 0)), PANEL_RADIANCE)
    opening = Light(
        (WINDOW_CENTRE[0], ROOM_HALF - 0.01, WINDOW_CENTRE[1]),
        ((WINDOW_HALF[0], 0, 0), (0, 0, WINDOW_HALF[1])),
        daylight,
    )
    return shell, (lamp, opening)


def _table(rng: np.random.Generator) -> list[Thing]:
    dark = textures.wood(rng, 64, 256, "7a4c2b", "3c2212")
    top = textures.table_top(rng, 900)
    leg_height = (-FLOOR - 0.04) / 2
    return [
        Thing(Cylinder(TABLE_RADIUS, 0.02), Pose((0, 0, -0.02)), (dark, top, dark), WAX),
        Thing(Cylinder(0.07, leg_height), Pose((0, 0, -0.04 - leg_height)), (dark, dark, dark)),
        Thing(Cylinder(0.34, 0.02), Pose((0, 0, FLOOR + 0.02)), (dark, dark, dark), SATIN),
    ]


def _globe(rng: np.random.Generator) -> list[Thing]:
    place = (-0.27, 0.28)
    brass = textures.plain("a8863d")
    tilt = turned(23, "y")
    return [
        Thing(
            Sphere(0.185), Pose((*place, 0.275), tilt), (textures.globe(rng, 256, 512),), LACQUER
        ),
        Thing(Torus(0.205, 0.011), Pose((*place, 0.275), turned(90, "x")), (brass,), BRASS),
        Thing(Cylinder(0.1, 0.012), Pose((*place, 0.012)), (brass,) * 3, BRASS),
        Thing(Cylinder(0.018, 0.03), Pose((*place, 0.05)), (brass,) * 3, BRASS),
    ]


def _books(rng: np.random.Generator) -> list[Thing]:
    books = (
        ("7b2d26", "e6c36a", (0.2, 0.14, 0.026), 24.0),
        ("1f4e5f", "e8e2cf", (0.175, 0.125, 0.02), 8.0),
        ("3d5a3a", "e6c36a", (0.15, 0.11, 0.022), 38.0),
    )
    height, things = 0.0, []
    for cover, trim, half, degrees in books:
        pose = Pose((-0.31, -0.24, height + half[2]), turned(degrees))
        things.append(Thing(Box(half), pose, textures.book_faces(rng, cover, trim, 128), SATIN))
        height += 2 * half[2]
    mug_at = (-0.31, -0.24, height + 0.065)
    glaze = (textures.mug(rng, 160, 480), textures.coffee(96), textures.plain("e6d9bd"))
    handle = Pose(
        (mug_at[0] + 0.052, mug_at[1] + 0.046, mug_at[2]), combined(turned(90, "x"), turned(41))
    )
    cream = textures.plain("e9dcc0")
    things.append(Thing(Cylinder(0.06, 0.065), Pose(mug_at), glaze, LACQUER))
    things.append(Thing(Torus(0.034, 0.0095), handle, (cream,), LACQUER))
    return things


def _small_things(rng: np.random.Generator) -> list[Thing]:
    steel = textures.plain("8d9299")
    china = (textures.plain("eceae4"), textures.plate(300), textures.plain("eceae4"))
    icing = textures.donut(rng, 220, 640)
    lying = combined(turned(90, "y"), turned(-28))
    yellow = textures.pencil(240, 48)
    lead = textures.plain("d9b98a")
    return [
        Thing(Sphere(0.1), Pose((0.3, 0.27, 0.1)), (steel,), STEEL),
        Thing(Sphere(0.085), Pose((0.03, 0.14, 0.085)), (textures.ball(rng, 128, 256),), LACQUER),
        Thing(Cylinder(0.18, 0.008), Pose((0.3, -0.2, 0.008)), china, LACQUER),
        Thing(Torus(0.078, 0.042), Pose((0.28, -0.2, 0.058), turned(6, "x")), (icing,), LACQUER),
        Thing(
            Box((0.055, 0.055, 0.055)),
            Pose((0.0, -0.08, 0.055), turned(33)),
            textures.die_faces(96),
            SATIN,
        ),
        Thing(Cylinder(0.011, 0.13), Pose((0.0, -0.36, 0.011), lying), (yellow, lead, lead), SATIN),
    ]


def furnish(seed: int) -> Room:
    """Return the furnished room; the seed varies grain, paintings and spines, not the places."""
    rng = np.random.default_rng(seed)
    shell, lights = _shell(rng)
    things = [shell, *_table(rng), *_globe(rng), *_books(rng), *_small_things(rng)]
    return Room(tuple(things), lights)
