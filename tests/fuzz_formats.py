# SPDX-License-Identifier: Apache-2.0
"""Fuzzing the readers of foreign formats with atheris.

    pip install atheris
    python -m tests.fuzz_formats TARGET [a folder that keeps inputs] [options of libFuzzer]

TARGET is one of TARGETS in tests/damaged_formats.py, such as `spz`. Starts from small valid files,
which it makes. Any exception but CorruptFile and InputError is a fault, and so is a file that needs
more than MEMORY, beyond which allocations fail.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["splat_codec", "splat_formats"]):
    from tests.damaged_formats import TARGETS, prepared_input, read_or_refuse, small_files
from tests.fuzz_codec import limit_memory

MEMORY = 2**29
"""Bytes of address space beyond what the process has when fuzzing begins."""
LONGEST = 20_000
"""Bytes of an input."""


def main() -> None:
    """Fuzzes until stopped."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"the first argument must be one of: {', '.join(TARGETS)}")
    target = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus, path = Path(folder) / "corpus", Path(folder) / "input"
        corpus.mkdir()
        for name, content in small_files(target, Path(folder)):
            (corpus / name).write_bytes(content)

        def one_input(data: bytes) -> None:
            for content in (data, prepared_input(target, data)):
                path.write_bytes(content)
                read_or_refuse(target, path)

        options = [f"-max_len={LONGEST}", "-rss_limit_mb=4096", str(corpus)]
        atheris.Setup([*sys.argv, *options], one_input)
        limit_memory(MEMORY)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
