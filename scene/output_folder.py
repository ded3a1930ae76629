# SPDX-License-Identifier: Apache-2.0
"""The folder that training writes: a run that comes to nothing leaves none behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arguments import CFG_ARGS_NAME

# What training writes before there is anything to lose.
RECORDS = (CFG_ARGS_NAME, "cameras.json", "input.ply", "events.out.tfevents.*")
RESULTS = ("point_cloud/iteration_*/point_cloud.ply", "chkpnt*.pth")


@contextmanager
def removed_without_result(model_path: str | Path) -> Iterator[None]:
    """Remove the model folder if the block makes it and fails before a model is saved in it.

    A folder that was there before is left as it is.
    """
    folder = Path(model_path).absolute()
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if missing and not any(_has_files(folder, pattern) for pattern in RESULTS):
            _remove(folder, missing)
        raise


def _has_files(folder: Path, pattern: str) -> bool:
    """Whether a file in `folder` matches `pattern`."""
    return any(folder.glob(pattern))


def _remove(folder: Path, missing: list[Path]) -> None:
    """Remove the records in `folder`, then those of the `missing` folders that are empty."""
    for pattern in RECORDS:
        for path in folder.glob(pattern):
            path.unlink()
    with contextlib.suppress(OSError):  # somebody else has put a file there
        for path in missing:
            path.rmdir()
