# SPDX-License-Identifier: Apache-2.0
"""Grids for a model without any photograph, and the model on them. NumPy only.

Visible Gaussians get fine grids. The squared error that a Gaussian's wrong colour causes in an
image grows with the square of its opacity and with its area on the screen, which is known up to the
distance of the cameras; these are assumed around the middle of the scene. At equal cost for equal
error (reverse water-filling) a Gaussian's step is proportional to weight^-1/2; because the weight
itself is uncertain, the exponent used is somewhat smaller.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from splat_codec.grid_splats import GridSplats
from splat_codec.grids import (
    CLASSES,
    MATRIX_UNIT,
    MAX_LEVELS,
    MAX_POSITION_BITS,
    MAX_SHIFT,
    EvenGrid,
    Grids,
    Integers,
    LinearRule,
    PositionGrid,
    PrecisionRule,
    Transform,
)
from splat_codec.order import compact_morton_codes
from splat_codec.rounding import cells_of
from splat_formats.axes import with_ordered_axes
from splat_formats.outliers import middle, sample, set_aside
from splat_formats.repeated_sh import may_repeat, with_shared_sh
from splat_formats.snap_to_grids import higher_sh, snap_to_grids
from splat_formats.splats import FloatArray, Splats

_UNIT = 1 << 16  # of the integer rules
_FARTHEST = np.float32(1e30)  # of the box of positions: the extent of a wider one overflows
_MOST_SHELLS = 63
_MOST_CELLS = 2**24 - 1  # of a rule's centre and radii
MIDDLE_CLASS = 12  # of the median Gaussian; the next class has colour steps wider by sqrt(2)


@dataclass(frozen=True)
class GridSteps:
    """Steps at the median Gaussian's precision class, and how they depend on the class."""

    sh_step: float = 1 / 32
    deadzone: float = 0.55
    """A coefficient below this part of its step becomes 0 (0.5: plain rounding)."""
    dc_step: float = 1 / 17
    rotation_step: float = 1 / 36
    """Of quaternion components."""
    scale_step: float = 1 / 15.5
    """Of natural logarithms."""
    opacity_step: float = 1 / 12.5
    """Of logits."""
    position_step: float = 0.113
    """As a fraction of a Gaussian's size."""
    position_bits: int | None = None
    """Of the finest position grid, per axis; None: as many as the finest Gaussians need."""
    weight_exponent: float = 0.38
    """Steps are proportional to weight ^ -exponent."""
    layer_fraction: float = 0.12
    """Part of the Gaussians that makes the first layer; 0: one layer."""
    opacity_power: float = 1.25
    size_powers: tuple[float, float, float] = (0.5, 0.5, 0.0)
    distance_power: float = 2.0
    rotation_power: float = 0.75
    position_powers: tuple[float, float, float] = (0.3, 0.3, 0.4)
    position_class_power: float = 1.0
    rotation_class_power: float = 1.0
    dc_class_power: float = 1.0


QUALITIES = {
    "high": GridSteps(),
    "medium": GridSteps(sh_step=1 / 15, dc_step=1 / 10, rotation_step=1 / 20, scale_step=1 / 11,
                        opacity_step=1 / 8, position_step=0.16),
    "low": GridSteps(sh_step=1 / 8, dc_step=1 / 7, rotation_step=1 / 14, scale_step=1 / 7,
                     opacity_step=1 / 5, position_step=0.25),
}  # fmt: skip


@dataclass(frozen=True)
class Quantized:
    """A model on grids, and the original row of each Gaussian."""

    splats: GridSplats
    """In file order."""
    order: npt.NDArray[np.intp]
    """(N,) row i was row order[i]."""


@dataclass(frozen=True)
class Surroundings:
    """What the precision of a part of a model depends on, of the whole model: all parts get the
    steps that they would have in one file."""

    centre: tuple[float, float, float]
    """The median of the centres."""
    distance: float
    """Of the centres from it, median, world units."""
    level: float
    """The median of the precision rule's sums, in classes."""


