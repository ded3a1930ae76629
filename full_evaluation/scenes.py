# SPDX-License-Identifier: Apache-2.0
"""The 13 scenes of the published tables, and the folder of photographs that each is trained on."""

from dataclasses import dataclass
from pathlib import Path

SCENES = {
    "mipnerf360": {
        **dict.fromkeys(("bicycle", "flowers", "garden", "stump", "treehill"), "images_4"),
        **dict.fromkeys(("room", "counter", "kitchen", "bonsai"), "images_2"),
    },
    "tanksandtemples": dict.fromkeys(("truck", "train"), "images"),
    "deepblending": dict.fromkeys(("drjohnson", "playroom"), "images"),
}
"""Data set -> scene -> folder of photographs."""


@dataclass(frozen=True)
class BenchmarkScene:
    """A scene, and the folder of its model."""

    data_set: str
    name: str
    images: str
    source: Path | None
    """The scene's folder; None where no folder of the data set is given."""
    model: Path


def all_scenes(data_sets: dict[str, Path | None], output: Path) -> list[BenchmarkScene]:
    """The scenes in the order of the tables. `data_sets`: the folder of each, by its name."""
    return [
        BenchmarkScene(
            data_set, name, images, None if (at := data_sets[data_set]) is None else at / name,
            output / name,
        )
        for data_set, scenes in SCENES.items()
        for name, images in scenes.items()
    ]  # fmt: skip
