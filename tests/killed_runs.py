# SPDX-License-Identifier: Apache-2.0
"""Ends a script as `kill -9` does, once in every third stage, and runs it again each time.

    python killed_runs.py SCRIPT MODEL WORK -- ARGUMENTS...

A program of its own: it imports the script once, and each run is a fork of it, made before PyTorch
has threads. The runs have copies of the model folder, in WORK. MODEL may be missing, for training,
which is run again from its newest checkpoint. Prints a JSON list: for each of these stages its
name, the status of the run after the kill, and whether that run ended with the same bytes as a run
that nothing interrupted.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
MOST_STAGES, EVERY = 60, 3
FIRST = {"compress": 3, "train": 1}
"""So that the stages that change the model are among them."""


def forked(action: Callable[[], None]) -> int:
    """Runs the action in a process of its own; its exit status, negative for a signal."""
    process = os.fork()
    if process == 0:
        try:
            action()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Runs:
    """Runs of a script in copies of a model folder."""

    def __init__(self, script: str, model: Path, work: Path, arguments: list[str]) -> None:
        self.main = importlib.import_module(script).main
        self.model, self.work, self.arguments = model, work, arguments

    def copy(self, name: str) -> Path:
        folder = self.work / name
        if self.model.exists():
            shutil.copytree(self.model, folder)
        return folder

    def run(self, folder: Path, killed_in: int = 0, more: tuple[str, ...] = ()) -> tuple[int, str]:
        """The exit status, and the name of the stage in which the run was killed."""
        note = self.work / "stage.txt"
        note.write_text("")

        def action() -> None:
            from utils.cli import run

            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if killed_in:
                kill_in_stage(killed_in, note)
            sys.argv = ["script.py", "-m", str(folder), *self.arguments, *more]
            run(self.main)

        return forked(action), note.read_text()


def kill_in_stage(number: int, note: Path) -> None:
    """Kills this process in the middle of the stage of this number, counted from 1."""
    from tqdm import tqdm

    begun = 0
    update, init = tqdm.update, tqdm.__init__

    def counted(bar: tqdm, *args: object, **kwargs: object) -> None:
        nonlocal begun
        begun += 1
        init(bar, *args, **kwargs)
        bar.stage_number = begun

    def checked(bar: tqdm, *args: object) -> bool | None:
        result = update(bar, *args)
        if bar.stage_number == number and bar.n >= (bar.total or 0) / 2:
            note.write_text(str(bar.desc))
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    tqdm.__init__, tqdm.update = counted, checked


def result_of(folder: Path) -> str:
    """A hash of the compressed file and of all models in the folder."""
    total = hashlib.sha256()
    files = [*folder.glob("compressed/*.f3dgs"), *folder.glob("point_cloud/*/*.ply")]
    for file in sorted(files):
        total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest() if files else "no files"


def newest_checkpoint(folder: Path) -> tuple[str, ...]:
    """The flag to continue training, if there is a checkpoint."""
    found = sorted(folder.glob("chkpnt*.pth"), key=lambda path: int(path.stem[len("chkpnt") :]))
    return ("--start_checkpoint", str(found[-1])) if found else ()


def main() -> None:
    script, model, work, _, *arguments = sys.argv[1:]
    runs = Runs(script, Path(model), Path(work), arguments)
    undisturbed = runs.copy("undisturbed")
    assert runs.run(undisturbed) == (0, "")
    expected, found = result_of(undisturbed), []
    for number in range(FIRST[script], MOST_STAGES, EVERY):
        folder = runs.copy(f"stage_{number}")
        status, stage = runs.run(folder, killed_in=number)
        if status != -signal.SIGKILL:
            assert (status, result_of(folder)) == (0, expected)
            break
        again, _ = runs.run(folder, more=newest_checkpoint(folder) if script == "train" else ())
        found.append([stage, again, result_of(folder) == expected])
        shutil.rmtree(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
