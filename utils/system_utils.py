# SPDX-License-Identifier: Apache-2.0
"""Folders of a model, and the device that holds the photos."""

import logging
import os
from pathlib import Path

import torch

from utils.errors import InputError
from utils.logged_once import log_once

logger = logging.getLogger(__name__)


def mkdir_p(folder_path: str | os.PathLike[str]) -> None:
    """Makes `folder_path` and its parents where missing."""
    Path(folder_path).mkdir(parents=True, exist_ok=True)


def searchForMaxIteration(folder: str | os.PathLike[str]) -> int:
    """The highest N among the entries `iteration_N` of `folder`.

    Raises `InputError` if there is none. Other entries are ignored.
    """
    path = Path(folder)
    entries = path.iterdir() if path.is_dir() else ()
    numbers = [entry.name.rpartition("_")[2] for entry in entries if "_" in entry.name]
    iterations = [int(number) for number in numbers if number.isdecimal()]
    if not iterations:
        raise InputError(f"{path}: expected folders named iteration_<N>, found none")
    return max(iterations)


def resolve_data_device(name: str, compute_device: torch.device) -> torch.device:
    """The device for photos that the option --data_device `name` selects, if it can be used.

    Photos are kept on a GPU only where the computation is on one: otherwise every use would copy
    them. A `name` that is no device is logged, once.
    """
    device = _device(name)
    if device is None:
        text = f"--data_device {name} is not a device: photos are kept on {compute_device}"
        log_once(logger, text, logging.WARNING)
        return compute_device
    return device if device.type in ("cpu", compute_device.type) else compute_device


def announce_data_device(given: str | None, compute_device: torch.device) -> None:
    """Log where photos are kept, if --data_device was `given` and that device cannot be used."""
    device = None if given is None else _device(given)
    if device is not None and device.type not in ("cpu", compute_device.type):
        log_once(logger, f"Photos are kept on {compute_device}: no usable {device.type} device")


def _device(name: str) -> torch.device | None:
    try:
        return torch.device(name)
    except RuntimeError:
        return None
