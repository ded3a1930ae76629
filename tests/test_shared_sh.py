# SPDX-License-Identifier: Apache-2.0
"""SH that several Gaussians have: stored once, at their owner."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_codec import kernels
from splat_codec.attribute_sizes import bytes_by_attribute
from splat_codec.container import unpack_container
from splat_codec.errors import CorruptFile
from splat_codec.exact_values import FIRST_CHANNELS, ExactValues
from splat_codec.grid_splats import GridSplats, same_integers
from splat_codec.histograms import design_tables
from splat_codec.model_file import ModelFile, bytes_per_section, decode, encode
from splat_codec.owners import OwnerCoder, low_bits
from splat_codec.planes import ContextBases, Families, PlaneReader, PlaneWriter
from splat_codec.rans import DecodeTable
from splat_codec.shared_sh import SharedSh
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.repeated_sh import repeated_sh, with_shared_sh
from splat_formats.snap_to_grids import higher_sh
from splat_formats.splats import Splats
from tests.both_kernels import BOTH, decoded_alike, using
from tests.test_grid_codec import (
    assert_second_decoder_agrees,
    random_model,
    random_splats,
    with_exact_values,
    with_repeated_sh,
    with_sections,
)


def shared_model(count: int, sh_degree: int, seed: int = 0) -> GridSplats:
    return with_repeated_sh(random_model(count, sh_degree, seed, layer_fraction=0.3))


def with_palette(count: int, entries: int, sh_degree: int = 2) -> Splats:
    """Random Gaussians whose SH are rows of a palette."""
    splats = random_splats(count, sh_degree)
    labels = np.random.default_rng(count).integers(0, entries, count)
    return replace(splats, features_rest=splats.features_rest[:entries][labels])


@pytest.mark.parametrize(("count", "sh_degree"), [(40, 1), (777, 2), (5000, 3)])
def test_round_trip(count: int, sh_degree: int) -> None:
    model = shared_model(count, sh_degree)
    assert len(model.shared) > count / 8
    files = []
    for used in BOTH:
        with using(used):
            files.append(encode(ModelFile(model)))
            back = decode(files[0]).splats
            assert isinstance(back, GridSplats)
            assert same_integers(back, model)
    assert files[0] == files[1]
    sh = model.values()["features_rest"]
    np.testing.assert_array_equal(sh[model.shared.rows], sh[model.shared.owners])
    assert sh[model.shared.rows].any(axis=1).mean() > 0.9


@pytest.mark.parametrize(("count", "sh_degree"), [(30, 3), (600, 1)])
def test_the_second_decoder_agrees_bit_for_bit(count: int, sh_degree: int) -> None:
    """600 Gaussians have more than 231 owners, so that their numbers have plain bits."""
    model = shared_model(count, sh_degree, seed=1)
    assert_second_decoder_agrees(encode(ModelFile(model)))
    assert_second_decoder_agrees(encode(ModelFile(with_exact_values(model))))


def test_exact_values_replace_shared_ones() -> None:
    model = shared_model(200, 1)
    row = int(model.shared.rows[3])
    exact = ExactValues.of([row], [FIRST_CHANNELS["features_rest"] + 2], [1234.5])
    back = decode(encode(ModelFile(replace(model, exact=exact)))).splats.values()["features_rest"]
    owner = back[model.shared.owners[3]]
    np.testing.assert_array_equal(back[row], [*owner[:2], np.float32(1234.5), *owner[3:]])


def test_the_first_layer_has_its_owners() -> None:
    model = shared_model(2000, 2)
    data = encode(ModelFile(model))
    first = decode(data, layers=1).splats
    assert isinstance(first, GridSplats)
    assert same_integers(first, model.first_layers(1))
    assert 0 < len(first.shared) < len(model.shared)
    for name, values in first.values().items():
        np.testing.assert_array_equal(values, model.values()[name][: first.count])


def test_models_that_no_file_holds_are_refused() -> None:
    model = shared_model(300, 1)
    later = SharedSh.of([0], [299])
    with pytest.raises(ValueError, match="later layer"):
        replace(model, shared=later)
    row, owner = int(model.shared.rows[-1]), int(model.shared.owners[-1])
    for bad in (SharedSh.of([owner], [owner]), SharedSh.of([row], [row])):
        with pytest.raises(ValueError, match="owners with SH"):
            encode(ModelFile(replace(model, shared=bad)))


def test_a_palette_makes_files_smaller_and_no_value_worse() -> None:
    splats = with_palette(4000, 300)
    quantized = quantize_splats(splats, QUALITIES["high"])
    model = quantized.splats
    assert 3600 < len(model.shared) <= 3700  # some round to 0
    data = encode(ModelFile(model))
    decoded = to_splats(decode(data).splats).features_rest
    given = splats.features_rest[quantized.order]
    assert len(np.unique(higher_sh(to_splats(model)), axis=0)) <= 301  # and 0
    alone = quantize_splats(random_splats(4000, 2), QUALITIES["high"]).splats
    assert len(data) < 0.7 * len(encode(ModelFile(alone)))
    assert (model.precision[model.shared.owners] <= model.precision[model.shared.rows]).all()
    # An own row at the same class errs by as much as its owner's.
    without = quantize_without_sharing(splats)
    error = np.square(decoded - given).mean()
    assert error < np.square(without.features_rest - given).mean()


def quantize_without_sharing(splats: Splats) -> Splats:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splat_formats.design_grids.with_shared_sh", lambda model, sh: model)
        return to_splats(quantize_splats(splats, QUALITIES["high"]).splats)


def test_a_decoded_model_shares_its_sh_again() -> None:
    splats = with_palette(2000, 100)
    once = quantize_splats(splats, QUALITIES["high"]).splats
    again = quantize_splats(to_splats(once), QUALITIES["high"]).splats
    assert len(again.shared) == pytest.approx(len(once.shared), rel=0.02)


def test_models_without_repeated_sh_are_stored_as_before() -> None:
    model = random_model(500, 3)
    assert not len(model.shared)
    content = zlib.decompress(unpack_container(encode(ModelFile(model))).sections["model"])
    assert content[-2 * 45 * 45 :] == model.grids.sh_transform.matrix.astype("<i2").tobytes()
    sh = higher_sh(random_splats(500, 3))
    assert with_shared_sh(model, sh) is model


def test_few_repeated_rows_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    splats = random_splats(1000, 1)
    splats.features_rest[:9] = splats.features_rest[20]
    monkeypatch.setattr("splat_formats.repeated_sh._bytes", lambda model: 1 / 0)
    assert not len(quantize_splats(splats, QUALITIES["high"]).splats.shared)


def test_rows_that_cost_less_than_a_number_are_not_shared() -> None:
    """All rows round to the same few symbols, but 1500 are different before."""
    splats = random_splats(3000, 1)
    rest = np.zeros_like(splats.features_rest)
    rest[:, 0, 0] = 0.3 + 1e-5 * (np.arange(3000) // 2)
    splats = replace(splats, features_rest=rest)
    model = quantize_splats(splats, QUALITIES["high"]).splats
    assert not len(model.shared)
    assert len(repeated_sh(model, np.repeat(higher_sh(splats)[::2], 2, axis=0))) > 1000


def test_owners_are_the_first_of_the_finest() -> None:
    model = random_model(60, 1, layer_fraction=0.0)
    precision = np.full(60, 5, np.int32)
    precision[[9, 30]] = 4
    sh = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    sh[[2, 9, 30, 41]] = sh[2]
    sh[[5, 6]] = sh[5]
    symbols = np.ones((60, 9), np.int16)
    symbols[41] = 0
    changed = replace(model, precision=precision, sh=symbols)
    found = repeated_sh(changed, sh)
    assert dict(zip(found.rows.tolist(), found.owners.tolist(), strict=True)) == {2: 9, 30: 9, 6: 5}
    exact = ExactValues.of([5], [FIRST_CHANNELS["features_rest"]], [1e9])
    found = repeated_sh(replace(changed, exact=exact), sh)
    assert found.rows.tolist() == [2, 30]


def test_rows_with_equal_hashes_but_other_bits_are_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model(50, 1)
    sh = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
    monkeypatch.setattr("splat_formats.repeated_sh.row_hashes", lambda rows: np.zeros(len(rows)))
    assert len(repeated_sh(model, sh)) == 0


def test_reordered_models_share_the_same_rows() -> None:
    model = replace(shared_model(500, 2), layer_ends=(500,))
    order = np.random.default_rng(0).permutation(500)
    moved = model.reordered(order, (500,))
    sh = model.values()["features_rest"]
    np.testing.assert_array_equal(moved.values()["features_rest"], sh[order])
    assert (np.diff(moved.shared.rows) > 0).all()


def test_bytes_of_attributes_are_those_of_the_file() -> None:
    model = shared_model(5000, 2)
    sizes = bytes_per_section(encode(ModelFile(model)))
    streams = sum(sizes[name] for name in ("rans0", "rans1", "bits0", "bits1"))
    far = 16 * len(model.far_rows)
    found = sum(bytes_by_attribute(model).values())
    lanes = streams - far - found
    assert 0 < lanes < 0.02 * streams


DATA = encode(ModelFile(shared_model(60, 1)))


def test_every_truncation_is_refused() -> None:
    for length in range(0, len(DATA), 5):
        with pytest.raises(CorruptFile):
            decode(DATA[:length])


def test_bit_flips_are_refused() -> None:
    for position in range(len(DATA)):
        damaged = bytearray(DATA)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptFile):
            decode(bytes(damaged))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(unpack_container(DATA).sections)), st.data())
def test_damage_under_a_valid_checksum_raises_or_decodes(name: str, data: st.DataObject) -> None:
    content = bytearray(unpack_container(DATA).sections[name])
    packed = name in ("model", "tables")
    if packed:
        content = bytearray(zlib.decompress(content))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    section = zlib.compress(bytes(content)) if packed else bytes(content)
    model = decoded_alike(with_sections(DATA, **{name: section}))
    if model is not None:
        assert all(np.isfinite(values).all() for values in model.values().values())


@pytest.mark.parametrize(
    ("data", "end", "message"),
    [
        (DATA, b"\0", "announce"),
        (DATA, b"\2", "announce"),
        (DATA, b"\1\1", "left over"),
        (encode(ModelFile(random_model(30, 0))), b"\1", "announce"),
    ],
)
def test_other_ends_of_the_section_model_are_refused(data: bytes, end: bytes, message: str) -> None:
    content = zlib.decompress(unpack_container(data).sections["model"])
    content = content.removesuffix(b"\1") if data is DATA else content
    with pytest.raises(CorruptFile, match=f"model.*{message}"):
        decode(with_sections(data, model=zlib.compress(content + end)))


def streams_of_owners(tokens: np.ndarray, widths: int, low: np.ndarray) -> PlaneReader:
    """A reader of one layer with these tokens as owners, and so many plain bits of each above 0."""
    families = Families()
    writer = PlaneWriter(1, families)
    writer.plane("owner0", 1, np.zeros(len(tokens), np.int32), tokens)
    writer.bits(np.where(tokens > 0, np.int32(widths), np.int32(0)), low)
    tables = design_tables(families.counts())
    static = ContextBases(tables, "tables"), DecodeTable.of(tables.frequencies)
    return PlaneReader((writer.rans_bytes(tables), writer.bit_bytes()), 1, static, 0)


@pytest.mark.parametrize("used", BOTH, ids=lambda used: used.name)
@pytest.mark.parametrize(
    ("owners", "token", "low", "is_good"),
    [
        (0, 0, 0, True), (0, 1, 0, False), (1, 1, 0, True), (1, 2, 0, False), (231, 231, 0, True),
        (231, 232, 0, False), (232, 116, 1, True), (232, 117, 0, False), (233, 117, 0, True),
        (233, 117, 1, False), (300, 5000, 0, False),
    ],
)  # fmt: skip
def test_owners_that_do_not_exist_are_refused(
    owners: int, token: int, low: int, is_good: bool, used: kernels.Kernels
) -> None:
    """The layer has `owners` Gaussians with SH, and two without; of these one has the token."""
    with using(used):
        tokens, lows = np.array([token, 0], np.int32), np.array([low, 0], np.int32)
        reader = streams_of_owners(tokens, low_bits(owners), lows)
        has_sh = np.arange(owners + 2) < owners
        coder = OwnerCoder()
        if is_good:
            coder.code(reader, np.arange(owners + 2), has_sh)
            reader.finish()
            number = 0 if token == 0 else 1 + (token - 1 << low_bits(owners)) + low
            assert coder.shared().owners.tolist() == ([number - 1] if number else [])
        else:
            with pytest.raises(CorruptFile, match="owner"):
                coder.code(reader, np.arange(owners + 2), has_sh)


def test_plain_bits_leave_a_token() -> None:
    for owners in [*range(1000), 2**20, 2**27 - 1, 2**27]:
        low = low_bits(owners)
        assert max(owners - 1, 0) >> low <= 230
        assert low == 0 or owners - 1 >> low - 1 > 230
