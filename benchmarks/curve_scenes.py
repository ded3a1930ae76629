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
ITERATIONS = {"snowmiku": 12_000, "fox": 10_000, "lego": 7000, "sample": 7000}
"""Of training: those of the trained models given, and of the models that are made."""
VALIDATION = "-validation"
"""In the names of scenes whose test views are the guard views of another one."""

Run = Callable[[Sequence[str], Path], str]
"""Runs a command with its messages in a log file; returns its standard output. InputError, with the
last message, if it fails."""


@dataclass(frozen=True)
class Step:
    """A command of this project that makes a file or folder."""

    output: Path
    command: tuple[str, ...]


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
    steps: tuple[Step, ...] = ()
    """What makes data set and model where they do not exist."""

    @property
    def loading(self) -> tuple[str, ...]:
        """The data set and how to load it, as flags."""
        resolution = () if self.resolution is None else ("-r", str(self.resolution))
        return ("-s", str(self.source), *self.flags, *resolution)


def known_scenes(data: Path, work: Path, lego_model: Path | None) -> dict[str, CurveScene]:
    """All scenes by name; `lego` only with a model of it."""
    held_out = ("--eval",)
    white = (*held_out, "-w")
    lego = CurveScene("lego", data / "lego", lego_model or work / "missing", white)
    given = [
        CurveScene("snowmiku", data / "snowmiku", data / "snowmiku_model", held_out, 2),
        CurveScene("fox", data / "fox", data / "fox_model", held_out, 2),
        _sample(work / "sample"),
    ]
    validation = [_validation(scene, work / "validation" / scene.name) for scene in (*given, lego)]
    scenes = [*given, *validation, *([] if lego_model is None else [lego])]
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
    """Makes what is missing of data set and model by the scene's steps; InputError without them."""
    for step in scene.steps:
        if not step.output.exists():
            run((sys.executable, *step.command), work / "logs" / f"{scene.name}.log")
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


def _sample(folder: Path) -> CurveScene:
    source = folder / "scene"
    make = (str(ROOT / "sample_scene.py"), str(source), "--views", str(SAMPLE_VIEWS))
    scene = CurveScene("sample", source, folder / "model", ("--eval",), 2)
    return replace(scene, steps=(Step(source, (*make, "--size", SAMPLE_SIZE)), _training(scene)))


def _validation(scene: CurveScene, folder: Path) -> CurveScene:
    """The scene without its test views, and with a model of its own; see validation_scene.py."""
    source = folder / "scene"
    script = str(ROOT / "benchmarks" / "validation_scene.py")
    found = replace(
        scene,
        name=f"{scene.name}{VALIDATION}",
        source=source,
        model=folder / "model",
        # COLMAP's reconstruction lists the test views, too.
        flags=(*scene.flags, "--skip_missing"),
    )
    data = tuple(step for step in scene.steps if step.output == scene.source)
    divide = Step(source, (script, str(scene.source), str(source)))
    training = _training(replace(found, name=scene.name))
    return replace(found, steps=(*data, divide, training))


def _training(scene: CurveScene) -> Step:
    number = str(ITERATIONS[scene.name])
    return Step(
        scene.model / "point_cloud" / f"iteration_{number}" / "point_cloud.ply",
        (
            str(ROOT / "train.py"),
            *(*scene.loading, "-m", str(scene.model)),
            *("--iterations", number, "--save_iterations", number),
            *("--test_iterations", "-1", "--disable_viewer"),
        ),
    )
