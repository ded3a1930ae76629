# SPDX-License-Identifier: Apache-2.0
"""The report of a compression, compressed/report.json. No other module writes or reads it.

JSON with finite numbers: NaN and Infinity become null, and `not_finite` lists their places (the
PSNR of equal images is infinite). `schema` is the version of the fields and their meanings;
reports of earlier versions are read too, with defaults for the fields that they lack. No PyTorch.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaussian_compression.rounds import Quality, Round, StageTime
from splat_formats.losses import Losses
from utils.errors import InputError
from utils.files import write_json
from utils.json_values import finite_only, from_json

SCHEMA = 3
"""1: reports without a schema number, of compress.py and, in another form, of --training_free.
2: without the command, the preset, the figures of single views, their pictures and histograms."""
MOST_BYTES = 64_000_000
"""Of a report: one of ten thousand views has a few million."""

UNMEASURED = Quality(None, None)


@dataclass(frozen=True)
class StartFigures:
    """The model that the compression started from."""

    ply: str
    iteration: int
    """0 for a PLY without a model folder."""
    gaussians: int
    """Of the PLY, before any is dropped."""
    dropped: int
    """Gaussians that no image can show, among them those with values that are not finite."""
    bytes: int | None
    """Of the PLY. None in --training_free's reports of schema 1."""
    guard: Quality = UNMEASURED
    test: Quality = UNMEASURED


@dataclass(frozen=True)
class FileFigures:
    """The compressed file and the model that it decodes to."""

    iteration: int
    """Of the decoded PLY in the model folder."""
    gaussians: int
    sh_degree: int
    bytes: int
    ratio: float | None
    bytes_per_gaussian: float
    bytes_per_attribute: dict[str, int]
    """Empty in the reports of --training_free."""
    bytes_per_section: dict[str, int] = field(default_factory=dict)
    """Of the file's sections, by their names in docs/format.md; empty in compress.py's reports of
    schema 1."""
    guard: Quality = UNMEASURED
    test: Quality = UNMEASURED


@dataclass(frozen=True)
class StoppingFigures:
    """How the rounds ended."""

    shipped_round: int
    reason: str


@dataclass(frozen=True)
class PromiseFigures:
    """What the stopping rule allows and what the decoded file reaches; dB on the guard views.

    Where the guard views are training views, the final fine-tuning trains on them too: too large a
    drop is then certain, but a small one is no proof for other views.
    """

    allowed_drop: float
    drop: float | None
    """Of the decoded file, against round 0."""
    kept: bool | None
    guard_was_trained_on: bool
    allowed_ssim_drop: float | None = None
    """None: no limit."""
    ssim_drop: float | None = None
    allowed_on_guard: float | None = None
    """Where the rule predicts the loss of unseen views: the loss of the guard views, in dB, at
    which it is `allowed_drop`. None: the limits are those of the guard views."""
    allowed_ssim_on_guard: float | None = None
    """The same for SSIM."""
    allowed_ms_ssim_drop: float | None = None
    ms_ssim_drop: float | None = None
    allowed_ms_ssim_on_guard: float | None = None


@dataclass(frozen=True)
class TargetFigures:
    """The target that was given, and what was reached."""

    gaussians: int | None
    """None: no number of Gaussians was given."""
    bytes: int | None
    """None: no size was given."""
    reached_gaussians: int
    """In the file."""
    reached_bytes: int
    reached: bool
    """For a number of Gaussians: that of the file, and those that no image can show, which the file
    leaves out. For a size: the file's, within 3 %."""
    noise: float | None = None
    """Of the file's grids, which a size changes; None for files of version 1."""


@dataclass(frozen=True)
class GuardFigures:
    """The views that decided when the rounds end."""

    views_from: str
    image_names: tuple[str, ...]
    warning: str | None


@dataclass(frozen=True)
class ErrorFigures:
    """How far an attribute is from the start model's, in a unit that can be judged by eye."""

    unit: str
    rms: float
    percentile_99: float | None
    """None in reports of schema 1, which give errors in the attribute's own unit."""
    max: float
    good: float | None
    """An rms up to this value is not visible in the images of an ordinary scene."""


