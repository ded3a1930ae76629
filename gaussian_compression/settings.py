# SPDX-License-Identifier: Apache-2.0
"""The settings of a compression run. The defaults are the published method's numbers."""

from dataclasses import asdict, dataclass, field
from typing import Any

from arguments.ranges import Allowed, OneOf, Range, fault_of
from utils.errors import InputError
from utils.units import MEGABYTE

_COUNT = Range(least=0, whole=True)


@dataclass(frozen=True)
class FinetuneSettings:
    """The loss and the optimiser of every fine-tuning (Fast-3DGS, COGS'25)."""

    lambda_dssim: float = 0.2
    sh_sparsity: float = 0.05
    """Weight of mean |f_rest| in the loss: moves these to 0, which LZMA compresses well."""
    position_lr: float = 1.6e-6
    """Constant; multiplied by the scene's extent."""
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
    """32: float32, as in the published code; fewer: a grid over the bounding box."""


@dataclass(frozen=True)
class WarmRestart:
    """Learning rates that start at a multiple of their constant values and fall log-linearly."""

    rate_factor: float = 10.0
    position_rate_factor: float = 100.0


PUBLISHED_WARMUP = 1000
PUBLISHED_PATIENCE = 1
NO_RESTART = WarmRestart(rate_factor=1.0, position_rate_factor=1.0)


@dataclass(frozen=True)
class RateCourse:
    """How learning rates change, log-linearly: from `start` to `end` x their constant values."""

    start: WarmRestart = NO_RESTART
    end: float = 1.0
    opacity_decay: float = 0.0
    """What each iteration takes from the opacities' logits, as a fraction of their learning rate.
    Adam's steps are about as long as the rate: only an opacity that the photographs keep pushing up
    stays. The idea is that of GNS (natural selection of Gaussians, arXiv 2511.16980)."""


CONSTANT_RATES = RateCourse()


@dataclass(frozen=True)
class TrajectorySettings:
    """The settings of the rounds. A checkpoint is valid only for the settings it was made with."""

    prune_fraction: float = 0.05
    warmup_iterations: int = 4000
    """Fine-tuning of round 0, so that the model no longer fits the guard views better than others:
    see docs/guard.md."""
    warmup_restart: WarmRestart = WarmRestart()
    """Of the learning rates in the warm-up, which fall to their constant values; without cycles."""
    warmup_cycles: int = 0
    """The most cycles of the warm-up, each of which is like the fine-tuning of a round, and at
    least as long. Losses are then against a model after equally low rates, which such fine-tuning
    makes forget no more of the guard views. 0: a warm restart instead."""
    finetune_iterations: int = 1000
    round_rates: RateCourse = CONSTANT_RATES
    """The learning rates in each round. Where they fall, the guard views show sooner what the final
    fine-tuning, whose rates fall, will reach."""
    guard: str = "train"
    seed: int = 0
    score: str = "gradient_norm"
    """The score by which a round prunes: a name in scores.SCORES."""
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    quantization: QuantizationSettings | None = field(default_factory=QuantizationSettings)
    """The quantisation during the rounds; None: they train in full precision."""

    @property
    def cycle_lengths(self) -> list[int]:
        """Iterations of each cycle of the warm-up: they differ by at most 1."""
        if not self.warmup_cycles:
            return []
        like_rounds = self.warmup_iterations // max(1, self.finetune_iterations)
        cycles = max(1, min(self.warmup_cycles, like_rounds))
        least, longer = divmod(self.warmup_iterations, cycles)
        return [least + (number < longer) for number in range(cycles)]


@dataclass(frozen=True)
class StoppingRule:
    """When the rounds end, and which round's model is stored."""

    max_psnr_drop: float = 0.1
    """dB below the unpruned model's guard PSNR."""
    max_ssim_drop: float | None = None
    """The same for SSIM; a round has to keep to all limits. None: no limit."""
    max_ms_ssim_drop: float | None = None
    """The same for multi-scale SSIM, which is measured only with this limit."""
    max_rounds: int = 100
    guard_memory: float = 0.0
    """How much of the difference between training views and unseen views the guard views still have
    from the training of the start model, from 0 to less than 1: docs/guard.md. 0: the guard views
    count as unseen."""
    patience: int = 3
    """Number of rounds in a row that have to lose too much: the mean over few views is noisy."""
    target_gaussians: int | None = None
    """The number of Gaussians to store. With a target, the limits above do not end the rounds."""
    target_mb: float | None = None
    """The size of the file, in decimal megabytes."""

    @property
    def target_bytes(self) -> int | None:
        """The size of the file."""
        return None if self.target_mb is None else round(self.target_mb * MEGABYTE)

    @property
    def has_target(self) -> bool:
        """Whether a target, instead of the limits, ends the rounds."""
        return self.target_gaussians is not None or self.target_mb is not None


