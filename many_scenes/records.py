# SPDX-License-Identifier: Apache-2.0
"""What is known of a scene: OUTPUT/scenes/NAME/record.json, from which a later run continues."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from many_scenes.scene_list import ListedScene
from utils.errors import InputError
from utils.files import write_json
from utils.json_values import from_json, read_json

WAITING, TRAINING, COMPRESSING = "waiting", "training", "compressing"
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"
MODEL_NAME = "compressed/model.f3dgs"
"""In the model folder."""
_NAME = "record.json"


@dataclass(frozen=True)
class Record:
    """The state of a scene."""

    scene: ListedScene
    """As it was listed."""
    state: str = WAITING
    tries: int = 0
    """Of all runs together."""
    message: str = ""
    """Why it failed."""
    host: str = ""
    """The machine of the last try."""
    training: tuple[str, ...] | None = None
    """The data set and the options of the training; None: none began."""
    training_minutes: float = 0.0
    """Of all tries together, as the next."""
    compressing_minutes: float = 0.0
    file: tuple[int, ...] = ()
    """Size, and time of the last change in nanoseconds, of the compressed file."""

    @property
    def minutes(self) -> float:
        """Of both programs."""
        return self.training_minutes + self.compressing_minutes

    def with_minutes(self, state: str, minutes: float) -> "Record":
        """With the minutes of a program, whose state is `state`, added."""
        if state == TRAINING:
            return replace(self, training_minutes=self.training_minutes + minutes)
        return replace(self, compressing_minutes=self.compressing_minutes + minutes)


def scene_folder(output: Path, name: str) -> Path:
    """The folder of a scene's record and log."""
    return output / "scenes" / name


def log_path(folder: Path) -> Path:
    """What the programs of a scene printed."""
    return folder / "log.txt"


def read_record(folder: Path, scene: ListedScene) -> Record:
    """The record of a scene; a new one where there is none, or for other entries of the list.

    A model that was trained stays so. InputError if the record cannot be read.
    """
    path = folder / _NAME
    try:
        found = from_json(Record, read_json(path))
        for minutes in (found.training_minutes, found.compressing_minutes):
            if minutes is None or not minutes >= 0:  # nor NaN
                raise ValueError(f"{minutes} minutes")
    except FileNotFoundError:
        return Record(scene)
    except (ValueError, InputError) as error:
        raise InputError(
            f"{path}: expected the record of a scene, got {error}: remove it to begin the scene "
            "again"
        ) from error
    if found.scene == scene:
        return found
    if found.scene.model != scene.model:
        return Record(scene)
    return Record(scene, training=found.training, training_minutes=found.training_minutes)


def write_record(folder: Path, record: Record) -> None:
    """Puts the record into the folder of the scene."""
    write_json(folder / _NAME, asdict(record))


def record_state(folder: Path) -> tuple[int, ...]:
    """What changes whenever the record of a scene is written; empty where there is none."""
    try:
        stat = (folder / _NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def file_state(model: Path) -> tuple[int, ...]:
    """Size and time of the compressed file; empty where there is none."""
    try:
        stat = (model / MODEL_NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return stat.st_size, stat.st_mtime_ns


def is_finished(record: Record) -> bool:
    """Whether nothing is left to do: the file is the one that was recorded."""
    return record.state == DONE and bool(record.file) and record.file == file_state(
        Path(record.scene.model)
    )  # fmt: skip
