# SPDX-License-Identifier: Apache-2.0
"""The iterations at which a training reports, writes files or turns on --debug."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arguments.ranges import Range, fault_of
from utils.errors import InputError

logger = logging.getLogger(__name__)

DEFAULT_ITERATIONS = [7_000, 30_000]
LISTS = ("test_iterations", "save_iterations", "checkpoint_iterations")


@dataclass(frozen=True)
class Milestones:
    """Iterations, counted from 1; -1: none."""

    test: frozenset[int]
    save: frozenset[int]
    checkpoint: frozenset[int]
    debug_from: int


def declare_milestones(parser: ArgumentParser) -> None:
    """Add the options to `parser`; an option given twice extends its list."""
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "type": int, "metavar": "N", "action": "extend"}
    add("--test_iterations", **several, help="iterations at which views are scored "
        "(default: 7000 30000); -1: none")  # fmt: skip
    add("--save_iterations", **several, help="iterations at which the model is saved "
        "(default: 7000 30000); it is always saved at the last one")  # fmt: skip
    add("--checkpoint_iterations", **several, help="iterations at which chkpnt<N>.pth is written")
    add("--debug_from", type=int, default=-1, help="turn --debug on after this iteration")


def milestones_of(args: Namespace, last: int) -> Milestones:
    """The given iterations; `last` also saves the model. InputError for a bad number."""
    for name in LISTS:
        _check_iterations(name, getattr(args, name) or (), last)
    if fault := fault_of("debug_from", args.debug_from, Range(least=-1, whole=True)):
        raise InputError(fault)
    return Milestones(
        test=frozenset(args.test_iterations or DEFAULT_ITERATIONS),
        save=frozenset([*(args.save_iterations or DEFAULT_ITERATIONS), last]),
        checkpoint=frozenset(args.checkpoint_iterations or ()),
        debug_from=args.debug_from,
    )


def _check_iterations(name: str, iterations: Sequence[int], last: int) -> None:
    """InputError for a bad number; a warning for iterations that are not reached."""
    for iteration in iterations:
        if fault := fault_of(name, iteration, Range(least=1, others=(-1,), whole=True)):
            raise InputError(fault)
    if late := [iteration for iteration in iterations if iteration > last]:
        numbers = " ".join(map(str, late))
        logger.warning("--%s %s: not reached, training ends at %d", name, numbers, last)
