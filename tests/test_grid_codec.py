# SPDX-License-Identifier: Apache-2.0
"""Version 2 of the file: round trips, the second decoder, damage."""

import struct
import tracemalloc
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_codec import kernels
from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.contexts import MAX_VALUE, TOKEN_BASE, tokens_of
from splat_codec.errors import CorruptFile
from splat_codec.exact_values import ExactValues
from splat_codec.grid_splats import GridSplats, same_integers
from splat_codec.grids import EvenGrid
from splat_codec.histograms import design_tables, pack_tables, unpack_tables
from splat_codec.layer_model import used_groups
from splat_codec.model_file import ModelFile, bytes_per_section, decode, encode
from splat_codec.rans import DecodeTable
from splat_codec.shared_sh import SharedSh
from splat_formats import design_grids
from splat_formats.axes import with_ordered_axes
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, GridSteps, quantize_splats
from splat_formats.splats import Splats
from tests.both_kernels import BOTH, using
from tests.f3dgs2_reader import read_model


def random_splats(count: int, sh_degree: int, seed: int = 0) -> Splats:
    """Gaussians on a wavy surface, with colours that vary slowly and a few far outliers."""
    generator = np.random.default_rng(seed)
    rest = (sh_degree + 1) ** 2 - 1
    xyz = generator.uniform(-1, 1, (count, 3))
    xyz[:, 2] = np.sin(3 * xyz[:, 0]) + generator.normal(0, 0.01, count)
    if count > 50:
        xyz[:3] *= 1e4
    arrays = {
        "xyz": xyz,
        "features_dc": np.sin(2 * xyz[:, None, :]) + generator.normal(0, 0.2, (count, 1, 3)),
        "features_rest": generator.laplace(0, 0.05, (count, rest, 3)),
        "opacity": generator.normal(0, 2, (count, 1)),
        "scaling": generator.normal(-4, 1, (count, 3)),
        "rotation": generator.normal(0, 1, (count, 4)),
    }
    return Splats(**{name: array.astype(np.float32) for name, array in arrays.items()})


def random_model(count: int, sh_degree: int, seed: int = 0, **options: float) -> GridSplats:
    precision = GridSteps(**options)
    return quantize_splats(random_splats(count, sh_degree, seed), precision).splats


def many_contexts() -> GridSplats:
    """A model whose histograms are many and full of ties: small counts of many tokens."""
    return random_model(500, 3, seed=11, sh_step=1 / 500, dc_step=1 / 300)


