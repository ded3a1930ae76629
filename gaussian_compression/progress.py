# SPDX-License-Identifier: Apache-2.0
"""The interface through which a run reports its progress."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, SupportsFloat

Advance = Callable[[SupportsFloat | None], None]


class Progress(Protocol):
    """Progress bars and lines of text; see utils.console_progress."""

    def stage(self, name: str, steps: int) -> AbstractContextManager[Advance]:
        """A bar of `steps`; yields a function to call after each, with the loss or None."""
        ...

    def note(self, text: str) -> None:
        """Prints one line."""
        ...
