# SPDX-License-Identifier: Apache-2.0
"""Makes the big model of big.py, in a process of its own. NumPy only."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.models import DATA, PLYS
from splat_formats.outliers import middle
from splat_formats.ply import ply_parts, read_ply
from splat_formats.scene import SplatMetadata
from splat_formats.splats import Splats
from splat_formats.turns import turned

_SPREADS = {"features_dc": 0.02, "features_rest": 0.005, "opacity": 0.1, "scaling": 0.05,
            "rotation": 0.02}  # fmt: skip
_SPACING = 0.8  # of the copies, in sizes of the model without its outliers


def copies(model: Splats, count: int) -> Iterator[Splats]:
    """Parts of a model of `count` Gaussians, in random order within each part."""
    generator = np.random.default_rng(0)
    low, high = middle(model.xyz)
    size, centre = float((high - low).max()), (low + high) / 2
    number = -(-count // model.count)
    side = int(np.ceil(np.sqrt(number)))
    for copy in range(number):
        angle = generator.uniform(0, 2 * np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        about_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        part = turned(replace(model, xyz=model.xyz - centre.astype(np.float32)), about_y)
        place = np.array([copy % side, 0, copy // side]) + generator.uniform(-0.2, 0.2, 3)
        part = replace(part, xyz=part.xyz + (place * size * _SPACING).astype(np.float32))
        rows = generator.permutation(model.count)[: count - copy * model.count]
        yield _changed(part.rows(rows), generator)


def _changed(splats: Splats, generator: np.random.Generator) -> Splats:
    """The model with small random changes, so that no two copies are equal."""
    arrays = {}
    for name, deviation in _SPREADS.items():
        values = getattr(splats, name)
        noise = generator.standard_normal(values.shape, np.float32)
        arrays[name] = values + noise * np.float32(deviation)
    return replace(splats, **arrays)


def make(count: int, path: Path, model: Path) -> None:
    """Writes the big model. Its rows come from random copies, as those of a trained model do:
    neighbours in the file are no neighbours in space."""
    splats = read_ply(model)
    coefficients = splats.features_rest.shape[1]
    with ply_parts(path, count, coefficients, SplatMetadata()) as writer:
        for part in copies(splats, count):
            writer.add(part)


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("model", type=Path, nargs="?", default=DATA / PLYS["snowmiku"])
    args = parser.parse_args()
    make(args.count, args.path, args.model)


if __name__ == "__main__":
    main()
