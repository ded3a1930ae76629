# SPDX-License-Identifier: Apache-2.0
"""Single parts of the codec: planes, plain bits, rANS, blocks of rows."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_codec import kernels
from splat_codec.blocks import for_blocks
from splat_codec.contexts import (
    ENERGY_LAST_GROUP,
    MAX_VALUE,
    Neighbour,
    first_energy_keys,
)
from splat_codec.errors import CorruptFile
from splat_codec.grids import LinearRule
from splat_codec.histograms import design_tables
from splat_codec.planes import (
    MAX_SH_MAGNITUDE,
    ContextBases,
    Families,
    PlaneCoder,
    PlaneReader,
    PlaneWriter,
)
from splat_codec.rans import DecodeTable
from tests.both_kernels import BOTH, using

BINS = np.searchsorted([1, 3, 10, 30], np.arange(31), side="right").astype(np.uint8)
Content = dict[str, np.ndarray]


def content_of(count: int, seed: int, greatest: int) -> Content:
    """Values of all sizes up to `greatest`, contexts, widths and shifts."""
    generator = np.random.default_rng(seed)

    def values(most: int) -> np.ndarray:
        return (generator.random(count) ** 8 * most).astype(np.int32)

    widths = generator.integers(0, 22, count).astype(np.int32)
    return {
        "plain": values(greatest),
        "near": values(greatest),
        "contexts": generator.integers(0, 3, count).astype(np.int32),
        "shifts": generator.integers(0, 16, count).astype(np.int32),
        "widths": widths,
        "bits": generator.integers(0, 2**22, count).astype(np.int32) & ((1 << widths) - 1),
        "signed": values(min(greatest, MAX_SH_MAGNITUDE)).astype(np.int16)
        * generator.choice([-1, 1], count).astype(np.int16),
        "neighbours": generator.integers(0, 30, count).astype(np.int32),
    }


def code(coder: PlaneCoder, content: Content, written: Content | None) -> Content:
    """All kinds of planes, written if given."""

    def part(name: str) -> np.ndarray | None:
        return None if written is None else written[name]

    count = len(content["contexts"])
    neighbour = Neighbour(BINS, 5, 3)
    contexts, shifts = content["contexts"], content["shifts"]
    found = {
        "plain": coder.plane("plain", 3, contexts, part("plain")),
        "near": coder.neighbour_plane("near", 3, contexts, shifts, neighbour, part("near")),
        "bits": coder.bits(content["widths"], part("bits")),
    }
    signed = np.zeros(count, np.int16) if written is None else written["signed"].copy()
    keys = first_energy_keys(content["neighbours"])
    coder.signed_plane("first", keys, signed)
    again = signed if written is not None else signed.copy()
    keys[count // 2 :] += ENERGY_LAST_GROUP
    coder.signed_plane("second", keys, again)
    return {**found, "signed": signed, "again": again}


def streams_of(content: Content, lanes: int) -> tuple[bytes, bytes, ContextBases, DecodeTable]:
    families = Families()
    writer = PlaneWriter(lanes, families)
    code(writer, content, content)
    tables = design_tables(families.counts())
    bases = ContextBases(tables, "tables")
    return writer.rans_bytes(tables), writer.bit_bytes(), bases, DecodeTable.of(tables.frequencies)


LANES = st.sampled_from([1, 2, 8, 64])
KERNELS = st.sampled_from(BOTH)
SIZES = st.sampled_from([0, 1, 300, MAX_VALUE])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(0, 10**6), SIZES, LANES, KERNELS, KERNELS)
def test_planes_of_every_kind_round_trip(
    count: int,
    seed: int,
    greatest: int,
    lanes: int,
    writing: kernels.Kernels,
    reading: kernels.Kernels,
) -> None:
    content = content_of(count, seed, greatest)
    with using(writing):
        rans, bits, bases, table = streams_of(content, lanes)
    with using(reading):
        reader = PlaneReader((rans, bits), lanes, (bases, table), 0)
        found = code(reader, content, None)
    reader.finish()
    bases.finish()
    for name in ("plain", "near", "bits", "signed"):
        np.testing.assert_array_equal(found[name], content[name], err_msg=name)
    np.testing.assert_array_equal(found["again"], content["signed"])


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans(), LANES, KERNELS)
def test_a_stream_cut_anywhere_is_refused(
    data: st.DataObject, of_rans: bool, lanes: int, used: kernels.Kernels
) -> None:
    content = content_of(100, 5, 1000)
    rans, bits, bases, table = streams_of(content, lanes)
    if of_rans:
        rans = rans[: data.draw(st.integers(0, len(rans) - 1))]
    else:
        bits = bits[: data.draw(st.integers(0, len(bits) - 1))]
    with using(used), pytest.raises(CorruptFile):
        reader = PlaneReader((rans, bits), lanes, (bases, table), 0)
        code(reader, content, None)
        reader.finish()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 7), KERNELS)
def test_a_bit_flip_in_rans_is_refused_or_changes_the_tokens(
    data: st.DataObject, bit: int, used: kernels.Kernels
) -> None:
    """A flip changes the final states or the tokens."""
    tokens = (np.random.default_rng(1).random(200) ** 2 * 9).astype(np.uint8)
    histograms = np.zeros(1, np.uint8)
    tables = design_tables([("a", np.bincount(tokens, minlength=256)[None].astype(float))])
    encoder = used.encoder(4, tables.frequencies)
    encoder.plane_before(histograms, np.zeros(200, np.uint16), tokens)
    stream = bytearray(encoder.finish())
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << bit
    table = DecodeTable.of(tables.frequencies)
    try:
        decoder = used.decoder(bytes(stream), 4, table, "x")
        found = decoder.plane(histograms, np.zeros(200, np.int32))
        decoder.finish()
    except CorruptFile:
        return
    assert not np.array_equal(found, tokens)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4095), st.integers(0, 10**6))
def test_the_encoders_division_is_exact(frequency: int, seed: int) -> None:
    """At the greatest states, multiples of the frequency and their neighbours among them."""
    most = (frequency << 20) - 1
    quotients = np.random.default_rng(seed).integers(0, most // frequency + 1, 200)
    states = np.r_[quotients * frequency, quotients * frequency - 1, most].clip(2**16, most)
    narrow = states.astype(np.uint32)
    found = (narrow / np.full(len(states), frequency, np.uint32)).astype(np.uint32)
    np.testing.assert_array_equal(found, states // frequency)


@pytest.mark.parametrize("used", BOTH, ids=lambda used: used.name)
def test_tokens_of_every_frequency_round_trip(used: kernels.Kernels) -> None:
    tokens = np.repeat(np.arange(13), 2 ** np.arange(13)).astype(np.uint8)
    frequencies = np.zeros((2, 256), np.uint32)
    frequencies[0, :13] = np.r_[1, 2 ** np.arange(12)]
    frequencies[1, 7] = 4096
    histograms, certain = np.arange(2, dtype=np.uint8), np.full(999, 7, np.uint8)
    encoder = used.encoder(2, frequencies)
    encoder.plane_before(histograms, np.ones(999, np.uint16), certain)
    encoder.plane_before(histograms, np.zeros(len(tokens), np.uint16), tokens)
    stream = encoder.finish()
    decoder = used.decoder(stream, 2, DecodeTable.of(frequencies), "x")
    found = decoder.plane(histograms, np.zeros(len(tokens), np.int32))
    np.testing.assert_array_equal(found, tokens)
    np.testing.assert_array_equal(decoder.plane(histograms, np.ones(999, np.int32)), certain)
    decoder.finish()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_blocks_cover_all_rows_once(count: int) -> None:
    seen = np.zeros(count, np.int32)
    lock = threading.Lock()

    def visit(block: slice) -> None:
        with lock:
            assert 0 < block.stop - block.start <= 8
            seen[block] += 1

    for_blocks(count, visit, size=8)
    assert (seen == 1).all()


def test_a_fault_in_a_block_is_raised() -> None:
    def fail(block: slice) -> None:
        raise CorruptFile("x", str(block.start))

    with pytest.raises(CorruptFile):
        for_blocks(100, fail, size=8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40_000), st.integers(0, 1000))
def test_rules_in_blocks_agree_with_whole_numbers(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rule = LinearRule(int(generator.integers(-(2**31), 2**31)), (2**30, -(2**31), 77), 15)
    terms = [generator.integers(0, 2**13, count).astype(np.int32) for _ in range(3)]
    exact = rule.bias + sum(
        f * t.astype(np.int64) for f, t in zip(rule.factors, terms, strict=True)
    )
    np.testing.assert_array_equal(rule.apply(*terms), np.clip(exact >> 16, 0, 15))
