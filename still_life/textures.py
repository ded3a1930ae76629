# SPDX-License-Identifier: Apache-2.0
"""The painted surfaces: every function returns linear RGB of shape (height, width, 3).

Row 0 is the upper border of a chart (v = 1). Colours are given as sRGB hex codes and
stored as linear RGB, in which light adds up.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from still_life.shapes import Floats

Mask = npt.NDArray[np.bool_] | npt.NDArray[np.floating]


def colour(name: str) -> Floats:
    """Return the linear RGB of an sRGB hex colour such as `"c8553d"`."""
    value = np.array([int(name[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


def plain(name: str, height: int = 2, width: int = 2) -> Floats:
    """Return a canvas of one colour."""
    return np.broadcast_to(colour(name), (height, width, 3)).copy()


def mixed(under: Floats, over: Floats, amount: Mask) -> Floats:
    """Return `over` laid on `under` where `amount` (height, width) is 1."""
    weight = np.asarray(amount, np.float32)[..., None]
    return under + (over - under) * weight


def grid(height: int, width: int) -> tuple[Floats, Floats]:
    """Return u and v of the pixel centres, v upwards."""
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    return (u + 0.5) / width, 1 - (v + 0.5) / height


def noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    cells: tuple[int, int],
    octaves: int = 4,
    periodic: bool = False,
) -> Floats:
    """Return smooth noise in [0, 1]; `cells` counts the coarsest features down and across."""
    total, weight = np.zeros((height, width), np.float32), 1.0
    for octave in range(octaves):
        rows, columns = (min(n << octave, m) for n, m in zip(cells, (height, width), strict=True))
        knots = rng.random((rows + 1, columns + 1), dtype=np.float32)
        if periodic:
            knots[:, -1] = knots[:, 0]
        box = (0.5, 0.5, columns + 0.5, rows + 0.5)
        layer = Image.fromarray(knots).resize((width, height), Image.Resampling.BICUBIC, box=box)
        total += weight * np.asarray(layer)
        weight *= 0.5
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def wood(
    rng: np.random.Generator, height: int, width: int, light: str, dark: str, planks: int = 1
) -> Floats:
    """Return boards whose grain runs along u."""
    _, v = grid(height, width)
    grain = noise(rng, height, width, (height // 6, 3), 3)
    rings = 0.5 + 0.5 * np.sin(40 * noise(rng, height, width, (6 * planks, 2), 2))
    board = np.minimum((v * planks).astype(int), planks - 1)
    tone = rng.uniform(-0.22, 0.22, planks).astype(np.float32)[board]
    picture = mixed(plain(light, height, width), plain(dark, height, width), 0.55 * grain)
    picture = mixed(picture, plain(dark, height, width), 0.35 * rings)
    picture *= (1 + tone)[..., None]
    seam = np.abs(v * planks - np.rint(v * planks)) * height / planks < 0.9
    return np.clip(mixed(picture, picture * 0.25, seam if planks > 1 else 0 * v), 0, 1)


def parquet(rng: np.random.Generator, size: int, squares: int) -> Floats:
    """Return a floor of square panels whose boards run along u and v in turn."""
    cell = size // squares
    picture = np.empty((cell * squares, cell * squares, 3), np.float32)
    for row in range(squares):
        for column in range(squares):
            panel = wood(rng, cell, cell, "b98a5a", "6f4526", planks=4)
            panel *= np.float32(rng.uniform(0.8, 1.1))
            panel[[0, -1]] *= 0.4
            panel[:, [0, -1]] *= 0.4
            turned = panel if (row + column) % 2 else panel.transpose(1, 0, 2)
            picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = turned
    return np.clip(picture, 0, 1)


def with_rug(rng: np.random.Generator, floor: Floats, radius: float) -> Floats:
    """Return a floor with a round rug in the middle; `radius` as a fraction of the width."""
    height, width, _ = floor.shape
    u, v = grid(height, width)
    x, y = (u - 0.5) / radius, (v - 0.5) / radius
    ring, angle = np.hypot(x, y), np.arctan2(y, x)
    bands = ("8c2f39", "e8c99b", "2f4858", "8c2f39", "33658a", "e8c99b", "8c2f39", "2f4858")
    picture = plain(bands[0], height, width)
    for i, name in enumerate(bands):
        wave = ring + 0.012 * np.sin(angle * 24 + i)
        picture = mixed(picture, plain(name, height, width), wave * len(bands) > i + 0.25)
    petals = (np.sin(angle * 16) * np.sin(ring * 22) > 0.55) & (ring > 0.3)
    picture = mixed(picture, plain("f2e2c4", height, width), petals)
    weave = 0.75 + 0.25 * noise(rng, height, width, (height // 3, width // 3), 1)
    return mixed(floor, picture * weave[..., None], ring < 1)


def wallpaper(
    rng: np.random.Generator, height: int, width: int, light: str, dark: str, stripes: int
) -> Floats:
    """Return striped paper with small diamonds above a white panelled dado."""
    u, v = grid(height, width)
    stripe = 0.5 + 0.5 * np.clip(6 * np.sin(2 * np.pi * stripes * u), -1, 1)
    picture = mixed(plain(light, height, width), plain(dark, height, width), 0.55 * stripe)
    across = np.abs(np.mod(u * stripes, 1) - 0.25)
    down = np.abs(np.mod(v * stripes * height / width, 1) - 0.5)
    picture = mixed(picture, plain("f6ecd6", height, width), across + down < 0.13)
    panel = np.abs(np.mod(u * stripes / 2, 1) - 0.5)
    line = (np.abs(panel - 0.4) < 0.02) | (np.abs(v - 0.04) < 0.006)
    dado = mixed(plain("ded6c6", height, width), plain("8d8577", height, width), line & (v < 0.2))
    picture = mixed(picture, dado, v < 0.24)
    picture = mixed(picture, plain("6b4a2f", height, width), np.abs(v - 0.245) < 0.012)
    return picture * (0.88 + 0.12 * noise(rng, height, width, (6, 8), 5))[..., None]


def hung(wall: Floats, painting: Floats, box: tuple[float, float, float, float]) -> Floats:
    """Return a wall with a framed painting at `box`: left, bottom, right, top in u, v."""
    height, width, _ = wall.shape
    left, right = round(box[0] * width), round(box[2] * width)
    top, bottom = round((1 - box[3]) * height), round((1 - box[1]) * height)
    frame = max(2, (right - left) // 16)
    picture = wall.copy()
    picture[top + frame // 2 : bottom + frame, left + frame // 2 : right + frame] *= 0.55
    picture[top:bottom, left:right] = colour("3c2415")
    picture[top + frame // 3 : bottom - frame // 3, left + frame // 3 : right - frame // 3] = (
        colour("c9a227")
    )
    inner = (right - left - 2 * frame, bottom - top - 2 * frame)
    picture[top + frame : bottom - frame, left + frame : right - frame] = resized(painting, inner)
    return picture


def resized(picture: Floats, size: tuple[int, int]) -> Floats:
    """Return a picture (height, width, channels) at another (width, height)."""
    layers = [
        np.asarray(Image.fromarray(picture[..., c]).resize(size, Image.Resampling.BILINEAR))
        for c in range(picture.shape[2])
    ]
    return np.stack(layers, axis=-1)


def landscape(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return hills one behind the other under an evening sky."""
    u, v = grid(height, width)
    picture = mixed(plain("f4a259", height, width), plain("3d5a80", height, width), v)
    sun = np.hypot((u - 0.68) * width / height, v - 0.62) < 0.11
    picture = mixed(picture, plain("fff1c1", height, width), sun)
    hills = ("98a886", "6b8f71", "3f6c51", "26413c", "142622")
    for i, name in enumerate(hills):
        ridge = noise(rng, 1, width, (1, 3 + i), 4)[0]
        top = 0.62 - 0.13 * i + 0.2 * (ridge - 0.5)
        shade = (
            plain(name, height, width) * (0.8 + 0.4 * noise(rng, height, width, (9, 12)))[..., None]
        )
        picture = mixed(picture, shade, v < top[None])
    return picture


