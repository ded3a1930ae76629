# SPDX-License-Identifier: Apache-2.0
"""Small models with the numbers of real ones, for tests of formats, and files of other programs."""

from pathlib import Path

import numpy as np
import pytest

from splat_formats.scene import Written
from splat_formats.splats import Splats

VECTORS = Path(__file__).parents[1].parent / "shared" / "data" / "vectors"
FIXTURES = VECTORS / "fixtures_splat-transform"

needs_vectors = pytest.mark.skipif(not VECTORS.exists(), reason="no ../shared/data/vectors")


def model(count: int, degree: int, seed: int = 0) -> Splats:
    """Gaussians within the ranges of all formats."""
    rng = np.random.default_rng(seed)
    rest = (degree + 1) ** 2 - 1

    def normal(*shape: int, size: float, most: float) -> np.ndarray:
        drawn = np.clip(rng.normal(size=(count, *shape)) * size, -most, most)
        return drawn.astype(np.float32)

    return Splats(
        xyz=normal(3, size=2.0, most=100),
        features_dc=normal(1, 3, size=0.7, most=1.7),
        features_rest=normal(rest, 3, size=0.2, most=0.99),
        opacity=normal(1, size=2.0, most=9),
        scaling=normal(3, size=1.0, most=4) - np.float32(4),
        rotation=normal(4, size=1.0, most=9),
    )


def rows_of(written: Written) -> np.ndarray:
    """The rows that a writer of another order reported."""
    assert written.rows is not None
    return written.rows
