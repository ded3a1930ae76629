# SPDX-License-Identifier: Apache-2.0
"""Markdown tables of measured curves: Bjontegaard rates, sizes at no loss, the rule's files."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.bjontegaard import RateCurve, RatePoint, rate_difference
from benchmarks.curve_rows import TEST, Row
from benchmarks.curve_runs import RULE
from benchmarks.curve_scenes import VALIDATION
from gaussian_compression.rounds import MOST_PSNR
from utils.errors import InputError

MEASURES = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "flip": "FLIP"}
LOSS_OF_GAUSSIANS = 0.1
"""dB, at which the Gaussians kept are compared."""
START = "start"
"""The start model, as the one that losses are measured against."""
MISSING = "–"


@dataclass(frozen=True)
class Curves:
    """Rows, and the views on which their quality is read: `guard` or `test`."""

    rows: tuple[Row, ...]
    views: str
    """Of scenes for validation, whose test views are for choices, `test` in any case."""

    def views_of(self, scene: str) -> str:
        """The views on which the quality is read in this scene."""
        return TEST if VALIDATION in scene else self.views

    def unseen(self, scene: str) -> bool:
        """Whether the start model was not trained on these views."""
        return self.views_of(scene) == TEST

    def quality(self, row: Row, measure: str) -> float | None:
        """The higher the better: FLIP, an error, is subtracted from 1."""
        value = getattr(row, f"{self.views_of(row.scene)}_{measure}")
        if value is None:
            return None
        return 1 - value if measure == "flip" else min(value, MOST_PSNR)

    def of(self, scene: str, variant: str, seed: int) -> list[Row]:
        """The rows of one curve. InputError if there are none."""
        wanted = (scene, variant, seed)
        found = [row for row in self.rows if (row.scene, row.variant, row.seed) == wanted]
        if not found:
            raise InputError(f"no rows of {variant} with this seed")
        return found

    def curve(self, rows: Iterable[Row], measure: str, rate: Callable[[Row], float]) -> RateCurve:
        """The rate as a function of the measure. InputError where it cannot be interpolated."""
        measured = [(rate(row), self.quality(row, measure)) for row in rows]
        points = [RatePoint(x, y) for x, y in measured if y is not None]
        if not points:
            raise InputError("not measured")
        return RateCurve(points)

    def scenes(self) -> list[str]:
        """Their names, in the order of the rows."""
        return list(dict.fromkeys(row.scene for row in self.rows))

    def variants(self) -> list[str]:
        """Their names, in the order of the rows."""
        return list(dict.fromkeys(row.variant for row in self.rows))

    def seeds(self, scene: str, variant: str) -> list[int]:
        """Those of the curves of a variant on a scene."""
        found = {row.seed for row in self.rows if (row.scene, row.variant) == (scene, variant)}
        return sorted(found)


Find = Callable[[str, str, int], float]
"""The figure of (scene, variant, seed). InputError where there is none."""


@dataclass(frozen=True)
class Column:
    """A figure of each curve."""

    title: str
    find: Find
    form: str
    """A format for its number."""


@dataclass
class _Table:
    """Rows as text, and why cells are empty: columns by reason."""

    rows: list[list[str]] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def values(self, scene: str, variant: str, seeds: Sequence[int], column: Column) -> list[float]:
        """Those of the seeds that have one."""
        found = []
        for seed in seeds:
            try:
                found.append(column.find(scene, variant, seed))
            except InputError as error:
                reason = f"{scene}, {variant}, seed {seed}: {error}"
                self.reasons.setdefault(reason, []).append(column.title)
        return found


def rate_columns(curves: Curves, reference: str) -> list[Column]:
    """Bjontegaard's mean difference of bytes against the reference, by each measure."""

    def column(measure: str, title: str) -> Column:
        def find(scene: str, variant: str, seed: int) -> float:
            both = [
                curves.curve(curves.of(scene, name, seed), measure, lambda row: row.bytes)
                for name in (reference, variant)
            ]
            return rate_difference(*both).percent

        return Column(title, find, "{:+.1f} %")

    return [column(measure, title) for measure, title in MEASURES.items()]


def loss_columns(curves: Curves, no_loss: Callable[[str], str]) -> list[Column]:
    """Sizes at the PSNR of `no_loss(scene)`, Gaussians kept at 0.1 dB less.

    That is START or a variant, whose best file counts.
    """

    def megabytes(scene: str, variant: str, seed: int) -> float:
        target = _quality_of(curves, scene, seed, no_loss(scene))
        rows = curves.of(scene, variant, seed)
        return _rate_at(curves, rows, target, lambda row: row.bytes / 1e6)

    def smaller(scene: str, variant: str, seed: int) -> float:
        start = curves.of(scene, variant, seed)[0].start_bytes
        if not start:
            raise InputError("the size of the start model was not recorded")
        return start / 1e6 / megabytes(scene, variant, seed)

    def kept(scene: str, variant: str, seed: int) -> float:
        target = _quality_of(curves, scene, seed, no_loss(scene)) - LOSS_OF_GAUSSIANS
        rows = curves.of(scene, variant, seed)
        return 100 * _rate_at(curves, rows, target, lambda row: row.kept)

    return [
        Column("MB at no loss", megabytes, "{:.3f}"),
        Column("times smaller than the start PLY", smaller, "{:.1f}"),
        Column(f"Gaussians kept at a loss of {LOSS_OF_GAUSSIANS:g} dB", kept, "{:.1f} %"),
    ]


