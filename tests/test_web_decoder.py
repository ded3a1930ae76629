# SPDX-License-Identifier: Apache-2.0
"""The web decoder (web/f3dgs.js) against the codec: the same bits, and the same refusals.

Node.js decodes all files of a test in one process (tests/web_driver.mjs).
"""

import json
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.model_file import ModelFile, encode
from splat_codec.order import morton_order
from splat_codec.quantizers import EvenGrids, Float16, Float32, Quantizer
from splat_codec.symbols import QuantizedAttribute, QuantizedSplats, attribute_channels
from tests.fuzz_inputs import packed, unpacked
from tests.test_grid_codec import (
    extreme_model,
    many_contexts,
    random_model,
    with_exact_values,
    with_repeated_sh,
)
from tests.web_cases import (
    GOLDEN,
    Case,
    all_golden_files,
    codec_outcome,
    good_files,
    needs_node,
    require_alike,
    web_outcomes,
)

pytestmark = needs_node


def corpus() -> list[bytes]:
    with zipfile.ZipFile(GOLDEN / "fuzz_corpus.zip") as archive:
        found = [packed(archive.read(name)) for name in sorted(archive.namelist())]
    return [file for file in found if file is not None]


def test_golden_files(tmp_path: Path) -> None:
    files = all_golden_files()
    assert require_alike([Case(data) for data in files], tmp_path) == len(good_files()) + 1


def test_first_layers(tmp_path: Path) -> None:
    cases = [Case(data, layers) for data in all_golden_files() for layers in (1, 2, 15, 16)]
    assert require_alike(cases, tmp_path) > 0


def test_inputs_of_the_fuzzer(tmp_path: Path) -> None:
    assert require_alike([Case(data) for data in corpus()], tmp_path) > 0


def test_files_cut_short_at_every_byte(tmp_path: Path) -> None:
    empty, whole = (good_files()[name] for name in ("good_v2_empty", "good_v2_sh0"))
    cases = [Case(data[:end]) for data in (empty, whole) for end in range(len(data))]
    assert require_alike(cases, tmp_path) == 0
    first_layer = [Case(whole[:end], layers=1) for end in range(0, len(whole), 23)]
    assert 0 < require_alike(first_layer, tmp_path) < len(first_layer)


def test_files_of_blocks(tmp_path: Path) -> None:
    data = (GOLDEN / "blocks_good.f3dgs").read_bytes()
    cases = [Case(data), Case(data, 1), Case(data, 0, 7), Case(data, 0, 5000), Case(data, 1, 100)]
    assert require_alike(cases, tmp_path) == len(cases)
    damaged = []
    for place in range(14, len(data), 37):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        damaged += [Case(bytes(changed)), Case(data[:place]), Case(bytes(changed), 0, 100)]
    assert require_alike([*damaged, Case(data + b"x"), Case(data + b"x", 0, 9)], tmp_path) == 0


def test_false_indexes_of_blocks(tmp_path: Path) -> None:
    data = (GOLDEN / "blocks_good.f3dgs").read_bytes()
    sections = dict(unpack_container(data).sections)
    cases = []
    for place in range(len(sections["index"])):
        index = bytearray(sections["index"])
        index[place] ^= 0x55
        cases.append(Case(pack_container(Container(3, {**sections, "index": bytes(index)}))))
    outcomes = web_outcomes(cases, tmp_path)
    # Boxes may be larger than the centres need: these alone may be other numbers.
    assert sum("digest" in outcome for outcome in outcomes) < len(cases) / 3
    require_alike_but_for_boxes(cases, outcomes)


def require_alike_but_for_boxes(cases: list[Case], outcomes: list[dict]) -> None:
    for case, web in zip(cases, outcomes, strict=True):
        codec = codec_outcome(case)
        if "digest" in web:
            assert web == codec
        elif "digest" in codec:
            assert web["message"].endswith("a centre lies outside the block's box")


def test_models_of_any_size(tmp_path: Path) -> None:
    """One lane and many, no Gaussians, exact values, shared SH, large symbols, many histograms."""
    models = [random_model(count, degree) for count in (0, 1, 2, 777) for degree in range(4)]
    models += [with_exact_values(random_model(300, degree, 1)) for degree in (1, 3)]
    models += [with_repeated_sh(random_model(count, 2, 0)) for count in (60, 1500)]
    models += [random_model(5000, 3), many_contexts()]
    models += [random_model(400, 2, layer_fraction=fraction) for fraction in (0.0, 1.0)]
    models += [extreme_model(400, seed) for seed in range(3)]
    cases = [Case(encode(ModelFile(model))) for model in models]
    assert require_alike(cases, tmp_path) == len(cases)


def half_bits() -> np.ndarray:
    """Every finite half-precision number, as its bits."""
    bits = np.arange(2**16, dtype=np.uint16)
    return bits[np.isfinite(bits.view(np.float16))]


def quantized(sh_degree: int, count: int, quantizers: list[Quantizer]) -> QuantizedSplats:
    """A model of version 1 with symbols from the quantisers' whole ranges."""
    generator = np.random.default_rng(count)
    attributes = {}
    for (name, channels), quantizer in zip(
        attribute_channels(sh_degree).items(), quantizers, strict=True
    ):
        shape = (count, channels)
        if isinstance(quantizer, EvenGrids):
            symbols = generator.integers(0, quantizer.levels, shape)
        elif isinstance(quantizer, Float16):
            symbols = generator.permutation(half_bits())[: count * channels].reshape(shape)
        else:
            symbols = generator.normal(0, 1e30, shape).astype("<f4").view("<u4")
        attributes[name] = QuantizedAttribute(symbols.astype(quantizer.dtype), quantizer)
    model = QuantizedSplats(sh_degree, attributes)
    return model.reordered(morton_order(attributes["xyz"].values()))