@dataclass(frozen=True)
class GridSettings:
    """A version-2 file: its grids, from sensitivities on the training views (docs/codec.md)."""

    noise: float = 0.035
    """How much rounding may increase the squared error of views that were not trained on, as a
    fraction: the limit for all numbers together, if errors are even over each step. That squared
    error is measured on the guard views."""
    sparsity: float = 1.0
    """Weight, in the final fine-tuning, of the mean magnitude of the coded SH in steps of their
    grids, relative to the images' mean absolute error at its start."""
    final_restart: WarmRestart = WarmRestart(rate_factor=3.0, position_rate_factor=10.0)
    """For the start of the final fine-tuning, which has to fit the grids and the guard views."""
    final_rate_end: float = 0.1
    """The multiple at which its rates end, so that values settle on their grids."""
    position_bits: int | None = None
    """On each axis of the finest position grid; None: as many as the finest Gaussians need."""
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
    """None: a file of version 1, as in the published method, with quantised rounds."""
    keep_rounds: bool = False
    """Keep all checkpoints: a run with another stopping rule then repeats only the last stage."""
    measure_test_every: int = 0
    """Report quality on test views and file size every N rounds (0: never); has no other effect."""
    ladder: tuple[float, ...] = ()
    """Per cent of the start model's Gaussians, from large to small: a file is made for each."""
    budget_minutes: float | None = None
    """The time for which iterations and rounds were chosen; None: no limit."""

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionaries."""
        return asdict(self)


def check_settings(settings: CompressionSettings) -> None:
    """Raise InputError for a value that is not allowed, with the name of its flag."""
    trajectory, stopping = settings.trajectory, settings.stopping
    checks: list[tuple[str, Any, Allowed]] = [
        ("prune_fraction", trajectory.prune_fraction, Range(above=0, below=1)),
        ("warmup_iterations", trajectory.warmup_iterations, _COUNT),
        ("finetune_iterations", trajectory.finetune_iterations, _COUNT),
        ("final_iterations", settings.final_iterations, _COUNT),
        ("max_rounds", stopping.max_rounds, _COUNT),
        ("patience", stopping.patience, Range(least=1, whole=True)),
        ("max_psnr_drop", stopping.max_psnr_drop, Range(least=0)),
        ("guard_memory", stopping.guard_memory, Range(least=0, below=1)),
        ("sh_sparsity", trajectory.finetune.sh_sparsity, Range(least=0)),
        ("guard", trajectory.guard, OneOf(("train", "test"))),
        ("measure_test_every", settings.measure_test_every, _COUNT),
    ]
    optional: list[tuple[str, Any, Allowed]] = [
        ("max_ssim_drop", stopping.max_ssim_drop, Range(least=0)),
        ("max_ms_ssim_drop", stopping.max_ms_ssim_drop, Range(least=0)),
        ("target_gaussians", stopping.target_gaussians, Range(least=1, whole=True)),
        ("target_mb", stopping.target_mb, Range(above=0)),
        ("budget_minutes", settings.budget_minutes, Range(above=0)),
    ]
    checks += [check for check in optional if check[1] is not None]
    if stopping.target_gaussians is not None and stopping.target_mb is not None:
        raise InputError("expected one of --target_gaussians and --target_mb, got both")
    if grids := settings.grids:
        checks.append(("noise", grids.noise, Range(above=0)))
        checks.append(("sparsity", grids.sparsity, Range(least=0)))
        if grids.position_bits is not None:
            checks.append(("position_bits", grids.position_bits, Range(12, 20, whole=True)))
    elif trajectory.quantization is None:
        raise InputError(
            "expected grids (version 2) or trajectory.quantization (version 1), got None for both"
        )
    else:
        bits = trajectory.quantization.position_bits
        checks.append(("position_bits", bits, Range(8, 24, others=(32,), whole=True)))
    for flag, value, allowed in checks:
        if fault := fault_of(flag, value, allowed):
            raise InputError(fault)