def rule_columns(curves: Curves) -> list[Column]:
    """The file that the stopping rule chooses, its loss, and the time of its run."""

    def of_rule(figure: Callable[[Row], float | None]) -> Find:
        def find(scene: str, variant: str, seed: int) -> float:
            rows = [row for row in curves.of(scene, variant, seed) if row.point == RULE.name]
            value = figure(rows[0]) if rows else None
            if value is None:
                raise InputError("not measured")
            return value

        return find

    def true_loss(row: Row) -> float | None:
        start, found = (
            getattr(row, f"start_{curves.views_of(row.scene)}_psnr"),
            curves.quality(row, "psnr"),
        )
        return None if start is None or found is None else min(start, MOST_PSNR) - found

    def predicted(row: Row) -> float | None:
        zero, chosen = row.unpruned_guard_psnr, row.round_guard_psnr
        return None if zero is None or chosen is None else zero - chosen

    return [
        Column("MB", of_rule(lambda row: row.bytes / 1e6), "{:.3f}"),
        Column("Gaussians kept", of_rule(lambda row: 100 * row.kept), "{:.1f} %"),
        Column("dB lost in rounds, guard", of_rule(predicted), "{:+.3f}"),
        Column("dB lost against the start model", of_rule(true_loss), "{:+.3f}"),
        Column("CPU minutes", of_rule(lambda row: row.cpu_seconds / 60), "{:.1f}"),
        Column("minutes", of_rule(lambda row: row.wall_seconds / 60), "{:.1f}"),
    ]


def table(curves: Curves, variants: Sequence[str], columns: Sequence[Column]) -> str:
    """Mean over the seeds (least to greatest) by scene and variant, then the mean of the scenes.

    Below it, the reasons why figures are missing.
    """
    made = _Table()
    for variant in variants:
        scenes = [scene for scene in curves.scenes() if curves.seeds(scene, variant)]
        means: list[list[float]] = [[] for _ in columns]
        for scene in scenes:
            seeds = curves.seeds(scene, variant)
            cells = [made.values(scene, variant, seeds, column) for column in columns]
            texts = [_spread(v, column.form) for v, column in zip(cells, columns, strict=True)]
            made.rows.append([scene, variant, ", ".join(map(str, seeds)), *texts])
            for values, mean in zip(cells, means, strict=True):
                mean += [statistics.mean(values)] if values else []
        if len(scenes) > 1:
            # Over fewer scenes than others, a mean could not be compared.
            full = [v if len(v) == len(scenes) else [] for v in means]
            texts = [_mean(v, column.form) for v, column in zip(full, columns, strict=True)]
            made.rows.append([f"mean of {len(scenes)}", variant, "", *texts])
    head = ["scene", "variant", "seeds", *(column.title for column in columns)]
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, made.rows)]
    reasons = [f"* {reason} ({', '.join(titles)})" for reason, titles in made.reasons.items()]
    return "\n".join([*lines, *(["", *reasons] if reasons else [])])


def _quality_of(curves: Curves, scene: str, seed: int, no_loss: str) -> float:
    """The PSNR at which nothing is lost: of the start model, or of the best file of a variant."""
    if no_loss == START:
        rows = [row for row in curves.rows if (row.scene, row.seed) == (scene, seed)]
        found = [getattr(row, f"start_{curves.views_of(scene)}_psnr") for row in rows]
    else:
        found = [curves.quality(row, "psnr") for row in curves.of(scene, no_loss, seed)]
    values = [value for value in found if value is not None]
    if not values:
        raise InputError(f"the PSNR of {no_loss} was not measured")
    return min(max(values), MOST_PSNR)


def _rate_at(
    curves: Curves, rows: Sequence[Row], psnr: float, rate: Callable[[Row], float]
) -> float:
    curve = curves.curve(rows, "psnr", rate)
    found = curve.rate(psnr)
    if found is None and psnr > curve.highest:
        raise InputError(f"it reaches {curve.highest:.3f} dB, not {psnr:.3f} dB")
    if found is None:
        raise InputError(
            f"its smallest file has {curve.lowest:.3f} dB, more than {psnr:.3f} dB: measure "
            "smaller ones"
        )
    return found


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(statistics.mean(values)) if values else MISSING


def _spread(values: Sequence[float], form: str) -> str:
    """The mean, and the least and the greatest value if there are several."""
    if len(values) < 2:
        return _mean(values, form)
    ends = " to ".join(form.format(value) for value in (min(values), max(values)))
    return f"{_mean(values, form)} ({ends})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
