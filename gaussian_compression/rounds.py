# SPDX-License-Identifier: Apache-2.0
"""The figures of a round: number of Gaussians, quality, time."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quality:
    """Means over a set of views; None where the set is empty."""

    psnr: float | None
    ssim: float | None
    ms_ssim: float | None = None
    """Measured only where it is limited."""


MOST_PSNR = 10 * math.log10(12 * 255**2)
"""dB: the error of rounding a photograph to 8 bits, the highest PSNR that can be measured."""


def psnr_of(quality: Quality) -> float:
    """Its PSNR, at most MOST_PSNR (that of equal images is infinite); ValueError for no views."""
    if quality.psnr is None:
        raise ValueError("quality was measured on no views")
    return min(quality.psnr, MOST_PSNR)


WHATEVER = Quality(None, None)
"""The least quality where none is required."""

MEASURES = ("psnr", "ssim", "ms_ssim")
"""What the stopping rule can limit."""
UNITS = {"psnr": "dB", "ssim": "in SSIM", "ms_ssim": "in MS-SSIM"}
"""What follows their numbers in texts."""


def value_of(quality: Quality, measure: str) -> float:
    """The value of a name in MEASURES; ValueError if it was not measured."""
    if measure == "psnr":
        return psnr_of(quality)
    value: float | None = getattr(quality, measure)
    if value is None:
        raise ValueError(f"{measure} was not measured")
    return value


def reaches(quality: Quality, least: Quality) -> bool:
    """Whether it has at least these values, of which None require nothing.

    ValueError if one that is required was not measured.
    """
    required = [measure for measure in MEASURES if getattr(least, measure) is not None]
    return all(value_of(quality, measure) >= getattr(least, measure) for measure in required)


@dataclass(frozen=True)
class Measurement:
    """A round's model on test views and as a file: reported, never used to decide."""

    test: Quality
    file_bytes: int


@dataclass(frozen=True)
class SizeEstimate:
    """The size of the file if a round were stored without the final fine-tuning."""

    bytes: int
    made_with: str
    """A digest of the settings and the metadata that it depends on besides the round's model."""


@dataclass(frozen=True)
class Cycle:
    """The figures of the unpruned model after a cycle of the warm-up."""

    iterations: int
    """Of fine-tuning, from the start model to the end of this cycle."""
    guard: Quality
    training: Quality


@dataclass(frozen=True)
class Round:
    """The figures of one round."""

    number: int
    gaussians: int
    iterations: int
    """Of fine-tuning, from the start model to the end of this round."""
    guard: Quality
    wall_seconds: float
    cpu_seconds: float
    measurement: Measurement | None = None
    estimate: SizeEstimate | None = None
    """With --target_mb, in rounds whose file is not much larger than the target."""
    training: Quality | None = None
    """On some of the training views; None in rounds of earlier versions."""
    cycles: tuple[Cycle, ...] = ()
    """Of round 0: those before its last one, whose figures are the round's own."""


@dataclass(frozen=True)
class StageTime:
    """The time of one stage."""

    stage: str
    wall_seconds: float
    cpu_seconds: float


def round_from_json(fields: dict[str, Any]) -> Round:
    """The round whose `asdict` is `fields`."""
    measured, estimate = fields["measurement"], fields.get("estimate")
    training = fields.get("training")
    converted = {
        "guard": Quality(**fields["guard"]),
        "measurement": measured
        and Measurement(Quality(**measured["test"]), measured["file_bytes"]),
        "estimate": estimate and SizeEstimate(**estimate),
        "training": training and Quality(**training),
        "cycles": tuple(map(_cycle_from_json, fields.get("cycles", ()))),
    }
    return Round(**{**fields, **converted})


def _cycle_from_json(fields: dict[str, Any]) -> Cycle:
    views = {name: Quality(**fields[name]) for name in ("guard", "training")}
    return Cycle(fields["iterations"], **views)
