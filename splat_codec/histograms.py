# SPDX-License-Identifier: Apache-2.0
"""Which contexts share a histogram, and the histograms: chosen by the writer, stored in the file.

A context summarises what is decoded before a token. There may be thousands, most of them rare or
similar; each is mapped to one of at most 255 histograms (the idea of Brotli and JPEG XL).

The choice is made in integers (and in floats that hold integers below 2^53, whose sums are exact in
any order): every processor and every build of NumPy gives the same tables for the same counts.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import small_products
from splat_codec.errors import CorruptFile
from splat_codec.exact_log import LOG_ONE, log2_fixed
from splat_codec.rans import PROBABILITY_ONE, Frequencies

MAX_HISTOGRAMS = 255
MAX_CONTEXTS = 1 << 16

Counts = npt.NDArray[np.int64]
Costs = npt.NDArray[np.int64]
"""Bits, in units of 1 / LOG_ONE."""

# The size of a histogram in the file, to compare with the bits that it saves.
_COST_OF_ENTRY = 9 * LOG_ONE
_COST_OF_HISTOGRAM = 24 * LOG_ONE
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Tables:
    """What the coder needs before its first token."""

    context_map: npt.NDArray[np.uint8]
    """(C,) histogram of each context."""
    frequencies: Frequencies
    """(H, 256), each row with sum 2^12."""


def design_tables(plane_counts: Sequence[tuple[str, Counts]]) -> Tables:
    """The tables for the token counts (C, 256) of each plane's contexts, in file order.

    A plane comes with its family's name; contexts of different families share no histogram.
    """
    families = {family for family, _ in plane_counts}
    most = min(48, MAX_HISTOGRAMS // max(1, len(families)))
    maps: dict[int, npt.NDArray[np.intp]] = {}
    histograms = [np.zeros((0, 256), np.int64)]
    used = 0
    for family in sorted(families):
        members = [i for i, (name, _) in enumerate(plane_counts) if name == family]
        counts = np.concatenate([plane_counts[i][1] for i in members])
        assignment = _cluster(counts, most)
        ends = np.cumsum([len(plane_counts[i][1]) for i in members])[:-1]
        maps.update(zip(members, np.split(assignment + used, ends), strict=True))
        histograms.append(_sum_by(counts, assignment))
        used += len(histograms[-1])
    context_map = np.concatenate([np.zeros(0, np.intp), *(maps[i] for i in sorted(maps))])
    frequencies = [_to_frequencies(row) for row in np.concatenate(histograms)]
    return Tables(context_map.astype(np.uint8), np.array(frequencies, np.uint32).reshape(-1, 256))


def pack_tables(tables: Tables) -> bytes:
    """The tables as the file holds them, before compression (docs/format.md, "tables")."""
    lengths = 256 - np.argmax(tables.frequencies[:, ::-1] > 0, axis=1)
    entries = np.concatenate(
        [row[:n] for row, n in zip(tables.frequencies, lengths, strict=True)]
        or [np.zeros(0, np.uint32)]
    )
    head = np.array([len(tables.context_map), len(lengths)], "<u4").tobytes()
    return b"".join(
        [
            head,
            tables.context_map.tobytes(),
            (lengths - 1).astype(np.uint8).tobytes(),
            (entries & 0xFF).astype(np.uint8).tobytes(),
            (entries >> 8).astype(np.uint8).tobytes(),
        ]
    )


def unpack_tables(data: bytes, section: str) -> Tables:
    """The inverse of pack_tables; CorruptFile if the bytes are not valid."""
    if len(data) < 8:
        raise CorruptFile(section, f"cut short: {len(data)} bytes")
    contexts, histograms = (int(n) for n in np.frombuffer(data, "<u4", 2))
    if contexts > MAX_CONTEXTS or histograms > MAX_HISTOGRAMS:
        raise CorruptFile(section, f"{contexts} contexts, {histograms} histograms: beyond limits")
    body = np.frombuffer(data, np.uint8, offset=8)
    if len(body) < contexts + histograms:
        raise CorruptFile(section, f"cut short: {len(data)} bytes")
    context_map, lengths = body[:contexts], body[contexts : contexts + histograms].astype(int) + 1
    entries = body[contexts + histograms :].astype(np.uint32)
    if len(entries) != 2 * lengths.sum():
        raise CorruptFile(
            section, f"{len(entries)} bytes of histograms, {2 * lengths.sum()} expected"
        )
    low, high = np.split(entries, 2)
    frequencies = np.zeros((histograms, 256), np.uint32)
    frequencies[np.arange(256) < lengths[:, None]] = low | high << 8
    if histograms and (frequencies.sum(axis=1) != PROBABILITY_ONE).any():
        raise CorruptFile(section, "a histogram's frequencies do not add up to 4096")
    if contexts and (not histograms or context_map.max() >= histograms):
        raise CorruptFile(section, "a context has no histogram")
    return Tables(context_map, frequencies)


def inflate(data: bytes, limit: int, section: str) -> bytes:
    """The content of a zlib stream of at most `limit` bytes; CorruptFile otherwise."""
    decoder = zlib.decompressobj()
    try:
        content = decoder.decompress(data, limit + 1)
    except zlib.error as error:
        raise CorruptFile(section, str(error)) from error
    if len(content) > limit or not decoder.eof or decoder.unused_data:
        raise CorruptFile(section, f"no complete zlib stream of at most {limit} bytes")
    return content


def _to_frequencies(counts: Counts) -> npt.NDArray[np.int64]:
    """Integers with sum 2^12, nearly proportional to `counts`; 0 only where the count is 0."""
    if not counts.any():
        return np.eye(1, 256, dtype=np.int64)[0] * PROBABILITY_ONE
    exact = counts / counts.sum() * PROBABILITY_ONE
    frequencies = np.where(counts > 0, np.maximum(1, np.rint(exact)), 0).astype(np.int64)
    while (surplus := int(frequencies.sum()) - PROBABILITY_ONE) != 0:
        # Change the entries where one more or one less costs the fewest bits.
        change = -1 if surplus > 0 else 1
        allowed = frequencies > (1 if surplus > 0 else 0)
        cost = np.full(256, _NEVER)
        before, after = frequencies[allowed], frequencies[allowed] + change
        cost[allowed] = counts[allowed] * (log2_fixed(before) - log2_fixed(after))
        best = np.argsort(cost, kind="stable")[: min(abs(surplus), int(allowed.sum()))]
        frequencies[best] += change
    return frequencies


def _cluster(counts: Counts, most: int) -> npt.NDArray[np.intp]:
    """Cluster number (C,) of each context; numbers are dense from 0."""
    used = np.flatnonzero(counts.sum(axis=1))
    assignment = np.zeros(len(counts), np.intp)
    if not len(used):
        return assignment
    tokens = np.flatnonzero(counts.any(axis=0))
    rows = counts[np.ix_(used, tokens)]
    labels = _spread_out(rows, most)
    for _ in range(4):
        centres = _sum_by(rows, labels)
        labels = _dense(_cost_under(rows, centres).argmin(axis=1))
    assignment[used] = _merge(_sum_by(rows, labels))[labels]
    return assignment


def _spread_out(rows: Counts, most: int) -> npt.NDArray[np.intp]:
    """A first clustering: each new centre is the context that the other centres fit worst."""
    centre = int(rows.sum(axis=1).argmax())
    best = _cost_under(rows, rows[[centre]])[:, 0]
    labels = np.zeros(len(rows), np.intp)
    own = _own_cost(rows)
    for number in range(1, min(most, len(rows))):
        centre = int((best - own).argmax())
        if best[centre] - own[centre] < _COST_OF_HISTOGRAM:
            break
        cost = _cost_under(rows, rows[[centre]])[:, 0]
        labels[cost < best] = number
        best = np.minimum(best, cost)
    return _dense(labels)


def _merge(centres: Counts) -> npt.NDArray[np.intp]:
    """New cluster numbers after merging those that are not worth a histogram of their own."""
    groups = [[k] for k in range(len(centres))]
    sums = centres.copy()
    costs = _stored_cost(sums)
    gain = np.full((len(centres), len(centres)), -_NEVER)
    for i in range(len(centres)):
        gain[i, :i] = costs[i] + costs[:i] - _stored_cost(sums[i] + sums[:i])
    while gain.size and gain.max() > 0:
        i, j = (int(n) for n in np.unravel_index(gain.argmax(), gain.shape))
        groups[j] += groups[i]
        sums[j] += sums[i]
        groups[i] = []
        costs[[j]] = _stored_cost(sums[[j]])
        gain[i, :] = gain[:, i] = -_NEVER
        others = np.array([k for k, group in enumerate(groups) if group and k != j], np.intp)
        pairs = np.maximum(others, j), np.minimum(others, j)
        gain[pairs] = costs[j] + costs[others] - _stored_cost(sums[j] + sums[others])
    labels = np.zeros(len(centres), np.intp)
    for number, group in enumerate(group for group in groups if group):
        labels[group] = number
    return labels


def _stored_cost(rows: Counts) -> Costs:
    """The cost (C,) of each row's tokens under their own histogram, and of the histogram."""
    return _own_cost(rows) + _COST_OF_HISTOGRAM + _COST_OF_ENTRY * np.count_nonzero(rows, axis=1)


def _own_cost(rows: Counts) -> Costs:
    """The cost (C,) of each context's tokens under their own histogram."""
    totals = rows.sum(axis=1, keepdims=True)
    logs = log2_fixed(np.maximum(totals, 1)) - log2_fixed(np.maximum(rows, 1))
    return (rows * logs).sum(axis=1)


def _cost_under(rows: Counts, centres: Counts) -> Costs:
    """The cost (C, K) of each context's tokens under each centre's histogram, slightly flattened.

    A context has at most 2^27 tokens, whose logarithms are below 2^6: the sums stay below 2^53,
    and the product in float64, which is fast, is exact.
    """
    flattened = 1024 * centres + centres.sum(axis=1, keepdims=True) // centres.shape[1] + 1
    logs = log2_fixed(flattened.sum(axis=1, keepdims=True)) - log2_fixed(flattened)
    return small_products(rows.astype(np.float64), logs.T.astype(np.float64)).astype(np.int64)


def _sum_by(rows: Counts, labels: npt.NDArray[np.intp]) -> Counts:
    """The sum of the rows of each label; the labels, at least one, are dense from 0."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    return np.add.reduceat(rows[order], starts)


def _dense(labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    return np.unique(labels, return_inverse=True)[1].reshape(-1)
