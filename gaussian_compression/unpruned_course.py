# SPDX-License-Identifier: Apache-2.0
"""What the unpruned model would have on guard and training views after more fine-tuning.

Guard views, on which the start model was trained and fine-tuning does not train, fall by about as
much from 400 to 800 iterations as from 2,200 to 4,400: their quality is a straight line over the
logarithm of the iterations (docs/guard.md). The line is fitted to the cycles of the warm-up, which
are like rounds without pruning, and continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gaussian_compression.rounds import MEASURES, Cycle, Quality, Round, value_of

LEAST_CYCLES = 4
"""For a line; with fewer, the unpruned model is taken to stay as it is after round 0."""


@dataclass(frozen=True)
class Unpruned:
    """Its quality after a number of iterations."""

    guard: Quality
    training: Quality | None
    """None in rounds of earlier versions."""


def unpruned(zero: Round, iterations: int) -> Unpruned:
    """The unpruned model after so many iterations, from the cycles of round 0."""
    if len(zero.cycles) + 1 < LEAST_CYCLES or zero.training is None:
        return Unpruned(zero.guard, zero.training)
    cycles = (*zero.cycles, Cycle(zero.iterations, zero.guard, zero.training))
    lengths = [cycle.iterations for cycle in cycles]
    guard = _continued(lengths, [cycle.guard for cycle in cycles], iterations)
    training = _continued(lengths, [cycle.training for cycle in cycles], iterations)
    return Unpruned(guard, training)


def _continued(lengths: Sequence[int], measured: Sequence[Quality], iterations: int) -> Quality:
    """Each measure on its line of least squares over the logarithm of the iterations."""
    logarithms = np.log(lengths)

    def on_line(measure: str) -> float | None:
        if getattr(measured[-1], measure) is None:
            return None
        values = [value_of(quality, measure) for quality in measured]
        slope, offset = np.polyfit(logarithms, values, 1)
        return float(offset + slope * np.log(iterations))

    return Quality(*map(on_line, MEASURES))
