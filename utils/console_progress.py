# SPDX-License-Identifier: Apache-2.0
"""Progress of long work on a terminal: one bar per stage, and lines that stay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import SupportsFloat

from tqdm import tqdm

LOSS_SMOOTHING = 0.6  # as Inria's training bar: 0.6 old + 0.4 new
SHOWN_EVERY = 10


class ConsoleProgress:
    """Bars on stderr, with the remaining time; notes above them."""

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Callable[[SupportsFloat | None], None]]:
        """A bar of `steps`; call what it yields after each, with a loss if there is one."""
        smoothed: float | None = None
        waiting: list[SupportsFloat] = []  # a loss on a GPU makes the host wait when it is read
        with tqdm(total=steps, desc=name, leave=False, dynamic_ncols=True) as bar:

            def advance(loss: SupportsFloat | None) -> None:
                nonlocal smoothed
                if loss is not None:
                    waiting.append(loss)
                if waiting and bar.n % SHOWN_EVERY == 0:
                    smoothed = _smoothed(smoothed, waiting)
                    waiting.clear()
                    bar.set_postfix_str(f"loss {smoothed:.5f}", refresh=False)
                bar.update()

            yield advance

    def note(self, text: str) -> None:
        """One line that stays."""
        tqdm.write(text)


def _smoothed(average: float | None, losses: Sequence[SupportsFloat]) -> float:
    """The average after these losses; None before the first."""
    for loss in losses:
        value = float(loss)
        average = value if average is None else average + (1 - LOSS_SMOOTHING) * (value - average)
    assert average is not None
    return average
