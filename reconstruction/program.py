# SPDX-License-Identifier: Apache-2.0
"""The program that does the steps: `colmap`, or the package pycolmap with the same command line."""

import importlib.util
import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError

logger = logging.getLogger(__name__)

_BY_PYCOLMAP = Path(__file__).with_name("by_pycolmap.py")
# The group of the option use_gpu of each command: today's name, and an earlier one.
_GPU_GROUPS = {
    "feature_extractor": ("FeatureExtraction", "SiftExtraction"),
    "exhaustive_matcher": ("FeatureMatching", "SiftMatching"),
}


@dataclass(frozen=True)
class Program:
    """Something with COLMAP's command line."""

    name: str
    words: tuple[str, ...]
    """The start of every command."""

    def run(self, command: str, *arguments: str | Path, hint: str = "") -> None:
        """Runs one step; its messages go to the terminal. InputError if it fails."""
        words = [*self.words, command, *map(str, arguments)]
        logger.info("%s %s", self.name, command)
        try:
            status = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            raise InputError(f"{self.words[0]} cannot be started: {error.strerror}") from error
        if status:
            ended = f"status {status}" if status > 0 else f"signal {-status}"
            raise InputError(
                f"{self.name} {command} failed with {ended}; its messages are above{hint}"
            )

    def gpu_option(self, command: str) -> str:
        """The name of the option that chooses a GPU, which differs between versions of COLMAP."""
        words = [*self.words, command, "--help"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise InputError(f"{self.words[0]} cannot be started: {error.strerror}") from error
        text = done.stdout + done.stderr
        for group in _GPU_GROUPS[command]:
            if f"{group}.use_gpu" in text:
                return f"--{group}.use_gpu"
        names = " or ".join(f"{group}.use_gpu" for group in _GPU_GROUPS[command])
        raise InputError(
            f"{self.name}: expected `{command} --help` to list the option {names}, found neither"
        )


def find_program(executable: str) -> Program:
    """The `executable` if one is named, else `colmap` of the PATH, else pycolmap.

    InputError where there is none.
    """
    if executable:
        found = shutil.which(executable)
        if found is None:
            raise InputError(f"--colmap_executable {executable}: there is no such program")
        return Program(Path(executable).name, (found,))
    if found := shutil.which("colmap"):
        return Program("colmap", (found,))
    if importlib.util.find_spec("pycolmap") is not None:
        # -P: the folder of the file is not searched for modules.
        return Program("pycolmap", (sys.executable, "-P", str(_BY_PYCOLMAP)))
    raise InputError(
        "COLMAP is needed and was not found: `pip install pycolmap`, or install the program colmap "
        "and put it on the PATH or name it in --colmap_executable"
    )