@pytest.mark.parametrize("sh_degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 2, 5, 777, 5000])
def test_round_trip(count: int, sh_degree: int) -> None:
    model = random_model(count, sh_degree)
    files = []
    for used in BOTH:
        with using(used):
            files.append(encode(ModelFile(model, {"source": "test"})))
            back = decode(files[0])
    assert files[0] == files[1]
    assert isinstance(back.splats, GridSplats)
    assert same_integers(back.splats, model)
    assert back.metadata == {"source": "test"}
    for name, values in model.values().items():
        np.testing.assert_array_equal(values, back.splats.values()[name])
        assert np.isfinite(values).all()


@pytest.mark.parametrize(("count", "sh_degree"), [(0, 3), (1, 0), (3, 1), (300, 3), (500, 2)])
def test_the_second_decoder_agrees_bit_for_bit(count: int, sh_degree: int) -> None:
    model = random_model(count, sh_degree, seed=count)
    assert_second_decoder_agrees(encode(ModelFile(model)))
    assert_second_decoder_agrees(encode(ModelFile(with_exact_values(model))))


def with_exact_values(model: GridSplats) -> GridSplats:
    """The model with a few numbers stored exactly, in all layers and channels."""
    rows, channels = np.meshgrid(
        np.arange(0, model.count, 7), np.arange(0, 7 + model.grids.sh_channels, 3), indexing="ij"
    )
    values = np.random.default_rng(0).normal(0, 1e6, rows.size)
    exact = ExactValues.of(rows.reshape(-1), channels.reshape(-1), values)
    return replace(model, exact=exact)


def with_repeated_sh(model: GridSplats) -> GridSplats:
    """The model with the SH of most rows those of an owner, in the same layer or an earlier one."""
    generator = np.random.default_rng(model.count)
    (owners,) = ((used_groups(model.sh) > 0) & (generator.random(model.count) < 0.4)).nonzero()
    rows = np.setdiff1d((generator.random(model.count) < 0.9).nonzero()[0], owners)
    layers = np.searchsorted(model.layer_ends, rows, side="right")
    choice = np.searchsorted(owners, model.layer_ends)[layers]
    rows, choice = rows[choice > 0], choice[choice > 0]
    sh = model.sh.copy()
    sh[rows] = 0
    return replace(model, sh=sh, shared=SharedSh.of(rows, owners[generator.integers(0, choice)]))


def assert_second_decoder_agrees(data: bytes) -> None:
    expected = decode(data).splats.values()
    found = read_model(data)
    for name, values in expected.items():
        rows = np.array([gaussian[name] for gaussian in found], np.float32)
        np.testing.assert_array_equal(rows.reshape(values.shape), values, err_msg=name)


def extreme_model(count: int, seed: int) -> GridSplats:
    """Integers of any size that the format allows, even where no renderer could show them."""
    model = random_model(count, 1, seed, layer_fraction=0.3)
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 32, count).astype(np.int32)
    order = np.argsort(-generator.integers(0, model.grids.scale.levels, (count, 3)), axis=1)
    scale = np.take_along_axis(generator.integers(0, 90, (count, 3)), order, axis=1)
    scale = -np.sort(-np.minimum(scale, model.grids.scale.levels - 1), axis=1)
    changed = replace(
        model,
        precision=classes,
        scale=scale.astype(np.int32),
        rotation=generator.integers(-(2**14), 2**14, (count, 3)).astype(np.int32),
        dc=generator.integers(0, 2**15, (count, 3)).astype(np.int32),
        sh=generator.integers(-(2**15) + 1, 2**15, (count, 9)).astype(np.int16),
    )
    position = model.grids.position
    dropped = position.shift.apply(changed.precision, *changed.scale.T)[:, None]
    return replace(changed, xyz=changed.xyz >> dropped << dropped)


@pytest.mark.parametrize("seed", range(3))
def test_symbols_of_any_size_round_trip(seed: int) -> None:
    model = extreme_model(400, seed)
    data = encode(ModelFile(model))
    back = decode(data).splats
    assert isinstance(back, GridSplats)
    assert same_integers(back, model)
    rows = np.array([gaussian["features_rest"] for gaussian in read_model(data)], np.float32)
    np.testing.assert_array_equal(rows, model.values()["features_rest"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400), st.integers(0, 3), st.integers(0, 10**6), st.floats(0, 1))
def test_any_model_round_trips(count: int, sh_degree: int, seed: int, fraction: float) -> None:
    encode(ModelFile(random_model(count, sh_degree, seed, layer_fraction=fraction)))


def test_identical_gaussians_round_trip() -> None:
    one = random_splats(1, 3)
    many = Splats(**{f.name: np.repeat(getattr(one, f.name), 3000, axis=0) for f in fields(Splats)})
    data = encode(ModelFile(quantize_splats(many, GridSteps()).splats))
    assert len(data) < 6000


def test_bytes_depend_on_symbols_only() -> None:
    assert encode(ModelFile(random_model(200, 2))) == encode(ModelFile(random_model(200, 2)))


def test_section_sizes_add_up_to_the_file() -> None:
    data = encode(ModelFile(random_model(100, 1), {"a": 1}))
    assert sum(bytes_per_section(data).values()) == len(data)


