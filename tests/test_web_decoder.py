# SPDX-License-Identifier: Apache-2.0
"""The web decoder (web/f3dgs.js) against the codec: the same bits, and the same refusals.

Node.js decodes all files in one process (tests/web_driver.mjs).
"""

import hashlib
import json
import lzma
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.errors import CorruptFile
from splat_codec.model_file import MAX_LAYERS, ModelFile, bytes_per_section, decode, encode
from splat_codec.order import morton_order
from splat_codec.quantizers import EvenGrids, Float16, Float32, Quantizer
from splat_codec.symbols import QuantizedAttribute, QuantizedSplats, attribute_channels
from splat_formats.f3dgs_file import scene_of
from splat_formats.file_description import from_entries
from splat_formats.ply import write_ply_scene
from tests.fuzz_inputs import packed, unpacked
from tests.test_grid_codec import (
    extreme_model,
    many_contexts,
    random_model,
    with_exact_values,
)

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
OLDEST_NODE = 18


def node_version() -> int:
    """The main version of the installed Node.js; 0 where there is none."""
    if shutil.which("node") is None:
        return 0
    printed = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return int(printed.stdout.removeprefix("v").split(".")[0])


pytestmark = pytest.mark.skipif(
    node_version() < OLDEST_NODE, reason=f"needs Node.js {OLDEST_NODE} or later"
)


@dataclass(frozen=True)
class Case:
    """A file, how many layers are read (0: all), and bytes at a time of a stream (0: no stream)."""

    data: bytes
    layers: int = 0
    step: int = 0


def good_files() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("good_*.f3dgs"))}


def all_golden_files() -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.glob("*.f3dgs"))]


def corpus() -> list[bytes]:
    with zipfile.ZipFile(GOLDEN / "fuzz_corpus.zip") as archive:
        found = [packed(archive.read(name)) for name in sorted(archive.namelist())]
    return [file for file in found if file is not None]


