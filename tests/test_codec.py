# SPDX-License-Identifier: Apache-2.0
"""Version 1 of the file: round trips, quantisers, Morton order, and damaged files."""

import lzma
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.errors import CorruptFile
from splat_codec.lzma_streams import compress_symbols, decompress_symbols
from splat_codec.model_file import (
    SECTION_NAMES,
    ModelFile,
    bytes_per_section,
    decode,
    encode,
    in_file_order,
)
from splat_codec.order import morton_codes, morton_order
from splat_codec.quantizers import (
    EvenGrids,
    Float16,
    Float32,
    affine_with_zero,
    grid_over,
)
from splat_codec.symbols import (
    QuantizedAttribute,
    QuantizedSplats,
    attribute_channels,
    same_symbols,
)


def random_model(count: int, sh_degree: int, seed: int = 0) -> QuantizedSplats:
    generator = np.random.default_rng(seed)
    quantizers = {
        "xyz": Float32(),
        "opacity": Float16(),
        "scaling": Float16(),
        "rotation": Float16(),
        "features_dc": affine_with_zero(-1.5, 2.0, 256),
        "features_rest": affine_with_zero(-0.5, 0.25, 256),
    }
    return QuantizedSplats(
        sh_degree,
        {
            name: QuantizedAttribute(
                quantizers[name].quantize(
                    generator.normal(size=(count, channels)).astype(np.float32)
                ),
                quantizers[name],
            )
            for name, channels in attribute_channels(sh_degree).items()
        },
    )


@pytest.mark.parametrize("sh_degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 2, 777])
def test_round_trip(count: int, sh_degree: int) -> None:
    model = in_file_order(random_model(count, sh_degree))
    back = decode(encode(ModelFile(model, {"source": "test"})))
    assert same_symbols(back.splats, model)
    assert back.metadata == {"source": "test"}
    assert back.splats.count == count


def test_bytes_depend_on_symbols_only() -> None:
    model = in_file_order(random_model(50, 2))
    assert encode(ModelFile(model)) == encode(ModelFile(in_file_order(random_model(50, 2))))


def test_same_symbols_is_false_for_unequal_models() -> None:
    model, other = random_model(5, 1), random_model(5, 1, seed=1)
    assert not same_symbols(model, other)
    assert not same_symbols(model, random_model(5, 0))


def test_section_sizes_add_up_to_the_file() -> None:
    data = encode(ModelFile(random_model(40, 1), {"a": 1}))
    assert sum(bytes_per_section(data).values()) == len(data)


def test_every_truncation_is_refused() -> None:
    data = encode(ModelFile(random_model(20, 1)))
    for length in range(len(data)):
        with pytest.raises(CorruptFile):
            decode(data[:length])
    with pytest.raises(CorruptFile, match="left over"):
        decode(data + b"\0")


def test_every_bit_flip_is_refused() -> None:
    data = encode(ModelFile(random_model(6, 1), {"note": "x"}))
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptFile):
                decode(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_decode(data: bytes) -> None:
    with pytest.raises(CorruptFile):
        decode(data)


def test_a_false_header_with_valid_checksums_is_refused() -> None:
    sections = dict(unpack_container(encode(ModelFile(random_model(4, 0)))).sections)
    many = (2**20).to_bytes(4, "little") + sections["model"][4:]
    with pytest.raises(CorruptFile, match="xyz"):
        decode(pack_container(Container(1, {**sections, "model": many})))
    beyond = (2**21).to_bytes(4, "little") + sections["model"][4:]
    with pytest.raises(CorruptFile, match="at most"):
        decode(pack_container(Container(1, {**sections, "model": beyond})))
    degree = sections["model"][:4] + b"\x04" + sections["model"][5:]
    with pytest.raises(CorruptFile, match="SH degree 4"):
        decode(pack_container(Container(1, {**sections, "model": degree})))
    with pytest.raises(CorruptFile, match="version 9"):
        decode(pack_container(Container(9, sections)))
    with pytest.raises(CorruptFile, match="unknown section"):
        decode(pack_container(Container(1, {**sections, "extra": b""})))
    without = {name: data for name, data in sections.items() if name != "opacity"}
    with pytest.raises(CorruptFile, match=r"opacity.*missing"):
        decode(pack_container(Container(1, without)))
    with pytest.raises(CorruptFile, match="JSON"):
        decode(pack_container(Container(1, {**sections, "meta": b"[" * 100_000})))


def test_a_symbol_outside_its_grid_is_refused() -> None:
    model = random_model(4, 0)
    grid = EvenGrids((0.0,), (1.0,), 100)
    attribute = QuantizedAttribute(np.full((4, 3), 99, np.uint8), grid)
    whole = QuantizedSplats(0, {**model.attributes, "features_dc": attribute})
    sections = dict(unpack_container(encode(ModelFile(whole))).sections)
    sections["shdc"] = compress_symbols(np.full((4, 3), 100, np.uint8))
    with pytest.raises(CorruptFile, match="shdc"):
        decode(pack_container(Container(1, sections)))


def test_a_small_file_gets_no_memory_for_millions_of_gaussians() -> None:
    """A few kilobytes of LZMA hold the symbols of 2^22 Gaussians, if these are all equal."""
    count = 2**22
    sections = dict(unpack_container(encode(ModelFile(random_model(4, 0)))).sections)
    changed = {"model": count.to_bytes(4, "little") + sections["model"][4:]}
    for name, attribute in random_model(4, 0).attributes.items():
        width = attribute.symbols.shape[1] * attribute.symbols.itemsize
        chain = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
        stream = lzma.compress(bytes(count * width), check=lzma.CHECK_NONE, filters=chain)
        changed[SECTION_NAMES[name]] = stream
    data = pack_container(Container(1, {**sections, **changed}))
    assert len(data) < 2**15
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile, match=f"{count} Gaussians, at most"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


NOT_FINITE = {
    "nan": (Float32(), "xyz", np.float32(np.nan).view(np.uint32)),
    "infinity": (Float32(), "scaling", np.float32(np.inf).view(np.uint32)),
    "half nan": (Float16(), "opacity", np.uint16(0x7E00)),
    "half minus infinity": (Float16(), "features_rest", np.uint16(0xFC00)),
}


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused(kind: str) -> None:
    quantizer, name, symbol = NOT_FINITE[kind]
    model = random_model(4, 1)
    symbols = np.zeros(model.attributes[name].symbols.shape, quantizer.dtype)
    sound = QuantizedAttribute(symbols, quantizer)
    whole = QuantizedSplats(1, {**model.attributes, name: sound})
    sections = dict(unpack_container(encode(ModelFile(whole))).sections)
    symbols[2, 0] = symbol
    sections[SECTION_NAMES[name]] = compress_symbols(symbols)
    with pytest.raises(CorruptFile, match="not finite"):
        decode(pack_container(Container(1, sections)))


def test_a_grid_beyond_float32_is_refused() -> None:
    model = random_model(4, 0)
    grid = EvenGrids((0.0,), (1.0,), 200)
    attribute = QuantizedAttribute(np.full((4, 3), 199, np.uint8), grid)
    whole = QuantizedSplats(0, {**model.attributes, "features_dc": attribute})
    sections = dict(unpack_container(encode(ModelFile(whole))).sections)
    step = struct.pack("<2f", 0.0, 1.0)
    assert sections["model"].count(step) == 1
    for pair in ((0.0, 3e38), (3e38, 1e36), (-3e38, 1e36)):
        changed = sections["model"].replace(step, struct.pack("<2f", *pair))
        with pytest.raises(CorruptFile, match=r"2\^127"):
            decode(pack_container(Container(1, {**sections, "model": changed})))


def test_a_stream_of_another_length_is_refused() -> None:
    stream = compress_symbols(np.zeros((10, 3), np.uint16))
    for count in (9, 11):
        with pytest.raises(CorruptFile):
            decompress_symbols(stream, count, 3, np.dtype("<u2"), "x")
    with pytest.raises(CorruptFile):
        decompress_symbols(stream + b"\0\0\0\0", 10, 3, np.dtype("<u2"), "x")


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4"])
def test_streams_of_every_width(dtype: str) -> None:
    symbols = np.random.default_rng(0).integers(0, 200, (33, 5)).astype(dtype)
    back = decompress_symbols(compress_symbols(symbols), 33, 5, np.dtype(dtype), "x")
    np.testing.assert_array_equal(back, symbols)


def test_zero_is_exact_on_an_affine_grid() -> None:
    for low, high in [(-0.37, 1.91), (0.2, 0.9), (-3.0, -1.0), (0.0, 0.0)]:
        grid = affine_with_zero(low, high, 256)
        zero = np.zeros((1, 1), np.float32)
        assert grid.dequantize(grid.quantize(zero))[0, 0] == 0.0


@given(
    st.floats(-100, 100),
    st.floats(0.001, 50),
    st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=20),
)
def test_grid_error_is_half_a_step(low: float, extent: float, values: list[float]) -> None:
    bounds = np.float32([low]), np.float32([low + extent])
    grid = grid_over(*bounds, bits=12)
    rows = np.clip(np.float32(values)[:, None], *bounds)
    error = np.abs(grid.dequantize(grid.quantize(rows)) - rows)
    assert error.max() <= grid.step[0] * 0.5 + 4e-5 * max(1.0, abs(low))