@dataclass(frozen=True)
class ViewFigures:
    """The quality of one view."""

    views: str
    """The set that it belongs to: `guard` or `test`."""
    image_name: str
    start: Quality
    compressed: Quality


@dataclass(frozen=True)
class ShownView:
    """A view whose pictures are in compressed/report_views (see picture_name)."""

    role: str
    """`worst` or `median`, by the PSNR of the compressed model."""
    views: str
    image_name: str
    pictures: dict[str, str]
    """SHA-256 of the files, by what they show."""


@dataclass(frozen=True)
class Histogram:
    """How often values of an attribute occur, in bins of equal width from `low` to `high`."""

    unit: str
    low: float
    high: float
    start: tuple[int, ...]
    """Of the Gaussians that an image can show."""
    compressed: tuple[int, ...]
    start_outside: int
    """Values below `low` or above `high`."""
    compressed_outside: int
    every: int = 1
    """1: all Gaussians were counted, 2: every second one, and so on, of both models."""

    def __post_init__(self) -> None:
        if len(self.start) != len(self.compressed) or not self.start or self.low >= self.high:
            raise ValueError(
                "expected a histogram with bins between two limits, as many before as after, got "
                f"{len(self.start)} and {len(self.compressed)} from {self.low} to {self.high}"
            )
        if min(*self.start, *self.compressed) < 0:
            raise ValueError("expected counts in a histogram, got a negative number")


@dataclass(frozen=True)
class ExportFigures:
    """The decoded model in a file of another format, and the model that this file decodes to."""

    file: str
    """Its name in the folder of the compressed file."""
    bytes: int
    gaussians: int
    sh_degree: int
    losses: Losses | None
    """Against the decoded model; None for a format that holds every number as it is."""
    notices: tuple[str, ...] = ()
    """What the format cannot hold."""
    guard: Quality = UNMEASURED
    test: Quality = UNMEASURED


@dataclass(frozen=True)
class LadderFigures:
    """One file of --ladder."""

    part: float
    """Of the start model's Gaussians, per cent."""
    file: str
    """Its path in the folder of the compressed file."""
    gaussians: int
    bytes: int
    base_round: int
    """The round that it was made of."""
    guard: Quality = UNMEASURED
    test: Quality = UNMEASURED


@dataclass(frozen=True)
class LodFigures:
    """The streamed SOG of --lod."""

    file: str
    """The path of its index in the folder of the compressed file."""
    bytes: int
    """Of all its files."""
    gaussians: tuple[int, ...]
    """Of each level, from the finest to the coarsest."""


@dataclass(frozen=True)
class CompressionReport:
    """All figures of a compression. Sizes in bytes, times in seconds, PSNR in dB."""

    start: StartFigures
    compressed: FileFigures
    settings: dict[str, Any]
    environments: tuple[dict[str, Any], ...]
    """Machine and software, each from the round `from_round` on: more than one if a killed run
    continued in another environment."""
    stopping: StoppingFigures | None = None
    guard: GuardFigures | None = None
    promise: PromiseFigures | None = None
    target: TargetFigures | None = None
    rounds: tuple[Round, ...] = ()
    stages: tuple[StageTime, ...] = ()
    seed: int | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, ErrorFigures] = field(default_factory=dict)
    """By attribute; only of --training_free."""
    layer_ends: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()
    """What was repaired, dropped or not kept, and warnings, a sentence each."""
    command: tuple[str, ...] = ()
    """The script's name and its arguments as given; empty in reports of schema 1 and 2."""
    preset: str | None = None
    changed_settings: dict[str, Any] = field(default_factory=dict)
    """Those of `settings` that differ from the preset's."""
    views: tuple[ViewFigures, ...] = ()
    shown_views: tuple[ShownView, ...] = ()
    histograms: dict[str, Histogram] = field(default_factory=dict)
    exports: tuple[ExportFigures, ...] = ()
    ladder: tuple[LadderFigures, ...] = ()
    """From the largest file to the smallest."""
    lod: LodFigures | None = None
    schema: int = SCHEMA

    def all_files(self) -> tuple[ExportFigures, ...]:
        """The compressed file and those of other formats, in one form."""
        ours = self.compressed
        figures = ExportFigures(
            file="model.f3dgs",
            bytes=ours.bytes,
            gaussians=ours.gaussians,
            sh_degree=ours.sh_degree,
            losses=None,
            guard=ours.guard,
            test=ours.test,
        )
        return (figures, *self.exports)


