# SPDX-License-Identifier: Apache-2.0
"""The measured points of rate-distortion curves, as rows of a CSV file. No PyTorch."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from utils.errors import InputError
from utils.files import write_text

GUARD, TEST = "guard", "test"

Key = tuple[str, str, int, str]


@dataclass(frozen=True)
class Row:
    """One compressed file. Sizes in bytes, PSNR in dB, times in seconds.

    None: not measured. `guard_*` and `test_*` are means over these views of the decoded file.
    """

    scene: str
    variant: str
    seed: int
    point: str
    """Which file of the curve: `rounds=12`, `rule`, or a name given on the command line."""
    flags: str
    """Of compress.py, for the variant and the point."""
    commit: str
    machine: str
    date: str
    start_bytes: int | None
    start_gaussians: int
    start_guard_psnr: float | None
    start_guard_ssim: float | None
    start_test_psnr: float | None
    start_test_ssim: float | None
    bytes: int
    gaussians: int
    round: int | None
    """The round whose model is in the file."""
    iterations: int
    """Of fine-tuning, in all."""
    unpruned_guard_psnr: float | None
    """Of round 0."""
    round_guard_psnr: float | None
    """Of the stored round, before the last fine-tuning."""
    guard_psnr: float | None
    guard_ssim: float | None
    guard_ms_ssim: float | None
    guard_flip: float | None
    test_psnr: float | None
    test_ssim: float | None
    test_ms_ssim: float | None
    test_flip: float | None
    cpu_seconds: float
    """Of one undisturbed run of compress.py that makes this file, all threads."""
    wall_seconds: float

    @property
    def key(self) -> Key:
        """What identifies the point; a later row with the same key replaces it in summaries."""
        return self.scene, self.variant, self.seed, self.point

    @property
    def kept(self) -> float:
        """The Gaussians of the file as a fraction of the start model's."""
        return self.gaussians / self.start_gaussians


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; none if it does not exist. InputError for anything but such a table."""
    if not path.exists():
        return []
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a table as CSV, but cannot read it ({error})"
        ) from error
    return [_row(path, number, line) for number, line in enumerate(lines, start=2)]


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each key."""
    return list({row.key: row for row in rows}.values())


def append_row(path: Path, row: Row) -> None:
    """Adds a row. The file is replaced as a whole, so that a kill leaves no part of a line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_texts(known) for known in (*read_rows(path), row))
    write_text(path, text.getvalue())


def _texts(row: Row) -> dict[str, str]:
    """The row's values; of floats five decimals, which are more than are repeatable."""
    return {name: _text(value) for name, value in asdict(row).items()}


def _text(value: str | float | None) -> str:
    if value is None:
        return ""
    return str(round(value, 5)) if isinstance(value, float) else str(value)


def _row(path: Path, number: int, line: Mapping[Any, Any]) -> Row:
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(Row).items():
        text = line.get(name)
        try:
            if text is None:
                raise ValueError("nothing")
            found[name] = _value(kind, text)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: expected a value in column {name}, got {error}"
            ) from error
    if None in line:
        raise InputError(f"{path}, line {number}: more values than columns")
    return Row(**found)


def _value(kind: Any, text: str) -> Any:
    optional = NoneType in get_args(kind)
    if optional and not text:
        return None
    (plain,) = (part for part in get_args(kind) if part is not NoneType) if optional else (kind,)
    return plain(text)
