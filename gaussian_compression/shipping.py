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
from gaussian_compression.rounds import MEASURES, Quality, psnr_of, reaches, value_of
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import GridSettings, StoppingRule
from gaussian_compression.stopping import Limits, drop_of, limits_of, loss_text
from gaussian_compression.trainable import StraightThrough
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters
from splat_codec.grid_splats import GridSplats
from splat_formats.decoded import to_splats
from splat_formats.outliers import Adjustments, without_invisible

LEAST_START = 10.0
"""dB: a model of the photographed scene has more."""
FAR_BELOW_START = 1.0
"""dB more than the rule allows: greater than the noise of a few views' PSNR."""
REMEMBERED = 4.0
"""dB more, on views that the start model was trained on: what the fine-tuning without them takes
away is 1.6 dB on fox and 2.5 on snowmiku, whose unseen views have gained (docs/guard.md)."""
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
    guard: Callable[[RawParameters], Quality]
    """On the guard views."""
    finetune: Callable[[StraightThrough], None]
    operations: ArrayOperations


def promise_of(
    zero: Quality,
    shipped: Quality,
    rule: StoppingRule,
    *,
    guard_was_trained_on: bool,
    on_guard: Limits | None = None,
) -> PromiseFigures:
    """Whether the stored file, of quality `shipped` on guard views, keeps to the rule.

    `on_guard`: what these may lose, where the rule predicts the loss of unseen views.
    """
    promise = PromiseFigures(
        *(rule.max_psnr_drop, None, None, guard_was_trained_on),
        allowed_ssim_drop=rule.max_ssim_drop,
        allowed_ms_ssim_drop=rule.max_ms_ssim_drop,
    )
    if on_guard is not None:
        promise = replace(
            promise,
            allowed_on_guard=on_guard.psnr,
            allowed_ssim_on_guard=on_guard.ssim,
            allowed_ms_ssim_on_guard=on_guard.ms_ssim,
        )
    if zero.psnr is None or shipped.psnr is None:
        return promise
    drop = drop_of(zero, shipped)
    kept = not drop.beyond(limits_of(rule) if on_guard is None else on_guard)
    return replace(
        promise, drop=drop.psnr, ssim_drop=drop.ssim, ms_ssim_drop=drop.ms_ssim, kept=kept
    )


def start_warnings(start: Quality) -> list[str]:
    """Warnings before any work, in sentences."""
    if start.psnr is None or start.psnr >= LEAST_START:
        return []
    return [
        f"the start model has only {start.psnr:.1f} dB on the guard views, expected at least "
        f"{LEAST_START:g}: check that photographs and cameras are those it was trained on"
    ]


def end_warnings(
    promise: PromiseFigures, guard: tuple[Quality, Quality], test: tuple[Quality, Quality]
) -> list[str]:
    """Warnings about the finished file, in sentences.

    `guard` and `test`: of the start model and of the file, on these views.
    """
    warnings = [
        f"the file loses {lost} on the guard views against round 0, more than {allowed}: longer "
        "fine-tuning (--warmup_iterations, --final_iterations) or a smaller --noise reduces the "
        "loss"
        for lost, allowed in _broken(promise)
    ]
    if any(quality.psnr is None for quality in guard):
        return warnings
    unseen = all(quality.psnr is not None for quality in test)
    start, shipped = test if unseen else guard
    lost, far = psnr_of(start) - psnr_of(shipped), promise.allowed_drop + FAR_BELOW_START
    if lost > far + (0 if unseen else REMEMBERED):
        views = "test" if unseen else "guard"
        warnings.append(f"the file is {lost:.2f} dB below the start model on the {views} views")
    return warnings


