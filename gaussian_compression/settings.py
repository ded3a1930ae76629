# SPDX-License-Identifier: Apache-2.0
"""The settings of a compression run. The defaults are the published method's numbers."""

from dataclasses import asdict, dataclass, field
from typing import Any

from arguments.ranges import Allowed, OneOf, Range, fault_of
from utils.errors import InputError

_COUNT = Range(least=0, whole=True)


@dataclass(frozen=True)
class FinetuneSettings:
    """The loss and the optimiser of every fine-tuning (Fast-3DGS, COGS'25)."""

    lambda_dssim: float = 0.2
    sh_sparsity: float = 0.05
    """Weight of mean |f_rest| in the loss: pulls view dependence to zero, which LZMA packs well."""
    position_lr: float = 1.6e-6
    """Times the scene's extent; constant."""
    feature_lr: float = 2.5e-3
    feature_rest_lr: float = 1.25e-4
    opacity_lr: float = 0.025
    scaling_lr: float = 5e-3
    rotation_lr: float = 1e-3


@dataclass(frozen=True)
class QuantizationSettings:
    """How a file of version 1 stores the attributes."""

    sh_bits: int = 8
    range_momentum: float = 0.01
    """Weight of the newest minimum and maximum in their moving averages."""
    position_bits: int = 32
    """32: float32, as the published code stores them; below: a grid over the bounding box."""


@dataclass(frozen=True)
class WarmRestart:
    """Learning rates that start at a multiple and fall log-linearly to their constant values."""

    rate_factor: float = 10.0
    position_rate_factor: float = 100.0


PUBLISHED_WARMUP = 1000
PUBLISHED_PATIENCE = 1
NO_RESTART = WarmRestart(rate_factor=1.0, position_rate_factor=1.0)


@dataclass(frozen=True)
class TrajectorySettings:
    """All that decides which models a run passes through. A checkpoint is only good for its own."""

    prune_fraction: float = 0.05
    warmup_iterations: int = 4000
    warmup_restart: WarmRestart = WarmRestart()
    """The first fine-tuning has to make the model forget the guard views: see docs/results.md."""
    finetune_iterations: int = 1000
    guard: str = "train"
    seed: int = 0
    score: str = "gradient_norm"
    """What a round prunes by: a name in scores.SCORES."""
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    quantization: QuantizationSettings | None = field(default_factory=QuantizationSettings)
    """That the rounds train under; None: they train in full precision."""


@dataclass(frozen=True)
class StoppingRule:
    """When the rounds end: which of the models passed through is the one to ship."""

    max_psnr_drop: float = 0.1
    """dB below the unpruned model's guard PSNR."""
    max_rounds: int = 100
    patience: int = 3
    """So many rounds in a row have to lose too much: one reading of a few views is noisy."""


@dataclass(frozen=True)
class GridSettings:
    """A version-2 file: grids from sensitivities measured on the training views (docs/codec.md)."""

    noise: float = 0.035
    """What rounding may add to the squared error of views that were not trained on, as a part of
    it: the limit of all numbers together, were the errors even over each step. The guard views
    tell how large that error is."""
    sparsity: float = 1.0
    """Weight, in the final fine-tuning, of the mean magnitude of the coded SH in steps of their
    grids, against the images' mean absolute error at its beginning."""
    final_restart: WarmRestart = WarmRestart(rate_factor=3.0, position_rate_factor=10.0)
    """The final fine-tuning begins so: grids and guard views are new to it, and learned fast."""
    final_rate_end: float = 0.1
    """And its rates end at this multiple, so that values settle on their grids."""
    position_bits: int | None = None
    """Of the finest position grid, an axis; None: as many as the finest Gaussians need."""
    weight_exponent: float = 0.38
    deadzone: float = 0.55
    layer_fraction: float = 0.12


@dataclass(frozen=True)
class CompressionSettings:
    """One compression run."""

    trajectory: TrajectorySettings = field(default_factory=TrajectorySettings)
    stopping: StoppingRule = field(default_factory=StoppingRule)
    final_iterations: int = 5000
    grids: GridSettings | None = None
    """None: the file of version 1, as the method was published, whose rounds are quantised."""
    keep_rounds: bool = False
    """Keep every round's checkpoint, so that another stopping rule costs only the last stage."""
    measure_test_every: int = 0
    """Report test-view quality and file size every so many rounds (0: never). Decides nothing."""

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionaries."""
        return asdict(self)


def check_settings(settings: CompressionSettings) -> None:
    """Raise InputError for a value that makes no sense, by the name of its flag."""
    trajectory, stopping = settings.trajectory, settings.stopping
    checks: list[tuple[str, Any, Allowed]] = [
        ("prune_fraction", trajectory.prune_fraction, Range(above=0, below=1)),
        ("warmup_iterations", trajectory.warmup_iterations, _COUNT),
        ("finetune_iterations", trajectory.finetune_iterations, _COUNT),
        ("final_iterations", settings.final_iterations, _COUNT),
        ("max_rounds", stopping.max_rounds, _COUNT),
        ("patience", stopping.patience, Range(least=1, whole=True)),
        ("max_psnr_drop", stopping.max_psnr_drop, Range(least=0)),
        ("sh_sparsity", trajectory.finetune.sh_sparsity, Range(least=0)),
        ("guard", trajectory.guard, OneOf(("train", "test"))),
        ("measure_test_every", settings.measure_test_every, _COUNT),
    ]
    if grids := settings.grids:
        checks.append(("noise", grids.noise, Range(above=0)))
        checks.append(("sparsity", grids.sparsity, Range(least=0)))
        if grids.position_bits is not None:
            checks.append(("position_bits", grids.position_bits, Range(12, 20, whole=True)))
    elif trajectory.quantization is None:
        raise InputError("a file of version 1 needs the settings of its quantisation")
    else:
        bits = trajectory.quantization.position_bits
        checks.append(("position_bits", bits, Range(8, 24, others=(32,), whole=True)))
    for flag, value, allowed in checks:
        if fault := fault_of(flag, value, allowed):
            raise InputError(fault)
