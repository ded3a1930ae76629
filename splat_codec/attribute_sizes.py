# SPDX-License-Identifier: Apache-2.0
"""The bytes of each attribute in a version-2 file."""

from collections.abc import Iterator

import numpy as np

from splat_codec.grid_file import record_layers
from splat_codec.grid_splats import GridSplats
from splat_codec.histograms import Counts, design_tables
from splat_codec.layer_model import used_groups
from splat_codec.owners import low_bits
from splat_codec.rans import PROBABILITY_ONE

# Families of planes (layer_model.py) by what they describe.
_FAMILIES = {
    "xyz": ("octree", "repeats"),
    "opacity": ("opacity",),
    "scaling": ("scale",),
    "precision": ("precision",),
    "rotation": ("rotation",),
    "features_dc": ("dc",),
    "features_rest": ("sh", "groups", "owner"),
}


def bytes_by_attribute(model: GridSplats) -> dict[str, float]:
    """Code lengths in bytes under the file's own tables, without the container and the tables."""
    sizes = dict.fromkeys(_FAMILIES, 0.0)
    for family, _, bits in code_lengths(model):
        owner = next(name for name, families in _FAMILIES.items() if family in families)
        sizes[owner] += bits / 8
    grid = model.grids.position
    dropped = grid.shift.apply(model.precision, *model.scale.T)
    low_bits = 3 * int((grid.bits - grid.coarse_bits - dropped).sum())
    signs = np.count_nonzero(model.sh)
    sizes["features_rest"] += (signs + _plain_bits_of_owners(model)) / 8
    sizes["xyz"] += low_bits / 8
    return sizes


def _plain_bits_of_owners(model: GridSplats) -> int:
    if not len(model.shared):
        return 0
    owners = (used_groups(model.sh) > 0).cumsum()[np.array(model.layer_ends) - 1]
    rows = np.diff(np.searchsorted(model.shared.rows, model.layer_ends), prepend=0)
    return sum(int(n) * low_bits(int(o)) for n, o in zip(rows, owners, strict=True))


def code_lengths(model: GridSplats) -> Iterator[tuple[str, Counts, float]]:
    """The family, the token counts and the bits of all tokens of each plane."""
    counts = record_layers(model).families.counts()
    tables = design_tables(counts)
    first = 0
    for family, plane in counts:
        rows = tables.frequencies[tables.context_map[first : first + len(plane)]]
        first += len(plane)
        used = plane > 0
        bits = -(plane[used] * np.log2(rows[used] / PROBABILITY_ONE)).sum()
        yield family, plane, float(bits)
