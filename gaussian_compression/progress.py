# SPDX-License-Identifier: Apache-2.0
"""The interface through which a run reports its progress."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, SupportsFloat

Advance = Callable[[SupportsFloat | None], None]


class Progress(Protocol):
    """Bars and lines; see utils.console_progress."""

    def stage(self, name: str, steps: int) -> AbstractContextManager[Advance]:
        """A bar of `steps`; what it yields is called after each, with a loss if there is one."""
        ...

    def note(self, text: str) -> None:
        """One line that stays."""
        ...