def test_the_first_layer_is_a_model_of_the_most_visible() -> None:
    model = random_model(2000, 2, layer_fraction=0.2)
    first = decode(encode(ModelFile(model)), layers=1).splats
    assert isinstance(first, GridSplats)
    assert first.count == 400
    assert same_integers(first, model.first_layers(1))
    assert first.precision.max() <= model.precision[400:].min()
    data = encode(ModelFile(model, {"behind": "the layers"}))
    needed = len(data) - sum(
        len(section)
        for name, section in unpack_container(data).sections.items()
        if name in ("rans1", "bits1", "far1", "meta")
    )
    assert needed < 0.5 * len(data)
    assert same_integers(decode(data[:needed], layers=1).splats, first)
    with pytest.raises(CorruptFile, match="rans1"):
        decode(data[:needed], layers=2)
    with pytest.raises(CorruptFile, match="missing"):
        decode(data[: needed - 1], layers=1)
    with pytest.raises(ValueError, match="layers"):
        decode(b"", layers=0)


def test_decoded_values_are_near() -> None:
    splats = random_splats(3000, 3)
    quantized = quantize_splats(splats, QUALITIES["high"])
    decoded, before = to_splats(quantized.splats), with_ordered_axes(splats)
    for name, most in [("opacity", 0.07), ("scaling", 0.05)]:
        error = getattr(decoded, name) - getattr(before, name)[quantized.order]
        assert np.abs(error).max() < most
    far = quantized.splats.far_rows
    assert len(far) == 3
    np.testing.assert_array_equal(decoded.xyz[far], before.xyz[quantized.order][far])
    size = np.exp(decoded.scaling.max(axis=1, keepdims=True))
    assert np.quantile(np.abs(decoded.xyz - before.xyz[quantized.order]) / size, 0.99) < 0.5


