# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of rounds: on disk, the state to go on from.

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
from gaussian_compression.rounds import Round, round_from_json
from scene.raw_parameters import RawParameters
from utils.errors import InputError
from utils.files import atomic_path


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
            "ranges": checkpoint.model.ranges and asdict(checkpoint.model.ranges),
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
        ranges = text["ranges"] and ShRanges(
            Range(**text["ranges"]["dc"]), Range(**text["ranges"]["rest"])
        )
        return Checkpoint(
            TrainableModel(raw, ranges), [round_from_json(done) for done in text["rounds"]]
        )

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
