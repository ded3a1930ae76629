# SPDX-License-Identifier: Apache-2.0
"""What torchrun, or another launcher, states in the environment. Standard library only."""

import os
from collections.abc import Mapping

from utils.errors import InputError

_PLACE = ("MASTER_ADDR", "MASTER_PORT")
"""Where the processes of a job meet."""


def rank_and_count(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The number of this process, from 0, and how many work together; (0, 1) without a launcher.

    InputError for values that no launcher sets.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return 0, 1
    rank, count = (_number(name, environment[name]) for name in ("RANK", "WORLD_SIZE"))
    if not rank < count:
        raise InputError(
            f"the environment variable RANK: expected a number below WORLD_SIZE, {count}, got "
            f"{rank}"
        )
    missing = [name for name in _PLACE if not environment.get(name)]
    if count > 1 and missing:
        raise InputError(
            f"the environment variable WORLD_SIZE is {count}, but {' and '.join(missing)} is not "
            "set: start several processes with torchrun, or unset WORLD_SIZE for one"
        )
    return rank, count


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(
            f"the environment variable {name}: expected a whole number from 0, as torchrun sets "
            f"it, got {text!r:.40}"
        )
    return int(text)
