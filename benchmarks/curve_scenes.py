# SPDX-License-Identifier: Apache-2.0
"""The scenes of rate_distortion.py: data sets, trained models, and copies to work in."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.errors import InputError
from utils.files import atomic_folder

ROOT = Path(__file__).parents[1]
NOT_COPIED = frozenset({"compressed", "test", "train"})
"""Results of earlier runs in a model folder."""

SAMPLE_VIEWS, SAMPLE_SIZE = 96, "640x480"
"""Large and dense enough that highlights are seen: with the demo's, colours by direction, the
spherical harmonics, make no difference."""
SAMPLE_ITERATIONS = 7000

Run = Callable[[Sequence[str], Path], str]
"""Runs a command with its messages in a log file; returns its standard output. InputError, with the
last message, if it fails."""


@dataclass(frozen=True)
class CurveScene:
    """A data set and the trained model of it that is compressed."""

    name: str
    source: Path
    model: Path
    flags: tuple[str, ...]
    """Loading options, for training and compression."""
    resolution: int | None = None
    """`-r` of these commands."""
    steps: tuple[tuple[str, ...], ...] = ()
    """Commands that make data set and model where the model does not exist."""

    @property
    def loading(self) -> tuple[str, ...]:
        """The data set and how to load it, as flags."""
        resolution = () if self.resolution is None else ("-r", str(self.resolution))
        return ("-s", str(self.source), *self.flags, *resolution)


def known_scenes(data: Path, work: Path, lego_model: Path | None) -> dict[str, CurveScene]:
    """All scenes by name; `lego` only with a model of it."""
    sample = work / "sample"
    held_out = ("--eval",)
    scenes = [
        CurveScene("snowmiku", data / "snowmiku", data / "snowmiku_model", held_out, 2),
        CurveScene("fox", data / "fox", data / "fox_model", held_out, 2),
        _sample(sample / "scene", sample / "model"),
    ]
    if lego_model is not None:
        scenes.append(CurveScene("lego", data / "lego", lego_model, ("--eval", "-w")))
    return {scene.name: scene for scene in scenes}


def chosen_scenes(
    known: dict[str, CurveScene], names: Sequence[str], resolution: int | None
) -> list[CurveScene]:
    """The scenes of these names, at another resolution if one is given (`-r` of compress.py)."""
    for name in names:
        if name not in known:
            hint = " (lego needs --lego_model)" if name == "lego" else ""
            raise InputError(f"expected one of the scenes {', '.join(known)}{hint}, got {name!r}")
    scenes = [known[name] for name in dict.fromkeys(names)]
    if resolution is None:
        return scenes
    return [
        replace(scene, name=f"{scene.name}-r{resolution}", resolution=resolution)
        for scene in scenes
    ]


def prepare(scene: CurveScene, work: Path, run: Run) -> None:
    """Makes data set and model where `steps` make them; InputError where one is missing."""
    if not scene.model.is_dir():
        for step in scene.steps:
            run((sys.executable, *step), work / "logs" / f"{scene.name}.log")
    for path in (scene.source, scene.model):
        if not path.is_dir():
            raise InputError(f"scene {scene.name}: expected the folder {path}, not found")


def copy_model(scene: CurveScene, folder: Path) -> None:
    """A writable copy of the trained model, whole or not at all."""
    with atomic_folder(folder) as copy:
        for path in sorted(scene.model.rglob("*")):
            inside = path.relative_to(scene.model)
            if path.is_file() and inside.parts[0] not in NOT_COPIED:
                (copy / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / inside)


def _sample(source: Path, model: Path) -> CurveScene:
    make = (str(ROOT / "sample_scene.py"), str(source), "--views", str(SAMPLE_VIEWS))
    train = (str(ROOT / "train.py"), "-s", str(source), "-m", str(model), "--eval")
    iterations = str(SAMPLE_ITERATIONS)
    return CurveScene(
        "sample",
        source,
        model,
        ("--eval",),
        steps=(
            (*make, "--size", SAMPLE_SIZE),
            (*train, "--iterations", iterations, "--save_iterations", iterations,
             "--test_iterations", "-1", "--disable_viewer"),
        ),
    )  # fmt: skip