def report_path(model_path: Path) -> Path:
    """The path of a model folder's report."""
    return model_path / "compressed" / "report.json"


def page_path(report_at: Path) -> Path:
    """The page that is drawn of a report."""
    return report_at.with_suffix(".html")


def pictures_folder(report_at: Path) -> Path:
    """The pictures of a report."""
    return report_at.parent / "report_views"


def picture_name(role: str, kind: str) -> str:
    """The name of the file that shows `kind`, a key of ShownView.pictures."""
    return f"{role}_{kind}.webp"


def write_report(path: Path, report: CompressionReport) -> None:
    """Writes the report, whole or not at all."""
    places: list[str] = []
    values = finite_only(asdict(report), places)
    write_json(path, {**values, "not_finite": places})


def read_report(path: Path) -> CompressionReport:
    """The report in a file of any schema. InputError if the file is no report."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        found = finite_only(json.loads(path.read_text(encoding="utf-8")), [])
        schema = found.get("schema", 1)
        if schema > SCHEMA:
            raise InputError(
                f"{path} has schema {schema}, expected at most {SCHEMA}: a later version of this "
                "program wrote it"
            )
        return _of_schema_1(found) if schema == 1 else _report(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: expected the report of a compression, but cannot read it "
            f"({_reason(error)}); move it away"
        ) from error


def _reason(error: Exception) -> str:
    """Why a report cannot be read, without Python's names where there are words for it."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"no JSON: {error}"
    return str(error) if isinstance(error, ValueError) else repr(error)


def as_read(report: CompressionReport) -> CompressionReport:
    """The report that read_report returns once this one is written."""
    return _report(finite_only(asdict(report), []))


def _report(values: dict[str, Any]) -> CompressionReport:
    return from_json(CompressionReport, {**values, "schema": SCHEMA})


def _of_schema_1(found: dict[str, Any]) -> CompressionReport:
    """A report without a schema number."""
    if "start" not in found:
        return _of_training_free_1(found)
    start = {**found["start"], "dropped": found["start"]["dropped_non_finite"]}
    del start["dropped_non_finite"]
    later: dict[str, Any] = {"promise": None, "errors": {}, "layer_ends": [], "notices": []}
    environments = [{"from_round": 0, **found["versions"]}]
    return _report({**later, **found, "start": start, "environments": environments})


def _of_training_free_1(found: dict[str, Any]) -> CompressionReport:
    dropped, seconds = found["dropped_non_finite"], found["seconds"]
    return CompressionReport(
        start=StartFigures(
            ply="",
            iteration=0,
            gaussians=found["gaussians"] + dropped,
            dropped=dropped,
            bytes=None,
        ),
        compressed=FileFigures(
            iteration=1,
            gaussians=found["gaussians"],
            sh_degree=found["sh_degree"],
            bytes=found["bytes"],
            ratio=None,
            bytes_per_gaussian=found["bytes_per_gaussian"],
            bytes_per_attribute={},
            bytes_per_section=found["bytes_per_section"],
        ),
        settings={"training_free": True, "quality": found["quality"]},
        environments=(),
        stages=(StageTime("quantise, encode and decode", seconds, seconds),),
        errors={
            name: ErrorFigures("", error["rms"], None, error["max"], None)
            for name, error in found["errors"].items()
        },
        layer_ends=tuple(found["layers"]),
    )