def abstract(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return overlapping discs and bars of strong colour."""
    names = ("d1495b", "edae49", "00798c", "30638e", "003d5b", "f4f1de", "e07a5f", "81b29a")
    u, v = grid(height, width)
    picture = plain("f4f1de", height, width)
    for i in range(26):
        x, y, radius = rng.random(), rng.random(), rng.uniform(0.05, 0.22)
        ring = np.hypot((u - x) * width / height, v - y)
        inside = ring < radius if i % 3 else (np.abs(u - x) < radius / 5)
        picture = mixed(picture, plain(names[rng.integers(len(names))], height, width), inside)
    return picture


def bookcase(rng: np.random.Generator, height: int, width: int, shelves: int = 4) -> Floats:
    """Return shelves full of spines."""
    picture = plain("3a2618", height, width)
    names = ("7f2a2a", "a65e2e", "c8a951", "53683a", "2e5e4e", "27476e", "4a3a63", "d8cfc0")
    gap = height // shelves
    for shelf in range(shelves):
        floor, left = (shelf + 1) * gap - max(2, gap // 14), 4
        while left < width - 4:
            spine = int(rng.integers(max(3, gap // 9), max(5, gap // 4)))
            tall = int(gap * rng.uniform(0.6, 0.86))
            right = min(left + spine, width - 4)
            shade = colour(names[rng.integers(len(names))]) * np.float32(rng.uniform(0.7, 1.25))
            picture[floor - tall : floor, left:right] = np.minimum(shade, 0.9)
            picture[floor - tall : floor, left] *= 0.4
            label = floor - int(tall * rng.uniform(0.6, 0.8))
            picture[label : label + max(1, gap // 18), left + 1 : right] = colour("e3c878")
            left = right + (int(rng.integers(3, 9)) if rng.random() < 0.08 else 0)
        picture[floor : floor + max(2, gap // 14)] = colour("6b4a2f")
    return picture


def table_top(rng: np.random.Generator, size: int) -> Floats:
    """Return a walnut top with an inlaid ring and a checked runner across it."""
    picture = wood(rng, size, size, "9c6a3f", "4a2a16", planks=9)
    u, v = grid(size, size)
    ring = np.hypot(u - 0.5, v - 0.5)
    picture = mixed(picture, plain("e0b87a", size, size), np.abs(ring - 0.455) < 0.006)
    across, along = (u - v) * np.float32(0.7071), (u + v) * np.float32(0.7071)
    cloth = plain("efe6d2", size, size)
    for line, name in ((across, "2a6f77"), (along, "c0492f")):
        check = np.mod(line * 26, 1) < 0.5
        cloth = mixed(cloth, plain(name, size, size), 0.55 * check)
    thread = 0.8 + 0.2 * noise(rng, size, size, (size // 3, size // 3), 1)
    cloth *= thread[..., None]
    hem = np.abs(np.abs(across) - 0.155) < 0.006
    cloth = mixed(cloth, plain("f7d488", size, size), hem)
    return mixed(picture, cloth, (np.abs(across) < 0.165) & (ring < 0.44))


def globe(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return an invented planet: continents, ice and a net of meridians."""
    u, v = grid(height, width)
    land = noise(rng, height, width, (4, 6), 6, periodic=True)
    relief = noise(rng, height, width, (10, 20), 5, periodic=True)
    sea = mixed(plain("16466f", height, width), plain("3d8fb0", height, width), land / 0.55)
    ground = mixed(plain("5f8a3c", height, width), plain("d7b36a", height, width), relief)
    ground = mixed(ground, plain("7a5230", height, width), np.clip((land - 0.68) * 8, 0, 1))
    picture = mixed(sea, ground, np.clip((land - 0.53) * 60, 0, 1))
    ice = np.clip((np.abs(v - 0.5) + 0.05 * relief - 0.44) * 60, 0, 1)
    picture = mixed(picture, plain("f1f5f7", height, width), ice)
    net = (np.abs(np.mod(u * 12, 1) - 0.5) > 0.485) | (np.abs(np.mod(v * 6, 1) - 0.5) > 0.485)
    return mixed(picture, plain("f4ead0", height, width), 0.5 * net)


def ball(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return red lacquer with a painted belt."""
    u, v = grid(height, width)
    picture = plain("a81e22", height, width)
    picture = picture * (0.85 + 0.15 * noise(rng, height, width, (20, 40), 3, True))[..., None]
    picture = mixed(picture, plain("f3e3b3", height, width), np.abs(v - 0.5) < 0.13)
    zigzag = np.abs(np.abs(np.mod(u * 12, 1) - 0.5) * 0.3 + 0.425 - v) < 0.03
    return mixed(picture, plain("1f4e79", height, width), zigzag)


def mug(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return cream glaze with a belt of triangles between two lines."""
    u, v = grid(height, width)
    picture = plain("f0e4cc", height, width)
    triangle = np.mod(u * 10, 1)
    belt = (v > 0.28) & (v < 0.72) & (np.abs(triangle - 0.5) < 0.5 * (0.74 - v) / 0.46)
    picture = mixed(picture, plain("1f5f8b", height, width), belt)
    core = (v > 0.3) & (v < 0.5) & (np.abs(triangle - 0.5) < 0.32 * (0.5 - v) / 0.2)
    picture = mixed(picture, plain("f2a541", height, width), core)
    lines = (np.abs(v - 0.82) < 0.025) | (np.abs(v - 0.18) < 0.025)
    picture = mixed(picture, plain("b23a48", height, width), lines)
    return picture * (0.93 + 0.07 * noise(rng, height, width, (30, 60), 2, True))[..., None]


def coffee(size: int) -> Floats:
    """Return the open end of a mug: rim and coffee."""
    u, v = grid(size, size)
    ring = np.hypot(u - 0.5, v - 0.5)
    return mixed(plain("2b1509", size, size), plain("f0e4cc", size, size), ring > 0.45)


def plate(size: int) -> Floats:
    """Return white china with two blue rings and dots between them."""
    u, v = grid(size, size)
    ring, angle = np.hypot(u - 0.5, v - 0.5), np.arctan2(v - 0.5, u - 0.5)
    lines = (np.abs(ring - 0.46) < 0.012) | (np.abs(ring - 0.36) < 0.006)
    dots = (np.abs(ring - 0.41) < 0.018) & (np.cos(angle * 24) > 0.55)
    return mixed(plain("eceae4", size, size), plain("27548a", size, size), lines | dots)


def donut(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return dough under pink icing with sprinkles; v as on `Torus`."""
    _, v = grid(height, width)
    dough = mixed(
        plain("c98a4b", height, width),
        plain("8a5424", height, width),
        noise(rng, height, width, (10, 40), 3, True),
    )
    upper = 0.5 - np.abs(np.mod(v, 1) - 0.25) * 2
    edge = 0.06 * (noise(rng, 1, width, (1, 14), 2, True) - 0.5)
    picture = mixed(dough, plain("e97fa3", height, width), np.clip((upper - edge) * 40, 0, 1))
    canvas = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(canvas)
    names = ("fff3c4", "5ec4d6", "f7d046", "7fc96b", "7d4fb0", "fdfdfd")
    for index in range(150):
        x, y = rng.uniform(0, width), rng.uniform(0.56, 0.94) * height
        angle = rng.uniform(0, np.pi)
        step = np.array([np.cos(angle), np.sin(angle)]) * height / 26
        pen.line((x - step[0], y - step[1], x + step[0], y + step[1]), 1 + index % 6, height // 38)
    drawn = np.asarray(canvas)
    for index, name in enumerate(names, start=1):
        picture = mixed(picture, plain(name, height, width), drawn == index)
    return picture


def die_faces(size: int) -> tuple[Floats, ...]:
    """Return the six faces of a die, opposite ones adding up to seven."""
    places = {"nw": (-1, 1), "ne": (1, 1), "w": (-1, 0), "e": (1, 0), "sw": (-1, -1), "se": (1, -1)}
    pips: dict[int, Sequence[tuple[int, int]]] = {
        1: [(0, 0)],
        2: [places["nw"], places["se"]],
        3: [(0, 0), places["nw"], places["se"]],
        4: [places[k] for k in ("nw", "ne", "sw", "se")],
        5: [(0, 0), *(places[k] for k in ("nw", "ne", "sw", "se"))],
        6: list(places.values()),
    }
    u, v = grid(size, size)
    faces = []
    for count in (1, 6, 2, 5, 3, 4):
        picture = plain("2d7d6f", size, size)
        for x, y in pips[count]:
            pip = np.hypot(u - 0.5 - 0.26 * x, v - 0.5 - 0.26 * y) < 0.095
            picture = mixed(picture, plain("f7f3e8", size, size), pip)
        edge = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)) > 0.47
        faces.append(mixed(picture, plain("55a596", size, size), edge))
    return tuple(faces)


def book_faces(rng: np.random.Generator, cover: str, trim: str, size: int) -> tuple[Floats, ...]:
    """Return a lying book: pages on three sides, spine at -y, covers above and below."""
    u, v = grid(size, size)
    paper = plain("efe5cf", size, size) * (0.72 + 0.28 * rng.random((size, 1, 1), np.float32))
    board = (
        plain(cover, size, size)
        * (0.86 + 0.14 * noise(rng, size, size, (size // 4, size // 4), 2))[..., None]
    )
    border = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5))
    front = mixed(board, plain(trim, size, size), np.abs(border - 0.42) < 0.012)
    for low, high, reach in ((0.66, 0.74, 0.28), (0.54, 0.6, 0.2), (0.2, 0.23, 0.12)):
        title = (v > low) & (v < high) & (np.abs(u - 0.5) < reach)
        front = mixed(front, plain(trim, size, size), title)
    emblem = np.abs(np.hypot(u - 0.5, v - 0.38) - 0.07) < 0.015
    front = mixed(front, plain(trim, size, size), emblem)
    bands = (np.abs(u - 0.12) < 0.015) | (np.abs(u - 0.88) < 0.015)
    label = (np.abs(u - 0.5) < 0.24) & (np.abs(v - 0.5) < 0.16)
    spine = mixed(board, plain(trim, size, size), bands | label)
    sides = mixed(paper, plain(cover, size, size), np.abs(v - 0.5) > 0.4)
    return sides, sides, spine, sides, front, front


def pencil(height: int, width: int) -> Floats:
    """Return six flats of yellow paint, a dark band at each end; u around, v along."""
    u, v = grid(height, width)
    flat = np.mod(u * 6, 1) < 0.5
    picture = mixed(plain("f0b51d", height, width), plain("c98a12", height, width), flat)
    return mixed(picture, plain("8a1f2b", height, width), np.abs(v - 0.5) > 0.42)


def window(height: int, width: int) -> tuple[Floats, Mask]:
    """Return the view through a window as light, and where panes are (height, width)."""
    u, v = grid(height, width)
    sky = mixed(plain("dfeaf2", height, width), plain("6f9fd0", height, width), v)
    trees = v < 0.32 + 0.05 * np.sin(u * 19) + 0.04 * np.sin(u * 47 + 1)
    view = mixed(sky, plain("3f6b3a", height, width), trees)
    bars = (np.abs(np.mod(u * 3, 1) - 0.5) > 0.455) | (np.abs(np.mod(v * 2, 1) - 0.5) > 0.465)
    return view, ~bars
