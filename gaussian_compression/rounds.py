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


MOST_PSNR = 10 * math.log10(12 * 255**2)
"""dB: the error of rounding a photograph to 8 bits, the highest PSNR that can be measured."""


def psnr_of(quality: Quality) -> float:
    """Its PSNR, at most MOST_PSNR (that of equal images is infinite); ValueError for no views."""
    if quality.psnr is None:
        raise ValueError("quality was measured on no views")
    return min(quality.psnr, MOST_PSNR)


WHATEVER = Quality(-math.inf, -math.inf)
"""The least quality where none is required."""


def least_quality(zero: Quality, psnr_drop: float, ssim_drop: float) -> Quality:
    """What a model has that loses so much against `zero`; a drop may be infinite."""
    if zero.ssim is None:
        raise ValueError("quality was measured on no views")
    return Quality(psnr_of(zero) - psnr_drop, zero.ssim - ssim_drop)


def reaches(quality: Quality, least: Quality) -> bool:
    """Whether it has at least this PSNR and SSIM; ValueError for no views."""
    if quality.ssim is None or least.psnr is None or least.ssim is None:
        raise ValueError("quality was measured on no views")
    return psnr_of(quality) >= least.psnr and quality.ssim >= least.ssim


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
    }
    return Round(**{**fields, **converted})
