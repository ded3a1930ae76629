# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of the decoder: `python -m tests.fuzz_codec [-max_total_time=3600]`.

Needs `pip install atheris`. Checksums are set right before decoding, so that damage reaches the
code behind them. Starts from the golden files and what earlier runs found to reach new code
(golden/fuzz_corpus.zip, replayed by test_fuzz_corpus.py); anything but CorruptFile is a finding.
The process grows by about its input at each execution (the decoder alone does not): give
`-runs=90000` and repeat.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gaussian_compression"]):
    from tests.fuzz_inputs import one_input, unpacked

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    """Fuzzes until stopped."""
    with tempfile.TemporaryDirectory() as corpus:
        for path in GOLDEN.glob("good_*.f3dgs"):
            (Path(corpus) / path.stem).write_bytes(unpacked(path.read_bytes()))
        with zipfile.ZipFile(GOLDEN / "fuzz_corpus.zip") as found:
            found.extractall(corpus)
        atheris.Setup([*sys.argv, "-max_len=20000", "-rss_limit_mb=2048", corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
