# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and SIGHUP, as exceptions or as a request to stop soon.

A batch system, a container and `kill` send SIGTERM, a closed terminal SIGHUP. Both end a program at
once unless it handles them, with its temporary files left and nothing saved.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_ENDINGS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Terminated(KeyboardInterrupt):
    """The program received `signal_number`, and ends as after Ctrl-C."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass
class Interruption:
    """The first signal received; None: none yet."""

    signal_number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.signal_number is not None

    def error(self) -> KeyboardInterrupt:
        """What to raise when everything is saved."""
        if self.signal_number in (None, signal.SIGINT):
            return KeyboardInterrupt()
        return Terminated(self.signal_number)


@contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise Terminated, as Ctrl-C raises KeyboardInterrupt.

    A signal that the parent process set to be ignored (nohup) stays ignored. Without effect outside
    the main thread, where Python allows no signal handlers.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        raise Terminated(signum)

    with _handlers(_ENDINGS, end):
        yield


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Record the first Ctrl-C, SIGTERM or SIGHUP, so that a step can end. A second one raises.

    Without effect outside the main thread.
    """
    noted = Interruption()

    def note(signum: int, frame: FrameType | None) -> None:
        if noted.requested:
            noted.signal_number = signum
            raise noted.error()
        noted.signal_number = signum

    with _handlers([signal.SIGINT, *_ENDINGS], note):
        yield noted


@contextmanager
def _handlers(
    signals: list[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == getattr(signal, "SIGHUP", None):
            _detach(terminals)
        handler(signum, frame)

    previous = {s: signal.getsignal(s) for s in signals}
    previous = {s: old for s, old in previous.items() if old not in (None, signal.SIG_IGN)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _detach(streams: list[int]) -> None:
    """Discards output to a closed terminal: a write error would prevent saving."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)
