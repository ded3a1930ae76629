# SPDX-License-Identifier: Apache-2.0
"""The last stage of the preset compact: grids, fine-tuning on them, and a check against the rule.

The stopping rule limits the loss of rounds on the guard views. The same limit applies to the file:
if it loses too much, its grids are made finer; if that does not help, a warning reports it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gaussian_compression.checked_grids import AddedError, checked_quantizer
from gaussian_compression.grid_straight_through import (
    GridStraightThrough,
    grid_straight_through,
    with_ordered_raw_axes,
)
from gaussian_compression.report import PromiseFigures
from gaussian_compression.rounds import Quality, psnr_of
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import GridSettings, StoppingRule
from gaussian_compression.stopping import drop_of
from gaussian_compression.trainable import StraightThrough
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters
from splat_codec.grid_splats import GridSplats
from splat_formats.decoded import to_splats
from splat_formats.outliers import Adjustments, without_invisible

LEAST_START = 10.0
"""dB: a model of the photographed scene has more."""
FAR_BELOW_START = 1.0
"""dB more than the rule allows: greater than the noise of the guard views' PSNR."""
_TRIES = 3
_FINER = (1 / 8, 1 / 2)
"""The least and the greatest factor of the noise in one try."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalTools:
    """The functions by which the last stage measures and trains."""

    sensitivity: Callable[[RawParameters], RenderSensitivity]
    """On the training views without the guard views, which the rounds were not trained on."""
    added_error: AddedError
    """On the same views."""
    guard_psnr: Callable[[RawParameters], float]
    finetune: Callable[[StraightThrough], None]
    operations: ArrayOperations


def promise_of(
    zero: Quality, shipped: Quality, rule: StoppingRule, *, guard_was_trained_on: bool
) -> PromiseFigures:
    """Whether the stored file, of quality `shipped`, keeps to the rule."""
    promise = PromiseFigures(
        rule.max_psnr_drop, None, None, guard_was_trained_on, allowed_ssim_drop=rule.max_ssim_drop
    )
    if zero.psnr is None or shipped.psnr is None:
        return promise
    drop = drop_of(zero, shipped)
    return replace(promise, drop=drop.psnr, kept=drop.keeps_to(rule), ssim_drop=drop.ssim)


def start_warnings(start: Quality) -> list[str]:
    """Warnings before any work, in sentences."""
    if start.psnr is None or start.psnr >= LEAST_START:
        return []
    return [
        f"the start model has only {start.psnr:.1f} dB on the guard views, expected at least "
        f"{LEAST_START:g}: check that photographs and cameras are those it was trained on"
    ]


def end_warnings(start: Quality, shipped: Quality, promise: PromiseFigures) -> list[str]:
    """Warnings about the finished file, in sentences."""
    warnings = [
        f"the file loses {lost} on the guard views against round 0, more than the {allowed}: "
        "longer fine-tuning (--warmup_iterations, --final_iterations) or a smaller --noise "
        "reduces the loss"
        for lost, allowed in _broken(promise)
    ]
    if start.psnr is None or shipped.psnr is None:
        return warnings
    lost = psnr_of(start) - psnr_of(shipped)
    if lost > promise.allowed_drop + FAR_BELOW_START:
        warnings.append(f"the file is {lost:.2f} dB below the start model on the guard views")
    return warnings


def _broken(promise: PromiseFigures) -> list[tuple[str, str]]:
    """What was lost, and the limit, for each limit that is not kept."""
    drop, ssim_drop, most_ssim = promise.drop, promise.ssim_drop, promise.allowed_ssim_drop
    broken = []
    if drop is not None and drop > promise.allowed_drop:
        broken.append((f"{drop:.2f} dB", f"{promise.allowed_drop:g} dB of --max_psnr_drop"))
    if ssim_drop is not None and most_ssim is not None and ssim_drop > most_ssim:
        broken.append((f"{ssim_drop:.4f} in SSIM", f"{most_ssim:g} of --max_ssim_drop"))
    return broken


def visible_rows(raw: RawParameters) -> RawParameters:
    """`raw` without Gaussians that no image can show; unchanged if no image can show any."""
    kept, _ = without_invisible(raw.to_splats())
    if not kept.count:
        return raw
    return RawParameters.from_splats(kept, raw.xyz.device)


def adjustments_of(raw: RawParameters, stored: GridSplats) -> Adjustments:
    """How the model `stored` in the file differs from `raw`, apart from rounding."""
    return replace(
        without_invisible(raw.to_splats())[1],
        invisible_dropped=raw.gaussian_count - stored.count,
        stored_exactly=len(np.unique(stored.exact.rows)),
    )


@dataclass(frozen=True)
class OnGrids:
    """A model and the grids that were fitted to it, before any training on them."""

    raw: RawParameters
    optimizer: GridStraightThrough


def on_grids(
    raw: RawParameters, guard_psnr: float, tools: FinalTools, grids: GridSettings
) -> OnGrids:
    """`raw`, which has `guard_psnr` on the guard views, as the file stores it."""
    raw = with_ordered_raw_axes(visible_rows(raw))
    sensitivity = tools.sensitivity(raw)
    # Training views have less error than unseen views, to which `noise` refers.
    unseen = min(guard_psnr, sensitivity.psnr)
    settings = replace(grids, noise=grids.noise * 10 ** ((sensitivity.psnr - unseen) / 10))
    quantizer = checked_quantizer(raw, sensitivity, settings, tools.added_error)
    optimizer = grid_straight_through(raw, quantizer, sensitivity, settings, tools.operations)
    return OnGrids(raw, optimizer)


def model_on_grids(
    raw: RawParameters, guard_psnr: float, least: float, tools: FinalTools, grids: GridSettings
) -> GridSplats:
    """The integers to store: fine-tuned on grids, with `least` dB or more on the guard views.

    If the fine-tuned model has less, the better of it and of the model before fine-tuning is put on
    finer grids, up to three times. The best of all is stored if none has `least` dB.
    """
    first = on_grids(raw, guard_psnr, tools, grids)
    tools.finetune(first.optimizer)
    best = _measured(first.optimizer, tools)
    if best.psnr >= least:
        return best.stored
    logger.info("%.2f dB on the guard views, %.2f are needed: finer grids", best.psnr, least)
    floats = [first.raw, first.optimizer.trained()]
    base_psnr, base = max(((tools.guard_psnr(f), f) for f in floats), key=lambda pair: pair[0])
    room = 10 ** ((base_psnr - least) / 10) - 1
    noise, factor = grids.noise, room / 2 / grids.noise
    for _ in range(_TRIES):
        noise *= min(max(factor, _FINER[0]), _FINER[1])
        finer = on_grids(base, guard_psnr, tools, replace(grids, noise=noise))
        found = _measured(finer.optimizer, tools)
        best = max(best, found, key=lambda measured: measured.psnr)
        if best.psnr >= least or room <= 0:
            break
        factor = 0.7 * room / (10 ** ((base_psnr - found.psnr) / 10) - 1)
    return best.stored


@dataclass(frozen=True)
class _Measured:
    psnr: float
    """Of the decoded model on the guard views, in dB."""
    stored: GridSplats


def _measured(optimizer: GridStraightThrough, tools: FinalTools) -> _Measured:
    # In file order, which decides on Gaussians that rounding puts at the same depth.
    stored = optimizer.stored()
    decoded = RawParameters.from_splats(to_splats(stored), optimizer.seen.xyz.device)
    return _Measured(tools.guard_psnr(decoded), stored)
