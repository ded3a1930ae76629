# SPDX-License-Identifier: Apache-2.0
"""The folder that training writes: a run that comes to nothing leaves none behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arguments import CFG_ARGS_NAME
from utils.folder_lock import locked

# What training writes before there is anything to lose.
RECORDS = (CFG_ARGS_NAME, "cameras.json", "input.ply", "events.out.tfevents.*")
RESULTS = ("point_cloud/iteration_*/point_cloud.ply", "chkpnt*.pth")


@contextmanager
def removed_without_result(model_path: str | Path) -> Iterator[None]:
    """Lock the model folder; remove it if it was missing and the block saves no model in it.

    A folder that was there before is left as it is. InputError if another run is using it.
    """
    folder = Path(model_path).absolute()
    with locked(folder) as made:
        try:
            yield
        except BaseException:
            if made and not any(_has_files(folder, pattern) for pattern in RESULTS):
                _remove(folder)
            raise


def _has_files(folder: Path, pattern: str) -> bool:
    """Whether a file in `folder` matches `pattern`."""
    return any(folder.glob(pattern))


def _remove(folder: Path) -> None:
    """Remove the records in `folder`; the lock removes the folder, if it is empty."""
    for pattern in RECORDS:
        for path in folder.glob(pattern):
            path.unlink()
