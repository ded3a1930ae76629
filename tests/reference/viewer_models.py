# SPDX-License-Identifier: Apache-2.0
"""A small model folder with cameras and photographs, as view.py serves it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from arguments import ModelOptions, write_cfg_args
from splat_formats.files import write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from tests.reference.random_splats import random_raw

WIDTH, HEIGHT = 240, 160
FOCAL = 200.0
VIEWS = ("front.png", "side.png", "lost.png")


def random_scene(count: int, sh_degree: int, antialiasing: bool = False) -> SplatScene:
    """Gaussians of many sizes around the origin."""
    raw = random_raw(count, sh_degree)
    arrays = {name: getattr(raw, name).numpy() for name in Splats.__dataclass_fields__}
    splats = replace(Splats(**arrays), scaling=arrays["scaling"] + np.float32(1.5))
    return SplatScene(splats, SplatMetadata(antialiasing))


def camera_entries() -> list[dict[str, object]]:
    """Entries of cameras.json: the first looks along z, the others turn around the y axis."""
    entries = []
    for index, name in enumerate(VIEWS):
        angle = 1.3 * index
        c, s = math.cos(angle), math.sin(angle)
        rotation = [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]
        position = [-9 * s, 0.3, -9 * c]
        entries.append(
            {"id": index, "img_name": name, "width": 2 * WIDTH, "height": 2 * HEIGHT,
             "position": position, "rotation": rotation, "fy": 2 * FOCAL, "fx": 2 * FOCAL}
        )  # fmt: skip
    return entries


def write_model_folder(folder: Path, scene: SplatScene) -> None:
    """Original and compressed model, cameras, and photographs of all views but the last."""
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    for index, name in enumerate(VIEWS[:-1]):
        colour = (200, 40 * index, 30)
        Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), colour).save(images / name)
    model = folder / "model"
    write_splats(model / "point_cloud" / "iteration_7" / "point_cloud.ply", scene)
    write_splats(model / "compressed" / "model.f3dgs", scene)
    (model / "cameras.json").write_text(json.dumps(camera_entries()), encoding="utf-8")
    write_cfg_args(model, ModelOptions(source_path=str(folder / "data"), model_path=str(model)))
