# SPDX-License-Identifier: Apache-2.0
"""Several models of one run, each with another part of the start model's Gaussians.

Each step is a valid file, made of the run's rounds and finally fine-tuned alone. A finished step is
kept beside the rounds, so that an interrupted run does not repeat it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arguments.ranges import Range, fault_of
from gaussian_compression.report import LadderFigures
from splat_codec.errors import CorruptFile
from splat_codec.model_file import decode
from splat_formats.decoded import to_splats
from splat_formats.repairs import gaussians
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.files import write_bytes, write_json
from utils.json_values import from_json, read_json

_FOLDER = "ladder"
_PARTS = Range(above=0, most=100)


def ladder_parts(text: str | None) -> tuple[float, ...]:
    """The percentages in a text such as `50,25,12`, each once, from large to small.

    InputError for what is no percentage.
    """
    if text is None:
        return ()
    parts = []
    for word in text.split(","):
        try:
            parts.append(float(word))
        except ValueError as error:
            raise InputError(
                f"--ladder {text}: expected percentages with commas between them, such as 50,25,12"
                f", but got {word!r}"
            ) from error
        if fault := fault_of("ladder", parts[-1], _PARTS):
            raise InputError(fault)
    return tuple(sorted(set(parts), reverse=True))


def step_name(part: float) -> str:
    """The name of a step's file, in the folder of the compressed file."""
    return f"{_FOLDER}/{part:g}.f3dgs"


def step_count(part: float, start: int) -> int:
    """The number of Gaussians of a step, at least one."""
    return max(1, round(part / 100 * start))


@dataclass(frozen=True, eq=False)
class LadderStep:
    """A file, the model that it decodes to, and its figures."""

    data: bytes
    decoded: Splats
    figures: LadderFigures


@dataclass(frozen=True)
class _Record:
    depends_on: str
    sha256: str
    figures: LadderFigures


class StepFolder:
    """Finished steps on disk, valid for runs that depend on the same values."""

    def __init__(self, folder: Path, depends_on: dict[str, Any]) -> None:
        self._folder = folder
        text = json.dumps(depends_on, sort_keys=True)
        self._depends_on = hashlib.sha256(text.encode()).hexdigest()

    def load(self, part: float) -> LadderStep | None:
        """A finished step; None if there is none, or if it is not whole or of another run."""
        record_at, file_at = _paths(self._folder, part)
        try:
            record = from_json(_Record, read_json(record_at))
            data = file_at.read_bytes()
            if record.depends_on != self._depends_on or record.sha256 != _sha256(data):
                return None
            return LadderStep(data, to_splats(decode(data).splats), record.figures)
        except (FileNotFoundError, ValueError, InputError, CorruptFile):
            return None

    def step(
        self, part: float, make: Callable[[], LadderStep], note: Callable[[str], None]
    ) -> LadderStep:
        """The finished step, or one that is made and saved now; `note` gets a line about it."""
        step = self.load(part)
        if step is None:
            step = make()
            self.save(part, step)
        found = step.figures
        note(f"{found.file}: {gaussians(found.gaussians)}, {found.bytes:,} bytes")
        return step

    def save(self, part: float, step: LadderStep) -> None:
        """Writes a step: first the file, then the record that makes it valid."""
        record_at, file_at = _paths(self._folder, part)
        write_bytes(file_at, step.data)
        record = _Record(self._depends_on, _sha256(step.data), step.figures)
        write_json(record_at, asdict(record))


def clear_steps(folder: Path) -> None:
    """Removes the finished steps in the folder of the rounds."""
    for path in folder.glob("ladder_*"):
        part = path.stem.removeprefix("ladder_")
        if path.suffix in (".json", ".f3dgs") and part.replace(".", "", 1).isdigit():
            path.unlink()


def ladder_lines(steps: Sequence[LadderFigures]) -> list[str]:
    """A table of the steps for the terminal; nothing if there are none."""
    if not steps:
        return []
    head = f"  {'file':<22}{'Gaussians':>12}{'bytes':>12}{'guard PSNR':>12}{'test PSNR':>12}"
    return [head, *map(_line, steps)]


def _line(step: LadderFigures) -> str:
    guard, test = ("-" if psnr is None else f"{psnr:.3f}"
                   for psnr in (step.guard.psnr, step.test.psnr))  # fmt: skip
    return f"  {step.file:<22}{step.gaussians:>12,}{step.bytes:>12,}{guard:>12}{test:>12}"


def _paths(folder: Path, part: float) -> tuple[Path, Path]:
    return folder / f"ladder_{part:g}.json", folder / f"ladder_{part:g}.f3dgs"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
