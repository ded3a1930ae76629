# SPDX-License-Identifier: Apache-2.0
"""Rows of SH that occur several times: the file holds them once, where this makes it smaller.

Models decoded from formats with a palette of SH (SOG, for example) consist of such rows.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from splat_codec.exact_values import FIRST_CHANNELS
from splat_codec.grid_file import pack_grid_splats
from splat_codec.grid_splats import GridSplats
from splat_codec.layer_model import used_groups
from splat_codec.shared_sh import SharedSh
from splat_formats.palettes import row_hashes, same_bits
from splat_formats.splats import FloatArray

FEWEST = 0.01
"""Part of the Gaussians that has to repeat others' SH.

Fewer cannot make a file much smaller, and each attempt encodes it twice.
"""

_FIRST_CHANNELS = 3  # in ordinary models, these alone show that no row repeats


def with_shared_sh(splats: GridSplats, sh: FloatArray) -> GridSplats:
    """The model, or the same with its repeated SH stored once, whichever file is smaller.

    `splats` in file order; `sh` (N, C): its SH before rounding, in the same order.
    """
    shared = repeated_sh(splats, sh)
    if len(shared) < _fewest(splats.count):
        return splats
    symbols = splats.sh.copy()
    symbols[shared.rows] = 0
    candidate = replace(splats, sh=symbols, shared=shared)
    return min(splats, candidate, key=_bytes)


def may_repeat(sh: FloatArray) -> bool:
    """Whether `with_shared_sh` could find enough equal rows among SH (N, C), in whatever order."""
    hashes = np.sort(row_hashes(sh[:, :_FIRST_CHANNELS]))
    return int(np.count_nonzero(hashes[1:] == hashes[:-1])) >= _fewest(len(sh))


def repeated_sh(splats: GridSplats, sh: FloatArray) -> SharedSh:
    """Gaussians whose SH `sh` (N, C) are those of another one, and the one to store.

    This is the one with the finest precision, and of these the first: then all others get at least
    the precision that they need, and no owner is in a later layer, because layers are in the order
    of precision. Left out: rows that round to 0, and those of which a part is stored exactly.
    """
    is_plain = used_groups(splats.sh) > 0
    is_plain[splats.exact.rows[splats.exact.channels >= FIRST_CHANNELS["features_rest"]]] = False
    (rows,) = is_plain.nonzero()
    rows = rows[_is_repeated(row_hashes(sh[rows, :_FIRST_CHANNELS]))]
    hashes = row_hashes(sh[rows])
    order = np.lexsort((rows, splats.precision[rows], hashes))
    owners = rows[order][_starts_of_runs(hashes[order])]
    rows = rows[order]
    other = (rows != owners).nonzero()[0]
    other = other[same_bits(sh[rows[other]], sh[owners[other]])]
    return SharedSh.of(rows[other], owners[other])


def _is_repeated(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """(n,): whether a value occurs more than once."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse.reshape(-1)] > 1


def _starts_of_runs(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """(n,): where the run of equal values begins to which each value belongs."""
    places = np.arange(len(values))
    places[1:][values[1:] == values[:-1]] = 0
    return np.maximum.accumulate(places)


def _fewest(count: int) -> float:
    return max(1, FEWEST * count)


def _bytes(splats: GridSplats) -> int:
    return sum(len(section) for section in pack_grid_splats(splats).values())
