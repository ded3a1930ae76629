# SPDX-License-Identifier: Apache-2.0
"""Files decoded by the web decoder (web/f3dgs.js, in Node.js) and by the codec, to compare them."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_codec.block_file import decode_block, has_blocks, read_blocks, read_index
from splat_codec.errors import CorruptFile
from splat_codec.model_file import MAX_LAYERS, bytes_per_section, decode
from splat_formats.file_description import from_entries

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
OLDEST_NODE = 18


def node_version() -> int:
    """The main version of the installed Node.js; 0 where there is none."""
    if shutil.which("node") is None:
        return 0
    printed = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return int(printed.stdout.removeprefix("v").split(".")[0])


needs_node = pytest.mark.skipif(
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
    if has_blocks(case.data):
        return blocks_outcome(case)
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


def blocks_outcome(case: Case) -> dict[str, Any]:
    """The same for a file of blocks; of a refused one that it is refused."""
    file = io.BytesIO(case.data)
    try:
        index = read_index(file)
        from_entries(index.metadata)
        blocks = [
            decode_block(data, index, number, case.layers or MAX_LAYERS).values()
            for number, data in read_blocks(file, index)
        ]
    except CorruptFile:
        return {"section": None}
    total = hashlib.sha256()
    for name in ("xyz", "opacity", "scaling", "rotation", "features_dc", "features_rest"):
        for values in blocks:
            total.update(np.ascontiguousarray(values[name], "<f4").tobytes())
    return {
        "version": 3,
        "count": sum(len(values["xyz"]) for values in blocks),
        "shDegree": index.sh_degree,
        "layerEnds": [],
        "metadata": dict(index.metadata),
        "sectionBytes": dict(index.bytes_per_section),
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
        elif codec["section"] is None:
            assert web["message"].startswith(str(CorruptFile(web["section"], "")))
        else:
            assert web.get("section") == codec["section"], (web, codec)
            assert web["message"].startswith(str(CorruptFile(codec["section"], "")))
    return accepted


def node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Node.js in the project's folder."""
    command = ["node", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
