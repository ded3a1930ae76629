# SPDX-License-Identifier: Apache-2.0
"""The folder that training writes, removed if training fails before it saves a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from arguments import CFG_ARGS_NAME
from utils.training_table import TABLE_NAME

# What training writes before its first result.
RECORDS = (CFG_ARGS_NAME, "cameras.json", "input.ply", TABLE_NAME, "events.out.tfevents.*")
RESULTS = ("point_cloud/iteration_*/point_cloud.ply", "chkpnt*.pth")


@contextmanager
def records_removed_on_failure(folder: Path, made: Collection[Path]) -> Iterator[None]:
    """Remove the records of a training that fails before it has saved a model in `folder`.

    Only if `folder` is one of those `made` by this run: an older one stays unchanged.
    """
    try:
        yield
    except BaseException:
        has_result = any(any(folder.glob(pattern)) for pattern in RESULTS)
        if folder.resolve() in made and not has_result:
            for path in [path for pattern in RECORDS for path in folder.glob(pattern)]:
                path.unlink()
        raise