def surroundings(splats: Splats, steps: GridSteps) -> Surroundings:
    """Those of a model, of which `splats`, at least one, are a sample that images can show."""
    splats = with_ordered_axes(splats)
    centre = np.median(splats.xyz, axis=0)
    distances = np.linalg.norm(splats.xyz.astype(np.float64) - centre, axis=1)
    unit = max(float(np.median(distances)), 1e-30)
    factor = -2 * steps.weight_exponent
    alpha = 1 / (1 + np.exp(-splats.opacity[:, 0].astype(np.float64)))
    sums = factor * steps.opacity_power * np.log2(alpha)
    sums += factor / np.log(2) * splats.scaling.astype(np.float64) @ np.array(steps.size_powers)
    sums -= factor * steps.distance_power * np.log2(1 + (distances / unit) ** 2)
    x, y, z = centre.tolist()
    return Surroundings((x, y, z), unit, float(np.median(sums)))


def quantize_splats(
    splats: Splats,
    steps: GridSteps,
    weights: npt.NDArray[np.float64] | None = None,
    around: Surroundings | None = None,
) -> Quantized:
    """The model in integers, in file order; opacities must be within MOST_OPACITY.

    `weights` (N,), if given, are measured sensitivities to colour, squared, in any unit: they
    replace the closed form, at the cost of storing the differences. SH that several Gaussians have
    are stored once where this makes the file smaller. `around`: that of the model of which `splats`
    are a part.
    """
    ordered, exact = set_aside(with_ordered_axes(splats))
    grids, classes = design_grids(ordered, steps, weights, around)
    on_grids = snap_to_grids(ordered, grids, steps.deadzone, classes, exact)
    order, layer_ends = order_in_layers(on_grids, steps.layer_fraction)
    in_order = on_grids.reordered(order, layer_ends)
    sh = higher_sh(ordered)
    if may_repeat(sh):  # else its copy in file order is not needed
        in_order = with_shared_sh(in_order, sh[order])
    return Quantized(in_order, order)


