# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of the decoder: `python -m tests.fuzz_codec [-max_total_time=3600]`.

Needs `pip install atheris`. Checksums are set right before decoding, so that damage reaches the
code behind them. Starts from the golden files; anything but CorruptFile is a finding.
"""

import struct
import sys
import tempfile
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gaussian_compression"]):
    from gaussian_compression.codec.container import (
        Container,
        pack_container,
        unpack_container,
    )
    from gaussian_compression.codec.errors import CorruptFile
    from gaussian_compression.codec.model_file import decode

GOLDEN = Path(__file__).parent / "golden"
PACKED = ("model", "tables")


def unpacked(data: bytes) -> bytes:
    """A file as the fuzzer changes it: version, then each section inflated behind its length."""
    container = unpack_container(data)
    parts = [struct.pack("<H", container.version)]
    for name, section in container.sections.items():
        is_packed = container.version == 2 and name in PACKED
        content = zlib.decompress(section) if is_packed else section
        parts.append(struct.pack("<8sI", name.encode(), len(content)) + content)
    return b"".join(parts)


def packed(data: bytes) -> bytes | None:
    """The file that such bytes describe, with right checksums."""
    if len(data) < 2:
        return None
    (version,), sections, position = struct.unpack_from("<H", data), {}, 2
    while position + 12 <= len(data):
        name, length = struct.unpack_from("<8sI", data, position)
        content = data[position + 12 : position + 12 + length]
        position += 12 + length
        text = name.rstrip(b"\0")
        if not text.isalnum():
            return None
        key = text.decode("ascii")
        is_packed = version == 2 and key in PACKED
        sections[key] = zlib.compress(content, 1) if is_packed else content
    return pack_container(Container(version, sections)) if len(sections) <= 64 else None


def one_input(data: bytes) -> None:
    """Raises only where the decoder does what it must not."""
    for candidate in (data, packed(data)):
        if candidate is not None:
            try:
                decode(candidate).splats.values()
            except CorruptFile:
                continue


def main() -> None:
    """Fuzzes until stopped."""
    with tempfile.TemporaryDirectory() as corpus:
        for path in GOLDEN.glob("good_*.f3dgs"):
            (Path(corpus) / path.stem).write_bytes(unpacked(path.read_bytes()))
        atheris.Setup([*sys.argv, "-max_len=20000", "-rss_limit_mb=2048", corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