def test_quantizing_decoded_values_changes_nothing() -> None:
    rows = np.random.default_rng(3).normal(size=(500, 3)).astype(np.float32)
    for quantizer in (Float32(), Float16(), grid_over(rows.min(0), rows.max(0), 16)):
        symbols = quantizer.quantize(rows)
        np.testing.assert_array_equal(quantizer.quantize(quantizer.dequantize(symbols)), symbols)


def test_half_precision_never_becomes_infinite() -> None:
    rows = np.float32([[1e30, -1e30]])
    assert np.isfinite(Float16().dequantize(Float16().quantize(rows))).all()


@pytest.mark.parametrize(
    ("minimum", "step", "levels"),
    [((0.0,), (0.0,), 4), ((0.0,), (float("nan"),), 4), ((0.0,), (1.0,), 1), ((0.0,), (), 4)],
)
def test_impossible_grids_are_refused(minimum: tuple, step: tuple, levels: int) -> None:
    with pytest.raises(ValueError, match="EvenGrids"):
        EvenGrids(minimum, step, levels)


def test_morton_codes_interleave_bits() -> None:
    cells = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [2**21 - 1] * 3], np.uint32)
    assert morton_codes(cells).tolist() == [1, 2, 4, 8, 2**63 - 1]


def test_morton_order_is_a_permutation_that_keeps_neighbours_close() -> None:
    points = np.random.default_rng(1).uniform(-5, 5, (4000, 3)).astype(np.float32)
    order = morton_order(points)
    assert sorted(order.tolist()) == list(range(4000))

    def mean_step(rows: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(rows, axis=0), axis=1).mean())

    assert mean_step(points[order]) < 0.3 * mean_step(points)


def test_morton_order_of_equal_points_keeps_their_order() -> None:
    assert morton_order(np.ones((5, 3), np.float32)).tolist() == [0, 1, 2, 3, 4]