def _broken(promise: PromiseFigures) -> list[tuple[str, str]]:
    """What was lost, and the limit, for each limit that is not kept."""
    lost = (promise.drop, promise.ssim_drop, promise.ms_ssim_drop)
    most = (promise.allowed_drop, promise.allowed_ssim_drop, promise.allowed_ms_ssim_drop)
    on_guard = (
        promise.allowed_on_guard,
        promise.allowed_ssim_on_guard,
        promise.allowed_ms_ssim_on_guard,
    )
    broken = []
    for measure, loss, limit, guard in zip(MEASURES, lost, most, on_guard, strict=True):
        if loss is None or limit is None or loss <= (limit if guard is None else guard):
            continue
        allowed = f"the {limit:g}{' dB' * (measure == 'psnr')} of --max_{measure}_drop"
        if guard is not None:
            shown = loss_text(measure, guard)
            allowed = f"the {shown} at which unseen views are predicted to lose {allowed}"
        broken.append((loss_text(measure, loss), allowed))
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
    raw: RawParameters, guard_psnr: float, least: Quality, tools: FinalTools, grids: GridSettings
) -> GridSplats:
    """The integers to store: fine-tuned on grids, of `least` quality or better on the guard views.

    If the fine-tuned model is worse, the better of it and of the model before fine-tuning is put on
    finer grids, up to three times. The best of all is stored if none is good enough.
    """
    first = on_grids(raw, guard_psnr, tools, grids)
    tools.finetune(first.optimizer)
    best = found = _measured(first.optimizer, tools)
    if reaches(best.guard, least):
        return best.stored
    logger.info("finer grids: guard views have %s, need %s", _text(best.guard), _text(least))
    floats = [first.raw, first.optimizer.trained()]
    base, base_raw = max(((tools.guard(f), f) for f in floats), key=lambda pair: psnr_of(pair[0]))
    # The fine-tuning may be what made the model worse: the noise tells more of the first grids.
    added, noise = 1.4 * grids.noise, grids.noise
    for _ in range(_TRIES):
        factor = _noise_factor(found.guard, base, least, added)
        noise *= min(max(factor, _FINER[0]), _FINER[1])
        finer = on_grids(base_raw, guard_psnr, tools, replace(grids, noise=noise))
        found = _measured(finer.optimizer, tools)
        best = max(best, found, key=lambda one: (reaches(one.guard, least), psnr_of(one.guard)))
        if reaches(best.guard, least) or not reaches(base, least):
            break
        added = _added_error(base, psnr_of(found.guard))
    return best.stored


def _text(quality: Quality) -> str:
    known = [(measure, getattr(quality, measure)) for measure in MEASURES]
    return ", ".join(loss_text(*pair) for pair in known if pair[1] is not None)


def _added_error(base: Quality, psnr: float) -> float:
    """How much more squared error than `base` a model of this PSNR has, as a fraction."""
    return 10 ** ((psnr_of(base) - psnr) / 10) - 1


def _noise_factor(found: Quality, base: Quality, least: Quality, added: float) -> float:
    """By how much the noise has to change, so that all limits are kept.

    `base`: the model that the grids of `found` round; `added`: their squared error, as a fraction.
    Losses of SSIM and MS-SSIM, too, are about proportional to it.
    """
    factors = []
    if least.psnr is not None and psnr_of(found) < least.psnr:
        factors.append(0.7 * _added_error(base, least.psnr) / added)
    for measure in MEASURES[1:]:
        wanted = getattr(least, measure)
        if wanted is None:
            continue
        before, after = value_of(base, measure), value_of(found, measure)
        if after < wanted < before:
            factors.append(0.7 * (before - wanted) / (before - after))
    return min(factors, default=0.0)


@dataclass(frozen=True)
class _Measured:
    guard: Quality
    """Of the decoded model."""
    stored: GridSplats


def _measured(optimizer: GridStraightThrough, tools: FinalTools) -> _Measured:
    # In file order, which decides on Gaussians that rounding puts at the same depth.
    stored = optimizer.stored()
    decoded = RawParameters.from_splats(to_splats(stored), optimizer.seen.xyz.device)
    return _Measured(tools.guard(decoded), stored)