def web_outcomes(cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """What tests/web_driver.mjs prints."""
    file = folder / "cases"
    with file.open("wb") as out:
        for case in cases:
            out.write(struct.pack("<III", len(case.data), case.layers, case.step) + case.data)
    command = ["node", "tests/web_driver.mjs", file]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


def codec_outcome(case: Case) -> dict[str, Any]:
    """The same from the codec; of a refused file only the section and the message."""
    try:
        model = decode(case.data, case.layers or MAX_LAYERS)
        from_entries(model.metadata)
    except CorruptFile as error:
        return {"section": error.section, "message": str(error)}
    total = hashlib.sha256()
    for values in model.splats.values().values():
        total.update(np.ascontiguousarray(values, "<f4").tobytes())
    return {
        "version": struct.unpack_from("<H", case.data, 10)[0],
        "count": model.splats.count,
        "shDegree": model.splats.sh_degree,
        "layerEnds": list(getattr(model.splats, "layer_ends", ())),
        "metadata": dict(model.metadata),
        "sectionBytes": bytes_per_section(case.data),
        "digest": total.hexdigest(),
    }


def require_alike(cases: list[Case], folder: Path) -> int:
    """AssertionError where the decoders differ; how many files both accept."""
    accepted = 0
    for case, web in zip(cases, web_outcomes(cases, folder), strict=True):
        codec = codec_outcome(case)
        if "digest" in codec:
            assert web == codec
            accepted += 1
        else:
            assert web.get("section") == codec["section"], (web, codec)
            assert web["message"].startswith(f"corrupt file: section {codec['section']}: ")
    return accepted


def test_golden_files(tmp_path: Path) -> None:
    files = all_golden_files()
    assert require_alike([Case(data) for data in files], tmp_path) == len(good_files())


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


def test_models_of_any_size(tmp_path: Path) -> None:
    """One lane and many, no Gaussians, exact values, symbols of up to 15 bits, many histograms."""
    models = [random_model(count, degree) for count in (0, 1, 2, 777) for degree in range(4)]
    models += [with_exact_values(random_model(300, degree, 1)) for degree in (1, 3)]
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


def test_streams(tmp_path: Path) -> None:
    """Layers joined together are the whole file, however the bytes are cut into chunks."""
    cases = [Case(data, 0, step) for data in all_golden_files() for step in (7, 1000, 10**6)]
    assert require_alike(cases, tmp_path) == 3 * len(good_files())
    first = [Case(data, 1, 100) for data in good_files().values()]
    for case, web in zip(first, web_outcomes(first, tmp_path), strict=True):
        assert web["digest"] == codec_outcome(case)["digest"]


def test_a_stream_ends_after_the_last_layer_that_is_read(tmp_path: Path) -> None:
    whole = good_files()["good_v2_sh3"]
    sizes = bytes_per_section(whole)
    end = sum(sizes[name] for name in ("container", "model", "tables", "rans0", "bits0"))
    cases = [Case(whole[:end], 1, 100), Case(whole[: end - 1], 1, 100), Case(whole[:-1], 0, 100)]
    first, *cut = web_outcomes(cases, tmp_path)
    assert first["digest"] == codec_outcome(cases[0])["digest"]
    assert ["cut short" in outcome["message"] for outcome in cut] == [True, True]


ABORTED = """
import { decodeStream } from "./web/f3dgs.js";
let cancelled = null;
const stream = new ReadableStream({ cancel: (reason) => { cancelled = String(reason); } });
const controller = new AbortController();
const { signal } = controller;
setTimeout(() => controller.abort(new Error("no longer needed")), 10);
try {
  for await (const model of decodeStream(stream, { signal })) console.log(model);
} catch (error) {
  console.log(error === signal.reason, cancelled !== null);
}
"""


def test_a_signal_ends_a_stream_that_does_not_arrive() -> None:
    assert node("--input-type=module", "--eval", ABORTED).stdout == "true true\n"


def node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["node", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


PLACED = {"origin": [1e6, -0.1, 2**60 + 1], "antialiasing": True}


@pytest.mark.parametrize(
    ("count", "sh_degree", "metadata"),
    [(0, 0, {}), (1, 3, PLACED), (700, 2, {"origin": [0, -0.0, 0]}), (300, 1, PLACED)],
)
def test_the_command_writes_the_same_ply(
    count: int, sh_degree: int, metadata: dict[str, Any], tmp_path: Path
) -> None:
    model = ModelFile(random_model(count, sh_degree), metadata)
    file, expected, found = (tmp_path / name for name in ("a.f3dgs", "a.ply", "new/b.ply"))
    file.write_bytes(encode(model))
    write_ply_scene(expected, scene_of(model))
    result = node("web/decode.mjs", file, found)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{found}: {count} Gaussians, SH degree {sh_degree}\n"
    assert found.read_bytes() == expected.read_bytes()
    assert [path.name for path in found.parent.iterdir()] == ["b.ply"]


def test_the_command_agrees_with_decompress(tmp_path: Path) -> None:
    file = GOLDEN / "good_v2_sh3.f3dgs"
    for layers in ([], ["--layers", "1"]):
        expected, found = tmp_path / "a.ply", tmp_path / "b.ply"
        command = [sys.executable, ROOT / "decompress.py", file, expected, *layers]
        subprocess.run(command, check=True, capture_output=True)
        assert node("web/decode.mjs", file, found, *layers).returncode == 0
        assert found.read_bytes() == expected.read_bytes()


def test_the_command_refuses(tmp_path: Path) -> None:
    good, damaged = GOLDEN / "good_v2_sh0.f3dgs", GOLDEN / "bad_bits_missing.f3dgs"
    target, earlier = tmp_path / "new" / "a.ply", tmp_path / "b.ply"
    earlier.write_text("earlier")
    commands = {
        (damaged, target): f"{damaged}: corrupt file: section bits1: ends before its last bit",
        (damaged, earlier): f"{damaged}: corrupt file: section bits1: ends before its last bit",
        (tmp_path / "none", target): f"No such file or directory: {tmp_path / 'none'}",
        (earlier, tmp_path / "c.txt"): "cannot write this kind of file",
        (earlier, earlier): "is the input",
        (good, tmp_path): "is a folder",
        (good, target, "--layers", "0"): "--layers 0: expected at least 1",
        (good, target, "--quick"): "usage",
        (good,): "usage",
    }
    for arguments, message in commands.items():
        result = node("web/decode.mjs", *arguments)
        assert result.returncode == 1, arguments
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert earlier.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["b.ply"]
