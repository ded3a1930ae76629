# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C as a request to stop at the next good moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interruption:
    """Whether Ctrl-C has been pressed."""

    requested: bool = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Note the first Ctrl-C, so that no half-done step is ever saved; a second stops at once.

    Works in the main thread only, as signal handlers do.
    """
    noted = Interruption()

    def note(signum: int, frame: FrameType | None) -> None:
        noted.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)
