# SPDX-License-Identifier: Apache-2.0
"""Named settings of compress.py."""

from dataclasses import replace

from gaussian_compression.settings import (
    CompressionSettings,
    GridSettings,
    RateCourse,
    StoppingRule,
    TrajectorySettings,
    WarmRestart,
)

_BALANCED = CompressionSettings(
    TrajectorySettings(
        quantization=None,
        score="removal_error",
        prune_fraction=0.2,
        warmup_iterations=4400,
        warmup_cycles=11,
        finetune_iterations=400,
        round_rates=RateCourse(
            WarmRestart(rate_factor=10.0, position_rate_factor=100.0),
            end=0.1,
            opacity_decay=0.06,
        ),
    ),
    stopping=StoppingRule(max_ssim_drop=0.005, guard_memory=0.2),
    final_iterations=2500,
    grids=GridSettings(),
)
"""Chosen on guard views (docs/compression.md, docs/guard.md)."""

PRESETS = {
    "fast": replace(
        _BALANCED,
        trajectory=replace(
            _BALANCED.trajectory,
            prune_fraction=0.3,
            warmup_iterations=1200,
            warmup_cycles=6,
            finetune_iterations=200,
        ),
        stopping=replace(_BALANCED.stopping, patience=1),
        final_iterations=550,
    ),
    "balanced": _BALANCED,
    "small": replace(
        _BALANCED,
        final_iterations=2 * _BALANCED.final_iterations,
        grids=GridSettings(noise=0.06),
    ),
    "fast3dgs": CompressionSettings(),
}
"""A preset gives the values of all flags that are not on the command line."""

DEFAULT_PRESET = "balanced"
OTHER_NAMES = {"compact": "balanced"}
"""Names that earlier versions used."""
PRESET_HELP = (
    "balanced (default): rounds in full precision, then grids fitted to the scene and entropy "
    "coding; fast: the same with fewer iterations; small: coarser grids and a longer last "
    "fine-tuning, for a smaller file; fast3dgs: the published method throughout, 8-bit SH, half "
    "floats and LZMA"
)


def preset_name(name: str) -> str:
    """The name in PRESETS of a preset that may be given by another name."""
    return OTHER_NAMES.get(name, name)
