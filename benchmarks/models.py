# SPDX-License-Identifier: Apache-2.0
"""The trained models that the codec is measured on, in one folder (`--data DIR`). NumPy only."""

from pathlib import Path

import numpy as np

from splat_formats.ply import read_ply
from splat_formats.splats import Splats

DATA = Path(__file__).parents[1].parent / "shared" / "data"

PLYS = {
    "snowmiku": "snowmiku_model/point_cloud/iteration_12000/point_cloud.ply",
    "fox": "fox_model/point_cloud/iteration_10000/point_cloud.ply",
    "playbot": "playbot_model/point_cloud/iteration_30000/point_cloud.ply",
}
PHOTOGRAPHS = {"snowmiku": "snowmiku", "fox": "fox"}
"""The data set folder of each model that has one."""

MILLION = 1_000_000
_SPREADS = {"xyz": 0.02, "features_dc": 0.02, "features_rest": 0.005, "opacity": 0.1,
            "scaling": 0.05, "rotation": 0.02}  # fmt: skip


def read_model(data: Path, name: str) -> Splats:
    """The model of that name."""
    return read_ply(data / PLYS[name])


def repeated(splats: Splats, count: int) -> Splats:
    """`count` Gaussians: the model repeated, with small random changes."""
    generator = np.random.default_rng(0)
    rows = np.arange(count) % splats.count
    arrays = {}
    for name, deviation in _SPREADS.items():
        values = getattr(splats, name)[rows]
        noise = generator.standard_normal(values.shape, np.float32) * np.float32(deviation)
        arrays[name] = values + noise
    return Splats(**arrays)