def test_all_quantisers_of_version_1(tmp_path: Path) -> None:
    narrow, wide = EvenGrids((-1.5,), (0.25,), 200), EvenGrids((-7.0,), (2.0**-10,), 2**24)
    middle = EvenGrids((0.0, 1.0, -2.0), (0.5, 2.0**-140, 3.0), 300)
    chosen: list[list[Quantizer]] = [
        [Float32(), Float16(), Float16(), Float16(), narrow, narrow],
        [wide, narrow, middle, wide, middle, Float32()],
        [middle, wide, Float32(), narrow, Float16(), wide],
    ]
    models = [quantized(degree, count, quantizers)
              for quantizers in chosen for degree, count in ((0, 1), (3, 900), (1, 0))]  # fmt: skip
    cases = [Case(encode(ModelFile(model))) for model in models]
    assert require_alike(cases, tmp_path) == len(cases)


@pytest.mark.parametrize(
    ("check", "filters", "times"),
    [
        (lzma.CHECK_CRC32, [{"id": lzma.FILTER_LZMA2, "preset": 0}], 1),
        (lzma.CHECK_NONE, [{"id": lzma.FILTER_DELTA}, {"id": lzma.FILTER_LZMA2}], 1),
        (lzma.CHECK_NONE, [{"id": lzma.FILTER_LZMA2, "dict_size": 3 * 2**25}], 1),
        (lzma.CHECK_NONE, [{"id": lzma.FILTER_LZMA2, "preset": 0}], 2),
    ],
)
def test_other_xz_streams_are_refused(
    check: int, filters: list, times: int, tmp_path: Path
) -> None:
    container = unpack_container(good_files()["good_v1_sh0"])
    symbols = lzma.decompress(container.sections["xyz"])
    stream = lzma.compress(symbols, check=check, filters=filters) * times
    changed = pack_container(Container(1, {**container.sections, "xyz": stream}))
    assert require_alike([Case(changed)], tmp_path) == 0


def changed_content(data: bytes, number: int) -> Iterator[bytes]:
    """Files with some other bytes in their sections, before compression; checksums are right."""
    generator = np.random.default_rng(len(data))
    content = unpacked(data)
    while number > 0:
        changed = bytearray(content)
        for _ in range(int(generator.integers(1, 3))):
            changed[int(generator.integers(len(changed)))] ^= 1 << int(generator.integers(8))
        if (file := packed(bytes(changed))) is not None:
            number -= 1
            yield file


def changed_sections(data: bytes, number: int) -> Iterator[bytes]:
    """Files with one section cut, changed or longer; checksums are right."""
    generator = np.random.default_rng(len(data))
    container = unpack_container(data)
    names = [name for name, section in container.sections.items() if section]
    for kind in generator.integers(0, 3, number):
        name = names[int(generator.integers(len(names)))]
        section = bytearray(container.sections[name])
        place = int(generator.integers(len(section)))
        if kind == 0:
            del section[place:]
        elif kind == 1:
            section[place] ^= 1 << int(generator.integers(8))
        else:
            section.append(place & 255)
        sections = {**container.sections, name: bytes(section)}
        yield pack_container(Container(container.version, sections))


def test_damaged_files(tmp_path: Path) -> None:
    cases = []
    for data in good_files().values():
        for file in (*changed_content(data, 40), *changed_sections(data, 40)):
            cases.append(Case(file))
    assert 0 < require_alike(cases, tmp_path) < len(cases)


def with_metadata(data: bytes, metadata: bytes) -> bytes:
    container = unpack_container(data)
    return pack_container(Container(container.version, {**container.sections, "meta": metadata}))


METADATA = {
    "empty object": b"{}",
    "origin": b'{"origin": [1, -2.5e10, 3], "up": null}',
    "integer of 5000 digits": b'{"a": ' + b"7" * 5000 + b"}",
    "100 levels": b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}",
    "twice": b'{"origin": 1, "origin": [0, 0, 0]}',
    "lone surrogate": b'{"a": "\\ud800"}',
}
BAD_METADATA = {
    "nothing": b"",
    "list": b"[]",
    "null": b"null",
    "not a number": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "101 levels": b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
    "many levels": b'{"a": ' + b"[" * 50000 + b"]" * 50000 + b"}",
    "too large": b'{"a": "' + b" " * 2**20 + b'"}',
    "origin of two": b'{"origin": [1, 2]}',
    "origin null": b'{"origin": null}',
    "origin of truths": b'{"origin": [true, 0, 0]}',
    "infinite origin": b'{"origin": [1e999, 0, 0]}',
    "origin of 400 digits": b'{"origin": [0, 0, ' + b"7" * 400 + b"]}",
}


def test_metadata(tmp_path: Path) -> None:
    data = good_files()["good_v2_empty"]
    good = [Case(with_metadata(data, text)) for text in METADATA.values()]
    bad = [Case(with_metadata(data, text)) for text in BAD_METADATA.values()]
    outcomes = web_outcomes([*good, *bad], tmp_path)
    for name, case, web in zip((*METADATA, *BAD_METADATA), (*good, *bad), outcomes, strict=True):
        assert ("digest" in web) == ("digest" in codec_outcome(case)) == (name in METADATA), name
    assert outcomes[1]["metadata"] == json.loads(METADATA["origin"])
