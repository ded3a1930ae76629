# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of rounds: the state on disk from which a run continues.

One .npz file for each round, with arrays and a JSON text, read without pickle. Round 0 is the
unpruned model after the first fine-tuning. Every random choice of a round is seeded by its number,
so a run that was killed and continued writes the same bytes as an uninterrupted run, if machine and
software are the same. Other settings, another start model or other views give an InputError.
"""

import json
from collections.abc import Callable
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
from utils.files import atomic_path, remove_empty

BUDGET_NAME = "budget.json"
"""The choice for --budget_minutes (budget.py)."""

# Recorded by earlier versions instead of the photographs' contents.
_NO_LONGER_COMPARED = {"source_path"}


@dataclass(frozen=True)
class Checkpoint:
    """A round's model at full precision, and the figures of all rounds up to it."""

    model: TrainableModel
    rounds: list[Round]


class RoundFolder:
    """The checkpoints of one run; only a run with the same `fingerprint` can continue from them."""

    environments: list[dict[str, Any]]
    """Machine and software, each from its round `from_round` on; the last is the present one."""
    warnings: list[str]
    """Why the bytes may differ from those of an uninterrupted run; set by `latest`."""

    def __init__(
        self,
        folder: Path,
        fingerprint: dict[str, Any],
        keep_last: int | None = None,
        environment: dict[str, Any] | None = None,
        needed: Callable[[list[Round]], set[int]] = lambda rounds: set(),
    ) -> None:
        """The last `keep_last` rounds (None: all), and those `needed`, stay on disk."""
        self._folder = folder
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._environment = json.loads(json.dumps(environment or {}))
        self._keep_last, self._needed = keep_last, needed
        self.environments = [{"from_round": 0, **self._environment}]
        self.warnings = []

    def latest(self) -> int | None:
        """The highest round on disk; InputError if it belongs to a run with other settings."""
        numbers = _numbers(self._folder)
        if not numbers:
            return None
        text = self._read_text(numbers[-1])
        self._check_fingerprint(text["fingerprint"])
        self._continue_from(numbers[-1], text.get("environments", []))
        return numbers[-1]

    def has(self, number: int) -> bool:
        """Whether round `number` can be loaded."""
        return self._path(number).exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a round, and remove all but the last `keep_last` rounds and those needed."""
        number = checkpoint.rounds[-1].number
        text = {
            "fingerprint": self._fingerprint,
            "environments": self.environments,
            "ranges": checkpoint.model.ranges and asdict(checkpoint.model.ranges),
            "rounds": [asdict(done) for done in checkpoint.rounds],
        }
        arrays = {name: tensor.cpu().numpy() for name, tensor in checkpoint.model.raw.named()}
        with atomic_path(self._path(number)) as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, text=np.array(json.dumps(text)), **arrays)
        if self._keep_last is not None:
            needed = self._needed(checkpoint.rounds)
            for old in _numbers(self._folder):  # the new one is on disk
                if old <= number - self._keep_last and old not in needed:
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

    def _path(self, number: int) -> Path:
        return _round_path(self._folder, number)

    def _read_text(self, number: int) -> dict[str, Any]:
        try:
            with self._path(number).open("rb") as file, np.load(file, allow_pickle=False) as saved:
                return json.loads(str(saved["text"]))
        except (BadZipFile, KeyError, ValueError, RecursionError) as error:
            raise InputError(
                f"{self._path(number)}: expected the checkpoint of a round, but cannot read it "
                f"({error}): remove it, or start again with --restart"
            ) from error

    def _check_fingerprint(self, found: dict[str, Any]) -> None:
        unrecorded = sorted(self._fingerprint.keys() - found.keys())
        if unrecorded:
            self.warnings.append(
                f"{self._folder} was written by an earlier version, which did not record "
                f"{', '.join(unrecorded)}: if any of these has changed, two runs are mixed"
            )
        compared = found.keys() - _NO_LONGER_COMPARED
        differing = sorted(n for n in compared if self._fingerprint.get(n) != found[n])
        if differing:
            there = {name: found[name] for name in differing}
            here = {name: self._fingerprint.get(name) for name in differing}
            raise InputError(
                f"{self._folder} holds rounds of another run, with {there} instead of {here}: "
                "give the same settings to continue it, or --restart to discard it"
            )

    def _continue_from(self, number: int, earlier: list[dict[str, Any]]) -> None:
        """Takes over the earlier environments; adds a warning if the present one differs."""
        if not earlier:
            self.environments = [{"from_round": number + 1, **self._environment}]
            return
        before, now = _entries(earlier[-1]), _entries(self._environment)
        changes = [
            f"{name} was {before.get(name)}, is {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if name != "from_round" and before.get(name) != now.get(name)
        ]
        self.environments = list(earlier)
        if changes:
            self.environments.append({"from_round": number + 1, **self._environment})
            self.warnings.append(
                f"the rounds up to {number} were computed in another environment "
                f"({'; '.join(changes)}): the run continues, but the bytes of its file may differ "
                "from those of an uninterrupted run"
            )


def _entries(values: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names such as kernels.fused_ssim.version."""
    entries: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            entries |= _entries(value, f"{place}{name}.")
        else:
            entries[f"{place}{name}"] = value
    return entries


def clear_rounds(folder: Path) -> None:
    """Removes what a run keeps in `folder`, and the folder if it is then empty."""
    for number in _numbers(folder):
        _round_path(folder, number).unlink()
    (folder / BUDGET_NAME).unlink(missing_ok=True)
    remove_empty([folder])


def _numbers(folder: Path) -> list[int]:
    names = (path.stem.removeprefix("round_") for path in folder.glob("round_*.npz"))
    return sorted(int(name) for name in names if name.isdigit())


def _round_path(folder: Path, number: int) -> Path:
    return folder / f"round_{number:03d}.npz"
