# SPDX-License-Identifier: Apache-2.0
"""The files that train.py writes into a model folder."""

from pathlib import Path


def model_file(model: Path, iteration: int) -> Path:
    """The PLY of an iteration."""
    return model / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"


def last_checkpoint(model: Path, iterations: int) -> Path | None:
    """The checkpoint of the highest iteration before the last."""
    found = {}
    for path in model.glob("chkpnt*.pth"):
        number = path.stem.removeprefix("chkpnt")
        if number.isdecimal() and int(number) < iterations:
            found[int(number)] = path
    return found[max(found)] if found else None
