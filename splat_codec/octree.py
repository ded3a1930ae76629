# SPDX-License-Identifier: Apache-2.0
"""Coarse positions as an octree, level by level from the root: which children hold Gaussians.

A node's symbol is the set of its occupied children, coded under the level and the number of its
occupied siblings (the breadth-first octree of point-cloud coding: Schnabel and Klein 2006).
"""

import numpy as np
import numpy.typing as npt

from splat_codec.contexts import Values
from splat_codec.errors import CorruptFile
from splat_codec.planes import PlaneCoder

Codes = npt.NDArray[np.int64]

_SET_SIZE = np.array([bin(children).count("1") for children in range(256)], np.int32)


def code_octree(coder: PlaneCoder, levels: int, count: int, codes: Codes | None) -> Codes:
    """Sorted Morton codes (count,) of 3 x `levels` bits; written if given, else read."""
    if not count:
        return np.zeros(0, np.int64)
    nodes = np.zeros(1, np.int64)
    siblings = np.ones(1, np.int32)
    for level in range(levels):
        children = None if codes is None else _occupied(codes >> 3 * (levels - 1 - level), nodes)
        symbols = coder.plane(
            f"octree{level}", 8, siblings - 1, None if children is None else children - 1
        )
        if len(symbols) and (symbols.max() > 254 or _SET_SIZE[symbols + 1].sum() > count):
            raise CorruptFile("octree", f"level {level} has more nodes than Gaussians")
        nodes, siblings = _descend(nodes, symbols + 1)
    repeats = None
    if codes is not None:
        repeats = np.unique(codes, return_counts=True)[1].astype(np.int32) - 1
    repeats = coder.plane("repeats", 8, siblings - 1, repeats)
    if (repeats.astype(np.int64) + 1).sum() != count:
        raise CorruptFile("octree", f"its leaves do not hold {count} Gaussians")
    return np.repeat(nodes, repeats + 1)


def _occupied(children: Codes, nodes: Codes) -> Values:
    """The set of occupied children, one bit each, of every node."""
    distinct = children[np.r_[True, np.diff(children) != 0]]
    starts = np.searchsorted(distinct >> 3, nodes)
    return np.bitwise_or.reduceat(1 << (distinct & 7), starts).astype(np.int32)


def _descend(nodes: Codes, children: Values) -> tuple[Codes, Values]:
    """The occupied nodes of the next level, and each one's number of siblings, itself included."""
    bits = np.unpackbits(children.astype(np.uint8)[:, None], axis=1, bitorder="little")
    parent, child = np.nonzero(bits)
    return (nodes[parent] << 3) | child, _SET_SIZE[children][parent]
