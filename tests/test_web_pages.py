# SPDX-License-Identifier: Apache-2.0
"""The web decoder as pages and people use it: streams, Chromium, and the command of Node.js."""

import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from splat_codec.model_file import ModelFile, bytes_per_section, encode
from splat_formats.f3dgs_file import scene_of
from splat_formats.ply import write_ply_scene
from tests.test_grid_codec import random_model
from tests.web_cases import (
    GOLDEN,
    ROOT,
    Case,
    all_golden_files,
    codec_outcome,
    good_files,
    needs_node,
    node,
    require_alike,
    web_outcomes,
)

pytestmark = needs_node


def test_streams(tmp_path: Path) -> None:
    """Layers joined together are the whole file, however the bytes are cut into chunks."""
    cases = [Case(data, 0, step) for data in all_golden_files() for step in (7, 1000, 10**6)]
    assert require_alike(cases, tmp_path) == 3 * (len(good_files()) + 1)  # one is in blocks
    first = [Case(data, 1, 100) for data in good_files().values()]
    for case, web in zip(first, web_outcomes(first, tmp_path), strict=True):
        assert web["digest"] == codec_outcome(case)["digest"]


def test_a_stream_of_blocks_has_the_checksum_of_their_section(tmp_path: Path) -> None:
    data = bytearray((GOLDEN / "blocks_good.f3dgs").read_bytes())
    data[70] ^= 1  # the table's last number, which is that checksum, then the table's own
    data[74:78] = zlib.crc32(data[:74]).to_bytes(4, "little")
    assert require_alike([Case(bytes(data), 0, step) for step in (7, 10**6)], tmp_path) == 0


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
async function* silent() { await new Promise(() => {}); }
let cancelled = false;
const stream = new ReadableStream({ cancel: () => { cancelled = true; } });
for (const source of [stream, silent()]) {
  const controller = new AbortController();
  const { signal } = controller;
  setTimeout(() => controller.abort(new Error("no longer needed")), 10);
  try {
    for await (const model of decodeStream(source, { signal })) console.log(model);
  } catch (error) {
    console.log(error === signal.reason, cancelled);
  }
}
"""


def test_a_signal_ends_a_stream_that_does_not_arrive() -> None:
    assert node("--input-type=module", "--eval", ABORTED).stdout == "true true\n" * 2


FAILED = """
import { decodeStream } from "./web/f3dgs.js";
async function* broken() { throw new TypeError("connection lost"); }
try {
  for await (const model of decodeStream(broken())) console.log(model);
} catch (error) {
  console.log(error.message);
}
"""


def test_an_error_of_the_stream_is_passed_on() -> None:
    assert node("--input-type=module", "--eval", FAILED).stdout == "connection lost\n"


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
        (tmp_path, target): f"Is a directory: {tmp_path}",
        (good, earlier / "a.ply"): "Not a directory: ",
        (good, "/dev/full"): "disk full: /dev/full",
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


IN_PAGE = """async (names) => {
  const { decode, decodeStream } = await import("/web/f3dgs.js");
  const arrays = ["xyz", "opacity", "scaling", "rotation", "featuresDc", "featuresRest"];
  const digest = async (models) => {
    const parts = arrays.flatMap((name) => models.map((model) => model[name]));
    const hash = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
    return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  };
  const digests = [];
  for (const name of names) {
    const data = await (await fetch(name)).arrayBuffer();
    const models = [];
    for await (const model of decodeStream((await fetch(name)).body)) models.push(model);
    digests.push([await digest([decode(data)]), await digest(models)]);
  }
  return digests;
}"""
SITE = "https://decoder.test/"  # answered by the test, without a network


def test_chromium_decodes_the_same_bits() -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium")
    paths = sorted(GOLDEN.glob("good_*.f3dgs"))
    names = [str(path.relative_to(ROOT)) for path in paths]

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(SITE)
        kind = "text/javascript" if name.endswith(".js") else "text/html"
        route.fulfill(body=(ROOT / name).read_bytes() if name else b"", content_type=kind)

    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.route(f"{SITE}**", answer)
        page.goto(SITE)
        found = page.evaluate(IN_PAGE, [SITE + name for name in names])
        browser.close()
    expected = [codec_outcome(Case(path.read_bytes()))["digest"] for path in paths]
    assert found == [[digest, digest] for digest in expected]
