# SPDX-License-Identifier: Apache-2.0
"""Rules for all files of the project."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
ENDINGS = {".cpp", ".h", ".html", ".js", ".md", ".mjs", ".py", ".sh", ".toml", ".yml"}
MARKS = ("<" * 7 + " ", ">" * 7 + " ")


def test_no_file_has_marks_of_a_merge() -> None:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = [*ROOT.iterdir(), *(file for folder in folders for file in folder.rglob("*"))]
    texts = [file for file in files if file.suffix in ENDINGS and file.is_file()]
    assert len(texts) > 300
    for file in texts:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(MARKS)], file
