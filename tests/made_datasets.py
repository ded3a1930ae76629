# SPDX-License-Identifier: Apache-2.0
"""Small data sets of random photographs, COLMAP and NeRF-synthetic."""

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from arguments import ModelOptions

WIDTH, HEIGHT = 24, 16
POSE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]


def random_image(
    seed: int, mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Image.Image:
    bands = len(mode)
    shape = (size[1], size[0], bands) if bands > 1 else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels, mode=None)


def make_colmap(
    folder: Path,
    count: int = 10,
    model: int = 1,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    params: tuple[float, ...] | None = None,
) -> Path:
    """A capture of `count` photographs along +z, taken from the centres (i, 0, 0)."""
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (folder / "images").mkdir()
    if params is None:
        params = {0: (30.0, 12.0, 8.0), 1: (30.0, 32.0, 12.0, 8.0), 4: (1.0,) * 8}[model]
    cameras = struct.pack("<QiiQQ", 1, 5, model, *size) + struct.pack(f"<{len(params)}d", *params)
    (sparse / "cameras.bin").write_bytes(cameras)
    images = struct.pack("<Q", count)
    # Stored in reverse: a data set is ordered by the names.
    for i in reversed(range(count)):
        name = f"{i:02}.png"
        images += struct.pack("<i7di", i + 1, 1, 0, 0, 0, -i, 0, 0, 5) + name.encode() + b"\0"
        images += struct.pack("<Q", 0)
        random_image(i, size=size).save(folder / "images" / name)
    (sparse / "images.bin").write_bytes(images)
    points = struct.pack("<Q", 2)
    points += struct.pack("<Q3d3BdQ", 1, 1, 2, 3, 10, 20, 255, 0.5, 0)
    points += struct.pack("<Q3d3BdQ", 2, 4, 1, 6, 0, 1, 2, 0.5, 0)
    (sparse / "points3D.bin").write_bytes(points)
    return folder


def make_blender(folder: Path) -> Path:
    pose = np.eye(4)
    pose[:3, 3] = (1, 2, 3)
    for split, count in (("train", 3), ("test", 2)):
        (folder / split).mkdir(parents=True)
        frames = []
        for i in range(count):
            random_image(i, "RGBA").save(folder / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()})
        text = json.dumps({"camera_angle_x": 0.7, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    return folder


def make_transforms(folder: Path, count: int = 9, **shared: object) -> Path:
    """A scene of one transforms.json with a byte order mark and matrices of three rows."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for i in reversed(range(count)):
        random_image(i).save(folder / "images" / f"{i}.png")
        matrix = np.array(POSE, float)
        matrix[0, 3] = i
        entry = {"file_path": f"images/{i}.png", "transform_matrix": matrix[:3].tolist()}
        frames.append(entry)
    text = json.dumps({"fl_x": 30.0, "frames": frames, **shared})
    (folder / "transforms.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return folder


def options(folder: Path, **values: object) -> ModelOptions:
    return ModelOptions(source_path=str(folder), **values)  # type: ignore[arg-type]


def names(cameras: list) -> list[str]:
    return [camera.image_name for camera in cameras]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
