# SPDX-License-Identifier: Apache-2.0
"""What each round leaves behind: its figures, and on disk the state to go on from.

One .npz file a round, arrays and a JSON text, read with pickling off. Round 0 is the unpruned
model after the first fine-tuning. Every random choice of a round is seeded by its number, so a
run that was killed goes on to the very bytes that an undisturbed one would have written.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from gaussian_compression.finetune import TrainableModel
from gaussian_compression.quantize import Range, ShRanges
from gaussian_compression.settings import StoppingRule
from scene.raw_parameters import RawParameters
from utils.errors import InputError
from utils.files import atomic_path


@dataclass(frozen=True)
class Quality:
    """Means over a set of views; None where the set is empty."""

    psnr: float | None
    ssim: float | None


@dataclass(frozen=True)
class Measurement:
    """A round's model on test views and as a file: measured, never used to decide."""

    test: Quality
    file_bytes: int


@dataclass(frozen=True)
class Round:
    """The figures of one round."""

    number: int
    gaussians: int
    iterations: int
    """Of fine-tuning, from the start model to here."""
    guard: Quality
    wall_seconds: float
    cpu_seconds: float
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Verdict:
    """Which round's model to ship, and why."""

    ship: int
    reason: str


def judge(rounds: list[Round], rule: StoppingRule) -> Verdict | None:
    """The stopping rule applied to the rounds so far, of which round 0 sets the zero.

    The model that ships is the last one that satisfied the rule. None: go on.
    """
    satisfied, broken = 0, 0
    for done in rounds[1 : rule.max_rounds + 1]:
        drop = guard_drop(rounds[0], done)
        if drop <= rule.max_psnr_drop:
            satisfied, broken = done.number, 0
            continue
        broken += 1
        if broken == rule.patience:
            return Verdict(
                satisfied,
                f"{broken} round{'s in a row' if broken > 1 else ''} lost more than "
                f"{rule.max_psnr_drop:g} dB on the guard views, the last one {drop:.3f} dB",
            )
    if len(rounds) > rule.max_rounds:
        return Verdict(satisfied, f"the {rule.max_rounds} rounds asked for are done")
    return None


def guard_drop(zero: Round, done: Round) -> float:
    """dB that `done` lost on the guard views against round 0."""
    if zero.guard.psnr is None or done.guard.psnr is None:
        raise ValueError("a round without guard views cannot be judged")
    return zero.guard.psnr - done.guard.psnr


@dataclass(frozen=True)
class Checkpoint:
    """A round's model at full precision, and the figures of all rounds up to it."""

    model: TrainableModel
    rounds: list[Round]


class RoundFolder:
    """The checkpoints of one run, bound to what decides its course (`fingerprint`)."""

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], keep_last: int | None = None
    ) -> None:
        """`keep_last` rounds stay on disk; None: all."""
        self._folder = folder
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._keep_last = keep_last

    def latest(self) -> int | None:
        """The highest round on disk; InputError if it belongs to a run with other settings."""
        numbers = self._numbers()
        if not numbers:
            return None
        self._check_fingerprint(self._read_text(numbers[-1])["fingerprint"])
        return numbers[-1]

    def has(self, number: int) -> bool:
        """Whether round `number` can be loaded."""
        return self._path(number).exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a round, and remove those that no rule can ship any more."""
        number = checkpoint.rounds[-1].number
        text = {
            "fingerprint": self._fingerprint,
            "ranges": asdict(checkpoint.model.ranges),
            "rounds": [asdict(done) for done in checkpoint.rounds],
        }
        arrays = {name: tensor.cpu().numpy() for name, tensor in checkpoint.model.raw.named()}
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(number)) as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, text=np.array(json.dumps(text)), **arrays)
        if self._keep_last is not None:
            for old in self._numbers():
                if old <= number - self._keep_last:
                    self._path(old).unlink()

    def load(self, number: int, device: torch.device) -> Checkpoint:
        """Round `number` as it was saved."""
        text = self._read_text(number)
        with self._path(number).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            raw = RawParameters(
                *(torch.tensor(arrays[name], device=device) for name in RawParameters._fields)
            )
        ranges = ShRanges(Range(**text["ranges"]["dc"]), Range(**text["ranges"]["rest"]))
        return Checkpoint(TrainableModel(raw, ranges), [_round(done) for done in text["rounds"]])

    def clear(self) -> None:
        """Remove all rounds and the folder."""
        for number in self._numbers():
            self._path(number).unlink()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _numbers(self) -> list[int]:
        names = (path.stem.removeprefix("round_") for path in self._folder.glob("round_*.npz"))
        return sorted(int(name) for name in names if name.isdigit())

    def _path(self, number: int) -> Path:
        return self._folder / f"round_{number:03d}.npz"

    def _read_text(self, number: int) -> dict[str, Any]:
        try:
            with self._path(number).open("rb") as file, np.load(file, allow_pickle=False) as saved:
                return json.loads(str(saved["text"]))
        except (BadZipFile, KeyError, ValueError) as error:
            raise InputError(
                f"{self._path(number)} is no checkpoint of a round ({error}): remove it, or start "
                "anew with --restart"
            ) from error

    def _check_fingerprint(self, found: dict[str, Any]) -> None:
        names = sorted(self._fingerprint.keys() | found.keys())
        differing = [n for n in names if self._fingerprint.get(n) != found.get(n)]
        if differing:
            there = {name: found.get(name) for name in differing}
            here = {name: self._fingerprint.get(name) for name in differing}
            raise InputError(
                f"{self._folder} holds rounds of another run, with {there} instead of {here}: "
                "give the same settings to go on with it, or --restart to discard it"
            )


def _round(fields: dict[str, Any]) -> Round:
    measured = fields.pop("measurement")
    return Round(
        **{**fields, "guard": Quality(**fields["guard"])},
        measurement=measured and Measurement(Quality(**measured["test"]), measured["file_bytes"]),
    )
