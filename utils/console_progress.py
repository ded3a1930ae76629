# SPDX-License-Identifier: Apache-2.0
"""Progress of long work on a terminal: one bar per stage, and lines that stay."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import SupportsFloat

from tqdm import tqdm

LOSS_SMOOTHING = 0.6  # as Inria's training bar: 0.6 old + 0.4 new


class ConsoleProgress:
    """Bars on stderr, with the remaining time; notes above them."""

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Callable[[SupportsFloat | None], None]]:
        """A bar of `steps`; call what it yields after each, with a loss if there is one."""
        smoothed: float | None = None
        with tqdm(total=steps, desc=name, leave=False, dynamic_ncols=True) as bar:

            def advance(loss: SupportsFloat | None) -> None:
                nonlocal smoothed
                if loss is not None:
                    keep = LOSS_SMOOTHING if smoothed is not None else 0.0
                    smoothed = keep * (smoothed or 0.0) + (1 - keep) * float(loss)
                    if bar.n % 10 == 0:
                        bar.set_postfix_str(f"loss {smoothed:.5f}", refresh=False)
                bar.update()

            yield advance

    def note(self, text: str) -> None:
        """One line that stays."""
        tqdm.write(text)
