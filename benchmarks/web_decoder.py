# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the web decoder: `python benchmarks/web_decoder.py --data DATA`.

Decodes a million Gaussians (snowmiku, repeated with jitter, quality high) with web/f3dgs.js in
Node.js and in headless Chromium, and with the codec in Python. Each is measured inside one process:
the first decoding, as a page meets it, and the best of the later ones. CPU seconds are those of all
threads of the process. Chromium needs `pip install playwright` and an installed Chromium.
"""

import json
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.codec_speed import TASKS, run
from benchmarks.models import DATA, MILLION
from splat_codec.model_file import decode
from utils.files import write_json

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
_FLAGS = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync")  # fmt: skip
_SITE = "http://decoder.test"  # its requests are answered here, without a network

_IN_NODE = """
import { readFileSync } from "node:fs";
import { decode } from "./web/f3dgs.js";
const [file, rounds] = process.argv.slice(1);
const data = readFileSync(file);
const before = process.resourceUsage().maxRSS;
const laps = [];
for (let i = 0; i < Number(rounds); i++) {
  const [wall, cpu] = [performance.now(), process.cpuUsage()];
  decode(data);
  const { user, system } = process.cpuUsage(cpu);
  laps.push({ wall: (performance.now() - wall) / 1e3, cpu: (user + system) / 1e6 });
  if (i === 0) laps[0].peak = 1024 * (process.resourceUsage().maxRSS - before);
}
console.log(JSON.stringify(laps));
"""
_IN_PAGE = """async () => {
  const began = performance.now();
  const model = globalThis.decode(globalThis.data);
  return (performance.now() - began) / 1e3;
}"""


@dataclass(frozen=True)
class Lap:
    """One decoding: seconds of wall and CPU time, and bytes that the process grew by at most."""

    wall: float
    cpu: float
    peak: int = 0


def in_node(file: Path, rounds: int) -> list[Lap]:
    """Each decoding in Node.js."""
    command = ["node", "--input-type=module", "--eval", _IN_NODE, str(file), str(rounds)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Lap(**lap) for lap in json.loads(result.stdout)]


def in_chromium(file: Path, rounds: int) -> list[Lap]:
    """Each decoding in a page of headless Chromium."""
    from playwright.sync_api import Route, sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        page = browser.new_page()
        module = (ROOT / "web" / "f3dgs.js").read_bytes()
        bodies = {
            "/": ("text/html", b"<!doctype html>"),
            "/data": ("application/octet-stream", file.read_bytes()),
            "/f3dgs.js": ("text/javascript", module),
        }

        def answer(route: Route) -> None:
            kind, body = bodies[urlsplit(route.request.url).path]
            route.fulfill(body=body, content_type=kind)

        page.route(f"{_SITE}/**", answer)
        page.goto(f"{_SITE}/")
        page.evaluate("""async () => {
          globalThis.decode = (await import("/f3dgs.js")).decode;
          globalThis.data = await (await fetch("/data")).arrayBuffer();
        }""")
        session = browser.new_browser_cdp_session()

        def cpu() -> float:
            found = session.send("SystemInfo.getProcessInfo")["processInfo"]
            return sum(process["cpuTime"] for process in found if process["type"] == "renderer")

        laps = []
        for _ in range(rounds):
            before = cpu()
            laps.append(Lap(page.evaluate(_IN_PAGE), cpu() - before))
        browser.close()
        return laps


def in_python(file: Path, rounds: int) -> list[Lap]:
    """The best decoding by the codec, with its compiled kernels, which use all cores."""
    parts = json.loads(run(TASKS, "decode", file, str(rounds))[1]).values()
    return [Lap(*(sum(part[key] for part in parts) / 1e3 for key in ("wall_min", "cpu_min")))]


def main() -> None:
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the models")
    parser.add_argument("--count", type=int, default=MILLION, help="number of Gaussians")
    parser.add_argument("--file", type=Path, help="decode this file, not a million Gaussians")
    parser.add_argument("--rounds", type=int, default=5, help="decodings in each process")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or made_file(Path(folder), args.data, args.count)
        laps = {name: measure(file, args.rounds) for name, measure in MEASURES.items()}
        model = decode(file.read_bytes()).splats
    report(laps, 4 * model.count * (14 + 3 * ((model.sh_degree + 1) ** 2 - 1)))
    if args.json:
        write_json(
            args.json, {name: [asdict(lap) for lap in found] for name, found in laps.items()}
        )


def made_file(folder: Path, data: Path, count: int) -> Path:
    """A file of `count` Gaussians."""
    ply, file = folder / "model.ply", folder / "model.f3dgs"
    run(TASKS, "make", data.resolve(), str(count), ply)
    run(TASKS, "encode", ply, file, "0")
    return file


MEASURES = {"codec in Python": in_python, "Node.js": in_node, "Chromium": in_chromium}


def report(laps: dict[str, list[Lap]], arrays: int) -> None:
    """Prints one line for each program."""
    python = min(lap.cpu for lap in laps["codec in Python"])
    print("| decoder | first: wall, s | first: CPU, s | best: wall, s | best: CPU, s | "
          "x Python's CPU |\n|---|---|---|---|---|---|")  # fmt: skip
    for name, found in laps.items():
        wall, cpu = min(lap.wall for lap in found), min(lap.cpu for lap in found)
        print(f"| {name} | {found[0].wall:.2f} | {found[0].cpu:.2f} | "
              f"{wall:.2f} | {cpu:.2f} | {cpu / python:.1f} |")  # fmt: skip
    peak = laps["Node.js"][0].peak
    print(f"\nNode.js grew by {peak / 1e6:.0f} MB: {peak / arrays:.2f} x the decoded arrays.")


if __name__ == "__main__":
    main()
