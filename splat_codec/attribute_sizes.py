# SPDX-License-Identifier: Apache-2.0
"""How many of a version-2 file's bytes each attribute takes."""

import numpy as np

from splat_codec.grid_file import record_layers
from splat_codec.grid_splats import GridSplats
from splat_codec.histograms import design_tables

# Families of planes (layer_model.py) by what they describe.
_FAMILIES = {
    "xyz": ("octree", "repeats"),
    "opacity": ("opacity",),
    "scaling": ("scale",),
    "precision": ("precision",),
    "rotation": ("rotation",),
    "features_dc": ("dc",),
    "features_rest": ("sh", "groups"),
}
_TABLE_TOTAL = 4096


def bytes_by_attribute(model: GridSplats) -> dict[str, float]:
    """Bytes in all, as code lengths under the file's own tables; container and tables are extra."""
    counts = record_layers(model).families.counts()
    tables = design_tables(counts)
    sizes = dict.fromkeys(_FAMILIES, 0.0)
    first = 0
    for family, plane in counts:
        rows = tables.frequencies[tables.context_map[first : first + len(plane)]]
        first += len(plane)
        met = plane > 0
        bits = -(plane[met] * np.log2(rows[met] / _TABLE_TOTAL)).sum()
        owner = next(name for name, families in _FAMILIES.items() if family in families)
        sizes[owner] += float(bits) / 8
    grid = model.grids.position
    dropped = grid.shift.apply(model.precision, *model.scale.T)
    low_bits = 3 * int((grid.bits - grid.coarse_bits - dropped).sum())
    sizes["features_rest"] += np.count_nonzero(model.sh) / 8  # signs
    sizes["xyz"] += low_bits / 8
    return sizes