def test_rows_of_the_sh_matrix_have_the_digits_that_they_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coefficients of falling size: a smaller file, hardly less exact."""
    mixing = np.linalg.qr(np.random.default_rng(1).normal(size=(45, 45)))[0]
    sizes = 0.5 * 0.85 ** np.arange(45)
    rest = np.random.default_rng(2).laplace(0, 1, (4000, 45)) * sizes @ mixing
    splats = random_splats(4000, 3)
    splats = replace(splats, features_rest=rest.reshape(-1, 15, 3).astype(np.float32))

    def bytes_and_error() -> tuple[int, float]:
        quantized = quantize_splats(splats, QUALITIES["medium"])
        exact = with_ordered_axes(splats).features_rest[quantized.order]
        error = to_splats(quantized.splats).features_rest - exact
        sizes = bytes_per_section(encode(ModelFile(quantized.splats)))
        return sizes["model"], float(np.sqrt(np.mean(error**2)))

    size, error = bytes_and_error()
    monkeypatch.setattr(design_grids, "_LEAK", 0.0)
    full_size, full_error = bytes_and_error()
    assert size < 0.7 * full_size
    assert error < 1.02 * full_error


def test_measured_weights_decide_the_classes() -> None:
    splats = random_splats(500, 1)
    weights = np.random.default_rng(0).lognormal(0, 3, 500)
    quantized = quantize_splats(splats, GridSteps(), weights)
    ranks = np.argsort(np.argsort(-weights))[quantized.order]
    classes = quantized.splats.precision
    assert np.corrcoef(ranks, classes)[0, 1] > 0.9
    encode(ModelFile(quantized.splats))


def test_every_truncation_is_refused() -> None:
    data = encode(ModelFile(random_model(60, 1)))
    for length in range(0, len(data), 7):
        with pytest.raises(CorruptFile):
            decode(data[:length])


def test_bit_flips_are_refused() -> None:
    data = encode(ModelFile(random_model(20, 1), {"note": "x"}))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptFile):
            decode(bytes(damaged))


def with_sections(data: bytes, **changed: bytes) -> bytes:
    sections = {**unpack_container(data).sections, **changed}
    return pack_container(Container(2, sections))


DAMAGED = encode(ModelFile(with_exact_values(random_model(80, 1, seed=4))))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(unpack_container(DAMAGED).sections)), st.data())
def test_damage_under_a_valid_checksum_raises_or_decodes(name: str, data: st.DataObject) -> None:
    content = bytearray(unpack_container(DAMAGED).sections[name])
    packed = name in ("model", "tables")
    if packed:
        content = bytearray(zlib.decompress(content))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    section = zlib.compress(bytes(content)) if packed else bytes(content)
    try:
        model = decode(with_sections(DAMAGED, **{name: section})).splats
    except CorruptFile:
        return
    for values in model.values().values():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


def model_section(data: bytes, position: int, layout: str, *values: int) -> bytes:
    content = bytearray(zlib.decompress(unpack_container(data).sections["model"]))
    struct.pack_into(layout, content, position, *values)
    return zlib.compress(bytes(content))


@pytest.mark.parametrize(
    ("position", "layout", "value", "message"),
    [
        (0, "<B", 17, "17 layers"),
        (1, "<I", 2**31, "at most"),
        (5, "<I", 13, "outside the cells"),
        (9, "<B", 15, "lanes"),
        (19, "<B", 4, "SH degree"),
        (32, "<f", 0, "step"),
        (32, "<f", 3e38, "decoded value"),
        (20, "<f", -3e38, "decoded value"),
        (36, "<B", 22, "position bits"),
        (37, "<B", 0, "position bits"),
    ],
)
def test_false_headers_are_refused(position: int, layout: str, value: int, message: str) -> None:
    section = model_section(DAMAGED, position, layout, value)
    with pytest.raises(CorruptFile, match=message):
        decode(with_sections(DAMAGED, model=section))


@pytest.mark.parametrize(
    "changes",
    [
        {"opacity": EvenGrid(-3e38, 1.0, 9)},
        {"scale": EvenGrid(0.0, 1e38, 9)},
        {"rotation_step": 1e20},
        {"dc_step": 1e32},
        {"sh_steps": (3e38,) * 32},
    ],
)
def test_grids_beyond_float32_are_refused(changes: dict) -> None:
    model = random_model(20, 1)
    with pytest.raises(ValueError, match=r"decoded value|rotation step"):
        replace(model.grids, **changes)


BAD_EXACT = {
    "nothing": (b"", "0 bytes"),
    "cut short": (bytes(17), "multiple of 9"),
    "a row too many": (struct.pack("<IBf", 9, 0, 1.0), "out of range"),
    "a channel too many": (struct.pack("<IBf", 8, 16, 1.0), "out of range"),
    "a place twice": (struct.pack("<2I2B2f", 3, 3, 4, 4, 1.0, 1.0), "out of order"),
    "rows backwards": (struct.pack("<2I2B2f", 4, 3, 0, 0, 1.0, 1.0), "out of order"),
    "channels backwards": (struct.pack("<2I2B2f", 3, 3, 5, 4, 1.0, 1.0), "out of order"),
    "nan": (struct.pack("<IBf", 3, 4, np.nan), "not finite"),
    "infinity": (struct.pack("<IBf", 3, 15, -np.inf), "not finite"),
}


@pytest.mark.parametrize("kind", BAD_EXACT)
def test_damaged_exact_values_are_refused(kind: str) -> None:
    section, reason = BAD_EXACT[kind]
    with pytest.raises(CorruptFile, match=f"exact0.*{reason}"):
        decode(with_sections(DAMAGED, exact0=section))


def test_a_file_cut_within_its_exact_values_is_refused() -> None:
    """They are the end of the first layer: a reader of one layer must not omit them."""
    sections = list(unpack_container(DAMAGED).sections)
    assert sections.index("exact0") < sections.index("rans1")
    sizes = bytes_per_section(DAMAGED)
    first = sizes["container"]
    for name in sections[: sections.index("exact0") + 1]:
        first += sizes[name]
    whole = decode(DAMAGED[:first], layers=1).splats
    assert isinstance(whole, GridSplats)
    assert len(whole.exact)
    for end in (first - 1, first - sizes["exact0"]):
        with pytest.raises(CorruptFile, match=r"exact0.*missing"):
            decode(DAMAGED[:end], layers=1)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_false_count_allocates_no_memory(layer: int) -> None:
    """A file of 2.2 MB may state 2^27 Gaussians (20 GB), but its octree has to hold as many."""
    stated, lanes = 2**27 - 80, 13
    model = bytearray(zlib.decompress(unpack_container(DAMAGED).sections["model"]))
    struct.pack_into("<I", model, 1 + 9 * layer, stated)
    struct.pack_into("<B", model, 9 + 9 * layer, lanes)
    old = unpack_container(DAMAGED).sections
    changed = {
        "model": zlib.compress(bytes(model)),
        f"rans{layer}": b"\0\0\1\0" * 2**lanes + old[f"rans{layer}"],
        f"bits{layer}": old[f"bits{layer}"] + bytes(2_200_000),
    }
    data = with_sections(DAMAGED, **changed)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile, match="octree"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()


def test_bombs_are_refused() -> None:
    with pytest.raises(CorruptFile, match="at most"):
        decode(with_sections(DAMAGED, tables=zlib.compress(bytes(10**7), 9)))
    without = {n: s for n, s in unpack_container(DAMAGED).sections.items() if n != "rans1"}
    with pytest.raises(CorruptFile, match="rans1"):
        decode(pack_container(Container(2, without)))
    with pytest.raises(CorruptFile, match="unknown section"):
        decode(with_sections(DAMAGED, extra=b""))


@given(st.lists(st.integers(0, MAX_VALUE), max_size=50))
def test_tokens_split_values_without_loss(values: list[int]) -> None:
    array = np.array(values, np.int32)
    tokens = tokens_of(array)
    extra = array - TOKEN_BASE[tokens]
    widths = np.maximum(tokens.astype(int) - 232, 0)
    assert (extra >= 0).all()
    assert (extra < 2**widths).all()


def test_values_out_of_range_are_refused() -> None:
    for value in (-1, MAX_VALUE + 1):
        with pytest.raises(ValueError, match="can be stored"):
            tokens_of(np.array([value], np.int32))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 3000),
    st.sampled_from([1, 2, 64, 1024]),
    st.integers(0, 1000),
    st.sampled_from(BOTH),
)
def test_rans_round_trips(count: int, lanes: int, seed: int, used: kernels.Kernels) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 3, count).astype(np.uint8)
    spread = np.array([1, 40, 256])[ids]
    tokens = (generator.random(count) ** 3 * spread).astype(np.uint8)
    counts = np.zeros((3, 256))
    np.add.at(counts, (ids, tokens), 1)
    tables = design_tables([("a", counts[:1]), ("b", counts[1:])])
    cut, histograms = count // 3, tables.context_map
    encoder = used.encoder(lanes, tables.frequencies)
    encoder.plane_before(histograms, ids[cut:].astype(np.uint16), tokens[cut:])
    encoder.plane_before(histograms, ids[:cut].astype(np.uint16), tokens[:cut])
    stream = encoder.finish()
    decoder = used.decoder(stream, lanes, DecodeTable.of(tables.frequencies), "x")
    contexts = ids.astype(np.int32)
    parts = contexts[:cut], contexts[cut:]
    found = np.concatenate([decoder.plane(histograms, part) for part in parts])
    decoder.finish()
    np.testing.assert_array_equal(found, tokens)


def test_tables_round_trip() -> None:
    counts = np.random.default_rng(0).poisson(0.3, (40, 256)).astype(float) * 50
    tables = design_tables([("x", counts[:7]), ("y", counts[7:])])
    back = unpack_tables(pack_tables(tables), "tables")
    np.testing.assert_array_equal(back.context_map, tables.context_map)
    np.testing.assert_array_equal(back.frequencies, tables.frequencies)
    assert set(tables.context_map[:7]).isdisjoint(tables.context_map[7:])
    assert (tables.frequencies.sum(axis=1) == 4096).all()
