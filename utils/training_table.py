# SPDX-License-Identifier: Apache-2.0
"""The course of a training as training.csv in the model folder, one row every few iterations."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from utils.files import write_text

TABLE_NAME = "training.csv"
COLUMNS = (
    *("iteration", "seconds", "loss", "depth_loss", "gaussians"),
    *("test_l1", "test_psnr", "train_l1", "train_psnr"),
)


class TrainingTable:
    """Rows are appended as they come. Call `close` at the end."""

    def __init__(self, folder: str | Path, first_iteration: int = 0) -> None:
        """Rows of an earlier run are kept up to `first_iteration`, after which this run begins."""
        path = Path(folder) / TABLE_NAME
        kept = _rows_up_to(path, first_iteration) if first_iteration else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([COLUMNS, *kept])
        write_text(path, text.getvalue())
        self.seconds = float(kept[-1][1]) if kept else 0.0
        """Of training, up to the last row of the earlier run."""
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Mapping[str, float | int]) -> None:
        """Append a row; columns that it lacks stay empty."""
        self._writer.writerow([row.get(name, "") for name in COLUMNS])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows_up_to(path: Path, iteration: int) -> list[list[str]]:
    """The rows of a table that are whole, up to this iteration; none of another file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return (
        [row for row in rows if _is_row(row) and int(row[0]) <= iteration]
        if (header == list(COLUMNS))
        else []
    )


def _is_row(row: list[str]) -> bool:
    try:
        return len(row) == len(COLUMNS) and int(row[0]) > 0 and float(row[1]) >= 0
    except ValueError:
        return False