def design_grids(
    splats: Splats,
    steps: GridSteps,
    weights: npt.NDArray[np.float64] | None,
    around: Surroundings | None = None,
) -> tuple[Grids, Integers]:
    """The grids, and each Gaussian's precision class."""
    scale = _even_grid(splats.scaling, steps.scale_step)
    opacity = _even_grid(splats.opacity, steps.opacity_step)
    position = _position_grid(splats, steps, scale)
    rule = _precision_rule(splats, steps, (opacity, scale, position), around)
    o, s = opacity.symbols(splats.opacity[:, 0]), scale.symbols(splats.scaling)
    cells = cells_of(splats.xyz, position) >> (position.bits - position.coarse_bits)
    classes = rule.apply(o, s, cells)
    if weights is not None:
        classes = _measured_classes(weights, steps)
    dc_step, dc_low, dc_transform = _dc_grid(splats, steps)
    sh_steps, sh_transform = _sh_grid(splats, steps, classes)
    per_class = round(_UNIT / 2 * steps.dc_class_power)
    grids = Grids(
        sh_degree=splats.sh_degree,
        position=position,
        opacity=opacity,
        scale=scale,
        precision=rule,
        rotation_step=steps.rotation_step / 8,
        rotation_shift=_rotation_shift(steps, scale),
        dc_step=dc_step,
        dc_low=dc_low,
        dc_transform=dc_transform,
        dc_shift=LinearRule(3 * _UNIT + _UNIT // 2 - per_class * MIDDLE_CLASS, (per_class,), 8),
        sh_steps=sh_steps,
        sh_transform=sh_transform,
    )
    return grids, classes


def _even_grid(values: FloatArray, step: float) -> EvenGrid:
    """A grid over all of the values; wider steps where it would have too many levels."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    step = max(step, (high - low) / (MAX_LEVELS - 2))
    levels = max(2, int((high - low) / step) + 2)
    return EvenGrid(float(np.float32(low)), float(np.float32(step)), levels)


def _position_grid(splats: Splats, steps: GridSteps, scale: EvenGrid) -> PositionGrid:
    """Cells as fine as the finest Gaussians need, over a box without far outliers."""
    count = splats.count
    needed = _needed_position_step(splats, steps)
    finest = float(np.quantile(sample(needed), 0.02)) if count else 0.0
    low, high = robust_box(splats.xyz)
    extent = float((high - low).max())
    bits = steps.position_bits or MAX_POSITION_BITS
    if finest > 0 and steps.position_bits is None:
        bits = int(np.clip(np.ceil(np.log2(max(extent, 1e-30) / finest + 1)), 1, MAX_POSITION_BITS))
    cell = max(extent / (2**bits - 1), 1e-30)
    coarse = int(np.clip(round(np.log2(max(count, 1)) / 2 + 0.5), 1, bits))
    shift = _position_shift(steps, scale, cell, bits - coarse)
    return PositionGrid(
        (float(low[0]), float(low[1]), float(low[2])), float(np.float32(cell)), bits, coarse, shift
    )


def robust_box(xyz: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A box of all Gaussians without outliers, which would make the grid coarse for the others.

    It ends at _FARTHEST, even where all Gaussians lie beyond.
    """
    if not len(xyz):
        return np.zeros(3, np.float32), np.ones(3, np.float32)
    xyz = np.clip(xyz, -_FARTHEST, _FARTHEST)
    low, high = (end.astype(np.float64) for end in middle(xyz))
    reach = 8 * (high - low)
    inside = (xyz >= low - reach) & (xyz <= high + reach)
    if inside.all():
        return xyz.min(axis=0), xyz.max(axis=0)
    return (
        np.where(inside, xyz, np.float32(np.inf)).min(axis=0),
        np.where(inside, xyz, np.float32(-np.inf)).max(axis=0),
    )


def _needed_position_step(splats: Splats, steps: GridSteps) -> npt.NDArray[np.float64]:
    powers = np.array(steps.position_powers)
    return steps.position_step * np.exp(
        np.clip(splats.scaling.astype(np.float64) @ powers, -80, 80)
    )


def _position_shift(steps: GridSteps, scale: EvenGrid, cell: float, most: int) -> LinearRule:
    """The number of low bits to drop, so that a position step is close to what is needed."""
    powers = np.array(steps.position_powers)
    per_class = steps.position_class_power / 2
    constant = np.log2(steps.position_step / cell) + powers.sum() * scale.minimum / np.log(2)
    constant += 0.5 - per_class * MIDDLE_CLASS
    factors = (per_class, *(powers * scale.step / np.log(2)))
    return LinearRule(
        round(constant * _UNIT),
        tuple(round(f * _UNIT) for f in factors),
        int(np.clip(most, 0, MAX_SHIFT)),
    )


def _rotation_shift(steps: GridSteps, scale: EvenGrid) -> LinearRule:
    """Elongated Gaussians get fine rotation steps, round ones coarse steps."""
    per_class = steps.rotation_class_power / 2
    per_ratio = steps.rotation_power * scale.step / np.log(2)
    constant = 3.5 - per_class * MIDDLE_CLASS + steps.rotation_power * 2.5
    factors = (per_class, -per_ratio, 0.0, per_ratio)
    return LinearRule(round(constant * _UNIT), tuple(round(f * _UNIT) for f in factors), 7)


def _precision_rule(
    splats: Splats,
    steps: GridSteps,
    grids: tuple[EvenGrid, EvenGrid, PositionGrid],
    around: Surroundings | None,
) -> PrecisionRule:
    """The closed form in integers: classes from opacity, scales and distance from the middle."""
    opacity, scale, position = grids
    factor = -2 * steps.weight_exponent * _UNIT  # classes per octave of weight
    alpha = 1 / (1 + np.exp(-(opacity.minimum + opacity.step * np.arange(opacity.levels))))
    by_opacity = factor * steps.opacity_power * np.log2(alpha)
    size = factor * np.array(steps.size_powers) * scale.step / np.log(2)
    cells = cells_of(sample(splats.xyz), position) >> (position.bits - position.coarse_bits)
    centre, unit, last = _middle_of_cells(cells) if around is None else _centre(cells, position,
                                                                                around)  # fmt: skip
    exponents = np.arange(-4, last) / 3
    radii = np.unique(np.clip(np.rint(unit * 2.0**exponents), 0, _MOST_CELLS).astype(int))
    radii = radii[:_MOST_SHELLS]
    middles = np.r_[0, np.sqrt(radii[:-1] * radii[1:]), radii[-1]]
    by_shell = -factor * steps.distance_power * np.log2(1 + (middles / unit) ** 2)
    rule = PrecisionRule(
        tuple(np.rint(by_opacity).astype(int).tolist()),
        tuple(np.rint(size).astype(int).tolist()),
        tuple(centre.tolist()),
        tuple(radii.tolist()),
        tuple(np.rint(by_shell).astype(int).tolist()),
    )
    if around is None:
        return _centred(rule, splats, (opacity, scale), cells)
    # The rule's scale symbols count from the grid's minimum.
    counted = float(size.sum()) * scale.minimum / scale.step
    return _with_level(rule, _UNIT * around.level - counted)


def _middle_of_cells(cells: Integers) -> tuple[Integers, float, int]:
    """The middle of a model, the unit of distances, and the end of the radii's exponents."""
    if not len(cells):
        return np.zeros(3, int), 1.0, 13
    centre = np.median(cells, axis=0).astype(int)
    return centre, max(float(np.median(np.linalg.norm(cells - centre, axis=1))), 1.0), 13


def _centre(
    cells: Integers, position: PositionGrid, around: Surroundings
) -> tuple[Integers, float, int]:
    """The same of the whole model, in the coarse cells of a part; radii reach its farthest cell."""
    size = position.cell * 2.0 ** (position.bits - position.coarse_bits)
    where = (np.array(around.centre) - np.array(position.origin)) / size
    centre = np.clip(np.floor(where), -_MOST_CELLS, _MOST_CELLS).astype(int)
    unit = max(around.distance / size, 2.0**-30)
    farthest = np.linalg.norm(cells - centre, axis=1).max(initial=1.0)
    return centre, unit, max(13, int(3 * np.log2(farthest / unit)) + 2)


def _centred(
    rule: PrecisionRule, splats: Splats, grids: tuple[EvenGrid, EvenGrid], cells: Integers
) -> PrecisionRule:
    """The rule shifted so that the median of the sample, at `cells`, has the middle class."""
    if not splats.count:
        return rule
    opacity, scale = grids
    totals = np.array(rule.by_opacity)[opacity.symbols(sample(splats.opacity)[:, 0])]
    totals = totals + scale.symbols(sample(splats.scaling)).astype(np.int64) @ np.array(
        rule.scale_factors
    )
    squared = ((cells.astype(np.int64) - np.array(rule.centre)) ** 2).sum(axis=1)
    shells = np.searchsorted(np.array(rule.radii, np.int64) ** 2, squared, side="right")
    totals = totals + np.array(rule.by_shell)[shells]
    return _with_level(rule, np.median(totals))


def _with_level(rule: PrecisionRule, level: float) -> PrecisionRule:
    """The rule shifted so that this sum has the middle class."""
    offset = int(MIDDLE_CLASS * _UNIT + _UNIT // 2 - level)
    return replace(rule, by_opacity=tuple(entry + offset for entry in rule.by_opacity))


def _measured_classes(weights: npt.NDArray[np.float64], steps: GridSteps) -> Integers:
    """Classes from measured weights; the median of those above 0 has the middle one."""
    visible = weights > 0
    floor = float(np.quantile(weights[visible], 0.001)) if visible.any() else 1.0
    octaves = np.log2(np.maximum(weights, floor))
    middle = float(np.median(octaves[visible])) if visible.any() else 0.0
    classes = MIDDLE_CLASS - 2 * steps.weight_exponent * (octaves - middle)
    return np.clip(np.rint(classes), 0, CLASSES - 1).astype(np.int32)


def _dc_grid(splats: Splats, steps: GridSteps) -> tuple[float, tuple[int, int, int], Transform]:
    dc = splats.features_dc[:, 0]
    chosen = sample(dc)
    transform = _decorrelating(chosen - chosen.mean(axis=0) if splats.count else chosen, 3)
    step = np.float32(steps.dc_step / 8)
    low = np.zeros(3, int)
    if splats.count:
        low = np.floor(transform.forward(dc).min(axis=0) / step).astype(int) - 1
    low = np.clip(low, -(2**15) + 1, 2**15 - 1)
    return float(step / np.float32(MATRIX_UNIT)), tuple(low.tolist()), transform


def _sh_grid(
    splats: Splats, steps: GridSteps, classes: Integers
) -> tuple[tuple[float, ...], Transform]:
    by_class = steps.sh_step * 2.0 ** ((np.arange(CLASSES) - MIDDLE_CLASS) / 2)
    sh = sample(higher_sh(splats))
    # In steps, as the coder encodes them. Gaussians with wide steps have little weight.
    in_steps = sh / by_class.astype(np.float32)[sample(classes), None]
    transform = _decorrelating(in_steps, sh.shape[1], _LEAK)
    return tuple(float(step) for step in (by_class / MATRIX_UNIT).astype(np.float32)), transform


_LEAK = 1 / 32
"""Of a step: what the rounded part of one row of the SH matrix adds to another coefficient."""
_COARSEST = 256


def _decorrelating(values: FloatArray, channels: int, leak: float = 0.0) -> Transform:
    """The Karhunen-Loeve transform of rows (N, C) about 0, most variance first.

    The rounding error of a row of the matrix, times this row's coefficient, is added to the other
    coefficients. So rows whose coefficients are small get fewer digits, as many as keep this below
    `leak`, in the unit of the values: zlib stores them in fewer bytes.
    """
    if not channels or len(values) < 64 * channels:
        return Transform((np.eye(channels) * MATRIX_UNIT).astype(np.int16))
    covariance = (values.T @ values).astype(np.float64) / len(values)
    variances, columns = np.linalg.eigh(covariance)
    vectors, deviations = columns[:, ::-1].T, np.sqrt(np.maximum(variances[::-1], 1e-12))
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    vectors = vectors * np.sign(largest)  # the sign of an eigenvector is arbitrary
    digit = np.clip(leak * MATRIX_UNIT / deviations, 1, _COARSEST)
    digit = 2 ** np.floor(np.log2(digit))[:, None]
    return Transform((np.rint(vectors * MATRIX_UNIT / digit) * digit).astype(np.int16))


def order_in_layers(
    splats: GridSplats, fraction: float
) -> tuple[npt.NDArray[np.intp], tuple[int, ...]]:
    """File order with the most visible part of the Gaussians as a first layer; the layers' ends."""
    along_curve = np.argsort(compact_morton_codes(splats.xyz), kind="stable")
    first = int(splats.count * fraction)
    if not first:
        return along_curve, (splats.count,)
    is_first = np.zeros(splats.count, bool)
    classes = splats.precision.astype(np.uint8)  # of which a stable sort is fast
    is_first[np.argsort(classes, kind="stable")[:first]] = True
    is_first = is_first[along_curve]
    return np.concatenate([along_curve[is_first], along_curve[~is_first]]), (first, splats.count)
