# SPDX-License-Identifier: Apache-2.0
"""The state of all scenes on the terminal, redrawn in place; elsewhere a line for each change."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from many_scenes.records import DONE, FAILED, WAITING, Record, log_path, scene_folder

_LAST_BYTES = 400
"""Of a log, in which its last line is."""
_NAME_WIDTH = 24


class LiveTable:
    """Shows records, again and again."""

    def __init__(self, stream: TextIO, output: Path) -> None:
        self._stream, self._output = stream, output
        self._in_place = stream.isatty()
        self._drawn = 0
        self._shown: dict[str, tuple[str, int, str]] = {}

    def show(self, records: Sequence[Record], running: set[str]) -> None:
        """The present state; `running`: the names of scenes with a worker."""
        if self._in_place:
            self._redraw(records, running)
            return
        for record in records:
            state = (record.state, record.tries, record.message)
            name = record.scene.name
            known = self._shown.get(name, (WAITING, 0, ""))
            if state != known:
                self._stream.write(f"{name}: {_state(record)}\n")
            self._shown[name] = state
        self._stream.flush()

    def _redraw(self, records: Sequence[Record], running: set[str]) -> None:
        size = shutil.get_terminal_size()
        lines = self._lines(records, running, max(1, size.lines - 2))
        back = f"\x1b[{self._drawn}F" if self._drawn else ""
        text = "".join(f"{line[: size.columns - 1]}\n" for line in lines)
        self._stream.write(f"{back}\x1b[J{text}")
        self._stream.flush()
        self._drawn = len(lines)

    def _lines(self, records: Sequence[Record], running: set[str], most: int) -> list[str]:
        """Running scenes first, then failed and waiting ones; what does not fit is counted."""

        def rank(record: Record) -> int:
            if record.scene.name in running:
                return 0
            return 1 + ((FAILED, WAITING, DONE).index(record.state)
                        if record.state in (FAILED, WAITING, DONE) else 1)  # fmt: skip

        ordered = sorted(records, key=rank)
        fitting = ordered if len(ordered) < most else ordered[: most - 1]
        lines = [self._line(record, record.scene.name in running) for record in fitting]
        counts = Counter(record.state for record in records)
        return [*lines, ", ".join(f"{number} {state}" for state, number in counts.items())]

    def _line(self, record: Record, is_running: bool) -> str:
        name = record.scene.name
        shown = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
        rest = self._last_words(name) if is_running else ""
        return f"{shown:<{_NAME_WIDTH}} {_state(record)}  {rest}".rstrip()

    def _last_words(self, name: str) -> str:
        """What the scene's program printed last."""
        try:
            with log_path(scene_folder(self._output, name)).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
        return "".join(c for c in lines[-1] if c.isprintable()) if lines else ""


def _state(record: Record) -> str:
    text = record.state
    if record.tries > 1:
        text += f" (try {record.tries})"
    if record.minutes:
        text += f", {record.minutes:.1f} min"
    return f"{text}: {record.message}" if record.message else text
