# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files: `python -m tests.golden.regenerate`.

A commit that changes them states why.
good_*.f3dgs decode to the values whose SHA-256 sizes.csv holds; bad_*.f3dgs must be refused.
blocks_good.f3dgs is of version 3, and tests/test_block_file.py has the checksums of its values.
A file of a published version never changes: every later reader has to read it.
"""

import csv
import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from splat_codec.block_file import BlockWriter
from splat_codec.container import Container, pack_container, unpack_container
from splat_codec.model_file import ModelFile, decode, encode, in_file_order
from splat_formats.block_coding import box_of
from tests.test_codec import random_model as random_version_1
from tests.test_grid_codec import random_model as random_version_2
from tests.test_grid_codec import with_exact_values, with_repeated_sh
from utils.files import write_text

FOLDER = Path(__file__).parent
TABLE = FOLDER / "sizes.csv"


def good_files() -> dict[str, bytes]:
    """Small files of both versions, by name."""
    files = {
        f"good_v1_sh{degree}": encode(ModelFile(in_file_order(random_version_1(60, degree))))
        for degree in (0, 3)
    }
    for degree in range(4):
        model = random_version_2(120, degree, seed=degree)
        files[f"good_v2_sh{degree}"] = encode(ModelFile(model, {"generator": "golden"}))
    exact = with_exact_values(random_version_2(90, 1, seed=9))
    files["good_v2_exact"] = encode(ModelFile(exact, {"generator": "golden"}))
    shared = with_repeated_sh(random_version_2(300, 1, seed=5, layer_fraction=0.3))
    files["good_v2_shared"] = encode(ModelFile(shared, {"generator": "golden"}))
    files["good_v2_empty"] = encode(ModelFile(random_version_2(0, 3)))
    return files


def bad_files(good: dict[str, bytes]) -> dict[str, bytes]:
    """Files that a reader must refuse, by what is wrong with them. Their checksums are right."""
    data = good["good_v2_sh1"]
    sections = dict(unpack_container(data).sections)
    model = bytearray(zlib.decompress(sections["model"]))

    def changed(version: int = 2, **new: bytes) -> bytes:
        return pack_container(Container(version, {**sections, **new}))

    def false_count(count: int) -> bytes:
        changed_model = model.copy()  # its lanes: 1
        changed_model[1:5] = count.to_bytes(4, "little")
        return zlib.compress(bytes(changed_model), 9)

    def beyond_float32() -> bytes:
        changed_model = model.copy()
        changed_model[32:36] = struct.pack("<f", 3e38)  # the cell
        return zlib.compress(bytes(changed_model), 9)

    shared = dict(unpack_container(good["good_v2_shared"]).sections)
    shared_model = zlib.decompress(shared["model"])

    def of_shared(**new: bytes) -> bytes:
        return pack_container(Container(2, {**shared, **new}))

    return {
        "bad_shared_mark": of_shared(model=zlib.compress(shared_model[:-1] + b"\2", 9)),
        "bad_shared_unmarked": of_shared(model=zlib.compress(shared_model[:-1], 9)),
        "bad_shared_bits": of_shared(bits1=shared["bits1"][:-1]),
        "bad_cut_short": data[: len(data) // 2],
        "bad_left_over": data + b"\0",
        "bad_checksum": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "bad_version": changed(version=3),
        "bad_unknown_section": changed(extra=b""),
        "bad_more_gaussians": changed(model=false_count(1000)),
        "bad_few_lanes": changed(model=false_count(1025)),
        "bad_beyond_limit": changed(model=false_count(2**31)),
        "bad_words_missing": changed(rans0=sections["rans0"][:-2]),
        "bad_words_left_over": changed(rans1=sections["rans1"] + b"\0\0"),
        "bad_bits_missing": changed(bits1=sections["bits1"][:-1]),
        "bad_exact_order": changed(exact0=struct.pack("<2I2B2f", 3, 3, 5, 4, 1, 1)),
        "bad_exact_nan": changed(exact0=struct.pack("<IBf", 3, 5, float("nan"))),
        "bad_cell_too_large": changed(model=beyond_float32()),
        "bad_v1_many": false_count_in_version_1(good["good_v1_sh0"]),
        "bad_tables_bomb": changed(tables=zlib.compress(bytes(10**6), 9)),
    }


def blocks_file() -> bytes:
    """A file of version 3: three blocks, the second without Gaussians."""
    file = io.BytesIO()
    writer = BlockWriter(file, 3, 1, {"generator": "golden"})
    for count in (10, 0, 14):
        model = random_version_2(count, 1, seed=count)
        low, high = box_of(model.values()["xyz"])
        writer.add(encode(ModelFile(model)) if count else b"", count, low, high)
    writer.finish()
    return file.getvalue()


def false_count_in_version_1(data: bytes) -> bytes:
    """A file of version 1 that states more Gaussians than a file of its size may hold."""
    sections = dict(unpack_container(data).sections)
    sections["model"] = (2**21).to_bytes(4, "little") + sections["model"][4:]
    return pack_container(Container(1, sections))


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of sizes.csv by the files' names."""
    with path.open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def digest(data: bytes) -> str:
    """SHA-256 of the decoded values, attribute by attribute in the order of the format page."""
    names = ("xyz", "opacity", "scaling", "rotation", "features_dc", "features_rest")
    values = decode(data).splats.values()
    hashed = hashlib.sha256()
    for name in names:
        hashed.update(np.ascontiguousarray(values[name], "<f4").tobytes())
    return hashed.hexdigest()


def main() -> None:
    """Writes all files and the table."""
    good = good_files()
    for name, data in {**good, **bad_files(good)}.items():
        (FOLDER / f"{name}.f3dgs").write_bytes(data)
    (FOLDER / "blocks_good.f3dgs").write_bytes(blocks_file())
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "bytes", "sha256 of the decoded values"])
    for name, data in good.items():
        table.writerow([name, len(data), digest(data)])
    write_text(TABLE, text.getvalue())


if __name__ == "__main__":
    main()
