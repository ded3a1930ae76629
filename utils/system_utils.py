# SPDX-License-Identifier: Apache-2.0
"""Folders of a model, and the device that holds the photos."""

import functools
import logging
import os
from pathlib import Path

import torch

from utils.errors import InputError

logger = logging.getLogger(__name__)


def mkdir_p(folder_path: str | os.PathLike[str]) -> None:
    """Makes `folder_path` and its parents where missing."""
    Path(folder_path).mkdir(parents=True, exist_ok=True)


def searchForMaxIteration(folder: str | os.PathLike[str]) -> int:
    """The highest N among the entries `iteration_N` of `folder`.

    Raises `InputError` where there is none. Other entries are passed over.
    """
    path = Path(folder)
    entries = path.iterdir() if path.is_dir() else ()
    numbers = [entry.name.rpartition("_")[2] for entry in entries if "_" in entry.name]
    iterations = [int(number) for number in numbers if number.isdecimal()]
    if not iterations:
        raise InputError(f"{path}: expected folders named iteration_<N>, found none")
    return max(iterations)


@functools.cache
def resolve_data_device(name: str, compute_device: torch.device) -> torch.device:
    """The device for photos that the option --data_device `name` asks for, if it can be had.

    Photos are kept on a GPU only where the computation is on one: otherwise every use would copy
    them back. Each departure from `name` is logged, once.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        logger.warning("--data_device %s is no device: photos are kept on %s", name, compute_device)
        return compute_device
    if device.type != "cpu" and compute_device.type != device.type:
        logger.info("Photos are kept on %s: no usable %s device", compute_device, device.type)
        return compute_device
    return device
